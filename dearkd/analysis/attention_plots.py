"""Plotly figures of attention over epochs and depth, from ``metrics.jsonl`` and ``analysis.json``.

Distances are in patches. Runs in one figure have colours and dashes in their order, or by the
numbers that a page gives them (``styles``).
"""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import plotly.graph_objects as go
from plotly.colors import sample_colorscale

from dearkd.errors import UserError
from dearkd.pages.plots import (
    BELOW,
    GREY,
    Line,
    curve,
    curves,
    mark_switches,
    themed,
    whole_ticks,
)

__all__ = [
    "average_distance_by_epoch",
    "distance_by_block",
    "distance_by_epoch",
    "token_cosine_by_depth",
]

DEPTH_SCALE = ["#2f78dc", "#8664e6", "#cf4fb4", "#e0523f", "#c98000"]
"""Colours from the first to the last block, all readable on the white and on the dark page."""
DISTANCE = "attention distance (patches)"
Distances = Sequence[Sequence[float]]
"""Attention distances by block, then by head."""


def distance_by_epoch(
    metrics: Sequence[Mapping[str, Any]],
    switches: Mapping[float, str] | None = None,
    mhca_blocks: int = 0,
) -> go.Figure:
    """Attention distance of every block, averaged over its heads, against the epoch.

    ``metrics`` are the lines of ``metrics.jsonl``; those without the measure are left out.
    ``switches``: epochs, counted from 1, where a stage begins, and its name. The colour is that of
    the block, grey the mean of all. If the first ``mhca_blocks`` are MHCA, the others are dashed.

    Raises:
        UserError: If no line has the measure.
    """
    lines = _measured(metrics)
    epochs = [line["epoch"] + 1 for line in lines]
    blocks = np.asarray([np.mean(line["attention_distance"], axis=1) for line in lines])
    figure = go.Figure()
    for block, (values, colour) in enumerate(
        zip(blocks.T, _depth_colours(blocks.shape[-1]), strict=True)
    ):
        dash = "dash" if 0 < mhca_blocks <= block else "solid"
        trace = curve(f"block {block + 1}", epochs, values, colour, dash)
        figure.add_trace(trace.update(showlegend=False))
    mean = curve("all blocks", epochs, blocks.mean(axis=1), GREY, "dot")
    figure.add_trace(mean.update(line={"width": 3.5}))
    figure.add_traces(_kinds_of_blocks(mhca_blocks, blocks.shape[-1]))
    figure.add_trace(_depth_bar(blocks.shape[-1]))
    figure.update_xaxes(title_text="epoch", dtick=whole_ticks(epochs))
    figure.update_yaxes(title_text=DISTANCE)
    figure.update_layout(hovermode="x unified", showlegend=True, legend=BELOW)
    mark_switches(figure, switches or {})
    return themed(figure, height=400)


def average_distance_by_epoch(
    runs: Mapping[str, Sequence[Mapping[str, Any]]],
    styles: Mapping[str, int] | None = None,
) -> go.Figure:
    """Attention distance, averaged over blocks and heads, against the epoch: a curve for each run.

    Source:
        Chen et al. 2022 (DearKD), https://arxiv.org/abs/2204.12997, figure 4.

    Raises:
        UserError: If no line of a run has the measure.
    """
    lines = []
    for name, style in _styles(runs, styles):
        measured = _measured(runs[name])
        means = [float(np.mean(line["attention_distance"])) for line in measured]
        lines.append(Line(name, [line["epoch"] + 1 for line in measured], means, style))
    return curves(lines, y_title=DISTANCE)


def distance_by_block(
    runs: Mapping[str, Distances], styles: Mapping[str, int] | None = None
) -> go.Figure:
    """Attention distance against the block: a dot for each head, a line through the blocks' means.

    Each run has a colour.
    """
    figure = go.Figure()
    for name, style in _styles(runs, styles):
        distances, blocks = runs[name], list(range(1, len(runs[name]) + 1))
        mean = Line(name, blocks, [float(np.mean(heads)) for heads in distances], style)
        dots = [(block, value) for block, heads in enumerate(distances, 1) for value in heads]
        heads = go.Scatter(
            x=[block for block, _ in dots],
            y=[value for _, value in dots],
            mode="markers",
            marker={"color": mean.colour, "size": 6, "opacity": 0.55},
            name=f"{name}, a head",
            text=[f"head {n}" for heads in distances for n in range(1, len(heads) + 1)],
            hovertemplate="block %{x}, %{text}: %{y:.2f} patches<extra></extra>",
            showlegend=False,
        )
        figure.add_traces([heads, curve(name, mean.x, mean.y, mean.colour, mean.dash)])
    figure.update_xaxes(title_text="block", dtick=1)
    figure.update_yaxes(title_text=DISTANCE, rangemode="tozero")
    figure.update_layout(showlegend=len(runs) > 1, legend=BELOW)
    return themed(figure)


def token_cosine_by_depth(
    runs: Mapping[str, Sequence[float]], styles: Mapping[str, int] | None = None
) -> go.Figure:
    """Cosine of class and distillation token against depth: the input is 0, then every block."""
    figure = curves(
        [
            Line(name, list(range(len(runs[name]))), list(runs[name]), style)
            for name, style in _styles(runs, styles)
        ],
        x_title="after block (0: the input)",
        y_title="cosine of class and distillation token",
    )
    figure.update_xaxes(dtick=1)
    figure.update_layout(showlegend=len(runs) > 1, legend=BELOW)
    return figure


def _measured(metrics: Sequence[Mapping[str, Any]]) -> list[Mapping[str, Any]]:
    """The epochs that logged an attention distance.

    Raises:
        UserError: If none did.
    """
    lines = [line for line in metrics if line.get("attention_distance")]
    if not lines:
        raise UserError("no line of metrics.jsonl has attention_distance; train again to log it")
    return lines


def _styles(runs: Mapping[str, Any], styles: Mapping[str, int] | None) -> list[tuple[str, int]]:
    """Each run's name and the number of its colour: the given one, or its place in the order."""
    return [(name, place if styles is None else styles[name]) for place, name in enumerate(runs)]


def _depth_colours(count: int) -> list[str]:
    return sample_colorscale(DEPTH_SCALE, [n / max(1, count - 1) for n in range(count)])


def _kinds_of_blocks(mhca_blocks: int, depth: int) -> list[go.Scatter]:
    """Entries of the legend that explain the dashes; empty if all blocks are of one kind."""
    if not 0 < mhca_blocks < depth:
        return []
    kinds = {
        f"MHCA: blocks 1-{mhca_blocks}": "solid",
        f"MHSA: blocks {mhca_blocks + 1}-{depth}": "dash",
    }
    return [
        go.Scatter(x=[None], y=[None], mode="lines", name=name, line={"color": GREY, "dash": dash})
        for name, dash in kinds.items()
    ]


def _depth_bar(depth: int) -> go.Scatter:
    """A colour bar of the blocks, as a trace without points."""
    colours = _depth_colours(depth)
    edges = [(n / depth, (n + 1) / depth) for n in range(depth)]
    steps = [(x, colour) for pair, colour in zip(edges, colours, strict=True) for x in pair]
    bar = {
        "title": {"text": "block"},
        "thickness": 12,
        "outlinewidth": 0,
        "tickvals": sorted({1, *range(depth, 0, -max(1, depth // 6))}),
    }
    marker = {"color": [1], "cmin": 0.5, "cmax": depth + 0.5, "colorscale": steps, "colorbar": bar}
    return go.Scatter(
        x=[None], y=[None], mode="markers", name="scale", marker=marker, showlegend=False
    )

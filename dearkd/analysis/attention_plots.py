"""Plotly figures of attention measures, from ``metrics.jsonl`` and ``analysis.json``.

Distances are in patches. Runs in one figure have colours and dashes in their order, or by the
numbers that a page gives them (``styles``).
"""

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import plotly.graph_objects as go
from plotly.colors import sample_colorscale
from plotly.subplots import make_subplots

from dearkd.errors import UserError
from dearkd.pages.plots import (
    COLOURS,
    GREY,
    Line,
    curve,
    curves,
    mark_switches,
    themed,
    whole_ticks,
)
from dearkd.said import counted

__all__ = [
    "average_distance_by_epoch",
    "distance_by_block",
    "distance_by_epoch",
    "position_heads",
    "reach_of",
    "reliability_diagram",
    "token_cosine_by_depth",
]

DEPTH_SCALE = ["#2f78dc", "#8664e6", "#cf4fb4", "#e0523f", "#c98000"]
"""Colours from the first to the last block, all readable on the white and on the dark page."""
ACROSS = 4
"""Panels side by side."""
PANEL = 190  # pixels
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
    figure.update_layout(hovermode="x unified", showlegend=True, legend=_LEGEND)
    mark_switches(figure, switches or {})
    return themed(figure, height=400)


def average_distance_by_epoch(
    runs: Mapping[str, Sequence[Mapping[str, Any]]],
    switches: Mapping[float, str] | None = None,
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
    return curves(lines, y_title=DISTANCE, switches=switches)


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
    figure.update_layout(showlegend=len(runs) > 1, legend=_LEGEND)
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
    figure.update_layout(showlegend=len(runs) > 1, legend=_LEGEND)
    return figure


def position_heads(position: Sequence[Mapping[str, Any]], grid: Sequence[int]) -> go.Figure:
    """A panel for each MHCA block: the places its heads look at, relative to a patch (the square).

    A circle with radius sigma, one standard deviation, surrounds the place that a head looks at; a
    head with alpha <= 0 looks at no place and has a cross. ``position`` holds ``alpha``, ``sigma``
    and ``centres`` (rows down, columns right, in patches) of each block, as in ``analysis.json``.
    """
    down = math.ceil(len(position) / ACROSS)
    titles = [f"block {number}" for number in range(1, len(position) + 1)]
    figure = make_subplots(
        rows=down,
        cols=min(ACROSS, len(position)),
        subplot_titles=titles,
        horizontal_spacing=0.02,
        vertical_spacing=0.12 / down,
    )
    for number, block in enumerate(position):
        row, column = number // ACROSS + 1, number % ACROSS + 1
        figure.add_trace(_query_patch(), row=row, col=column)
        for head in range(len(block["alpha"])):
            figure.add_trace(_head_ring(block, head), row=row, col=column)
    reach = reach_of(position, grid)
    ticks = {"dtick": 1 if reach <= 6 else 2, "showticklabels": False, "zeroline": False}
    figure.update_xaxes(range=[-reach, reach], constrain="domain", **ticks)
    figure.update_yaxes(range=[reach, -reach], constrain="domain", **ticks)
    figure.for_each_yaxis(lambda axis: axis.update(scaleanchor=axis.anchor))  # square patches
    figure.update_annotations(font_size=12)
    figure.update_layout(showlegend=False, hovermode="closest")
    return themed(figure, height=PANEL * down + 30)


def reach_of(position: Sequence[Mapping[str, Any]], grid: Sequence[int]) -> float:
    """Patches from the middle to the border of a picture that shows all heads.

    Circles wider than half the grid may be cut off.
    """
    reach = 1.0
    for block in position:
        for (down, right), sigma in zip(block["centres"], block["sigma"], strict=True):
            width = sigma if sigma is not None and sigma <= max(grid) / 2 else 0.0
            reach = max(reach, abs(down) + width, abs(right) + width)
    return min(max(grid) - 0.5, math.ceil(reach) + 0.5)


def reliability_diagram(heads: Mapping[str, Mapping[str, Any]]) -> go.Figure:
    """Accuracy against confidence, both in [0, 1], a point for each bin of each head.

    On the diagonal a head is right as often as its confidence says. ``heads`` has ``reliability``
    and ``ece`` of each head by name, as in ``analysis.json``.
    """
    figure = go.Figure(
        go.Scatter(
            x=[0, 1],
            y=[0, 1],
            mode="lines",
            name="calibrated",
            line={"color": GREY, "dash": "dot", "width": 1.5},
            hoverinfo="skip",
        )
    )
    for style, (name, head) in enumerate(heads.items()):
        confidence, accuracy, count = np.asarray(head["reliability"]).T
        colour = COLOURS[style % len(COLOURS)]
        points = curve(f"{name} (ECE {head['ece']:.3f})", confidence, accuracy, colour)
        points.update(
            text=[counted(int(n), "image") for n in count],
            hovertemplate="says %{x:.2f}, is right %{y:.2f}, %{text}<extra></extra>",
            marker={"size": (4 + 14 * np.sqrt(count / count.sum())).tolist()},
        )
        figure.add_trace(points)
    figure.update_xaxes(title_text="confidence", range=[0, 1.02])
    figure.update_yaxes(title_text="accuracy", range=[0, 1.02])
    figure.update_layout(legend=_LEGEND)
    return themed(figure, height=360)


_LEGEND = {"orientation": "h", "y": -0.2, "yanchor": "top", "x": 0}


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


def _faint(colour: str) -> str:
    """A hex colour, nearly transparent."""
    red, green, blue = (int(colour[start : start + 2], 16) for start in (1, 3, 5))
    return f"rgba({red}, {green}, {blue}, 0.12)"


def _query_patch() -> go.Scatter:
    """The square around the patch that the heads look from."""
    x, y = [-0.5, 0.5, 0.5, -0.5, -0.5], [-0.5, -0.5, 0.5, 0.5, -0.5]
    line = {"color": GREY, "width": 1.5}
    return go.Scatter(x=x, y=y, mode="lines", line=line, hoverinfo="skip")


def _head_ring(block: Mapping[str, Any], head: int) -> go.Scatter:
    """The circle of a head, or its cross."""
    (down, right), sigma = block["centres"][head], block["sigma"][head]
    colour, alpha = COLOURS[head % len(COLOURS)], block["alpha"][head]
    width = "no width" if sigma is None else f"sigma {sigma:.2f}"
    label = f"head {head + 1}: {down:+.2f} down, {right:+.2f} right, {width} (alpha {alpha:.2f})"
    if sigma is None:
        marker = {"symbol": "x-thin-open", "color": colour, "size": 8}
        return go.Scatter(
            x=[right], y=[down], mode="markers", marker=marker, hoverinfo="text", text=label
        )
    turn = np.linspace(0, 2 * np.pi, 49)
    return go.Scatter(
        x=(right + sigma * np.cos(turn)).round(3).tolist(),
        y=(down + sigma * np.sin(turn)).round(3).tolist(),
        mode="lines",
        line={"color": colour, "width": 1.5},
        fill="toself",
        fillcolor=_faint(colour),
        hoveron="fills",
        hoverinfo="text",
        text=label,
    )

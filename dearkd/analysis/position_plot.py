"""The Plotly figure of where heads of MHCA blocks look, from ``analysis.json``."""

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import plotly.graph_objects as go
from plotly.subplots import make_subplots

from dearkd.pages.plots import COLOURS, GREY, themed

__all__ = ["position_heads", "reach_of"]

ACROSS = 4
"""Panels side by side."""
PANEL = 190  # pixels


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

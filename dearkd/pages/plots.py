"""Plotly figures of curves, bars and confusion matrices, and the look that all figures share.

A figure has no colours of its own for paper, text and grid: the page applies
``templates()["light"]`` or ``["dark"]`` to it, by the mode of the reader's device.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import numpy as np
import plotly.graph_objects as go
from numpy.typing import NDArray

__all__ = [
    "BELOW",
    "COLOURS",
    "DASHES",
    "GREY",
    "INK",
    "Line",
    "bars",
    "confusion",
    "curve",
    "curves",
    "mark_switches",
    "stage_switches",
    "templates",
    "themed",
    "whole_ticks",
]

COLOURS = (
    "#3f7fd9",
    "#d9660a",
    "#1a9e6b",
    "#a05fd6",
    "#d64550",
    "#1697b0",
    "#cf4f9c",
    "#8a8a1e",
)
"""Colours of the runs, in order; each has a contrast of 3:1 to the white and the dark page."""
DASHES = ("solid", "dash", "dot", "dashdot")
"""Dash patterns of the runs, in order: for print in black, and for colour-blind readers."""
GREY = "#8792a2"
BELOW = {"orientation": "h", "y": -0.2, "yanchor": "top", "x": 0}
"""A legend in a row below the figure."""
HEIGHT = 280  # pixels
WHOLE = 10  # on an axis of at most this range plotly sets ticks between whole numbers
MARKED = 60  # a curve of more points has no markers
INK = {
    "light": {"text": "#1c2430", "grid": "#e2e6ec", "label": "#ffffff"},
    "dark": {"text": "#e6e9ee", "grid": "#323a45", "label": "#1a2027"},
}
SCALES = {
    "light": ((0, "#ffffff"), (0.35, "#a9c8f0"), (1, "#123f82")),
    "dark": ((0, "#1a2027"), (0.35, "#24508f"), (1, "#b9d6ff")),
}


@dataclass(frozen=True)
class Line:
    """A named curve; ``style`` numbers its colour and dash, the same in every figure of a page."""

    name: str
    x: Sequence[float]
    y: Sequence[float]
    style: int = 0
    low: Sequence[float] | None = None
    """Lower edge of a band around the curve, given together with ``high``."""
    high: Sequence[float] | None = None
    """Upper edge of the band."""

    @property
    def colour(self) -> str:
        """The colour of its style."""
        return COLOURS[self.style % len(COLOURS)]

    @property
    def dash(self) -> str:
        """The dash pattern of its style; a colour that is used again gets another one."""
        return DASHES[(self.style + self.style // len(COLOURS)) % len(DASHES)]


def templates() -> dict[str, Any]:
    """The plotly templates ``light`` and ``dark``: colours and fonts, transparent background."""
    return {mode: _template(mode).to_plotly_json() for mode in INK}


def themed(figure: go.Figure, *, height: int = HEIGHT) -> go.Figure:
    """The figure, changed to the shared look: light template, small margins, flexible width."""
    figure.update_layout(template=_template("light"), height=height, autosize=True)
    return figure


def curves(
    lines: Sequence[Line],
    *,
    y_title: str = "",
    x_title: str = "epoch",
    switches: Mapping[float, str] | None = None,
    switch_styles: Mapping[float, int] | None = None,
) -> go.Figure:
    """Curves in one panel, without a legend: the page has one for all its figures.

    ``switches`` are places on the x axis that are marked with a name; ``switch_styles`` gives some
    of them the style of a curve, whose colour the mark then takes.
    """
    figure = go.Figure()
    for line in lines:
        if line.low is not None and line.high is not None:
            figure.add_trace(_band(line))
        figure.add_trace(curve(line.name, line.x, line.y, line.colour, line.dash))
    figure.update_layout(showlegend=False, hovermode="x unified")
    figure.update_xaxes(
        title_text=x_title, dtick=whole_ticks([x for line in lines for x in line.x])
    )
    figure.update_yaxes(title_text=y_title)
    mark_switches(figure, switches or {}, switch_styles or {})
    return themed(figure)


def curve(
    name: str, x: Sequence[float], y: Sequence[float], colour: str, dash: str = "solid"
) -> go.Scatter:
    """A line through points; with at most ``MARKED`` points each has a marker."""
    return go.Scatter(
        x=np.asarray(x).tolist(),
        y=np.asarray(y).tolist(),
        name=name,
        mode="lines+markers" if len(x) <= MARKED else "lines",
        line={"color": colour, "dash": dash, "width": 2},
        marker={"size": 5},
    )


def whole_ticks(values: Sequence[float]) -> int | None:
    """1, the distance of ticks on an axis of small range; None, plotly's own choice, on others."""
    return 1 if values and max(values) - min(values) <= WHOLE else None


def stage_switches(metrics: Sequence[Mapping[str, Any]]) -> dict[float, str]:
    """The epochs, counted from 1, between which a further stage begins, and its name.

    ``metrics`` are the lines of ``metrics.jsonl``.
    """
    return {
        before["epoch"] + 1.5: str(after["stage"]).replace("stage", "stage ")
        for before, after in pairwise(metrics)
        if before["stage"] != after["stage"]
    }


def mark_switches(
    figure: go.Figure, switches: Mapping[float, str], styles: Mapping[float, int] | None = None
) -> None:
    """Draws a dotted vertical line with a name where a stage begins.

    It is grey, or has the colour of the style that ``styles`` gives.
    """
    for x, name in switches.items():
        colour = COLOURS[styles[x] % len(COLOURS)] if styles and x in styles else GREY
        figure.add_vline(
            x=x,
            line={"dash": "dot", "width": 1.5, "color": colour},
            annotation={"text": name, "font": {"size": 11}, "yanchor": "bottom", "y": 1},
            annotation_position="top",
        )


def confusion(
    counts: NDArray[np.int64], class_names: Sequence[str], *, height: int = 420
) -> go.Figure:
    """Confusion matrix of ``counts`` (classes, classes): labels are rows, predictions columns.

    The number in a cell is that of its images, the colour their share of the row.
    """
    share = counts / np.maximum(1, counts.sum(axis=1, keepdims=True))
    names = [str(name) for name in class_names]
    figure = go.Figure(
        go.Heatmap(
            z=share,
            x=names,
            y=names,
            text=counts,
            texttemplate="%{text}" if len(names) <= 12 else None,
            textfont={"size": 10},
            hovertemplate="label %{y}<br>read as %{x}<br>%{text} images, %{z:.1%}<extra></extra>",
            zmin=0,
            zmax=1,
            autocolorscale=True,
            showscale=False,
            xgap=1,
            ygap=1,
        )
    )
    figure.update_xaxes(title_text="read as", type="category", showgrid=False)
    figure.update_yaxes(title_text="label", type="category", autorange="reversed", showgrid=False)
    return themed(figure, height=height)


def bars(
    names: Sequence[str], values: Mapping[str, Sequence[float]], *, y_title: str, x_title: str = ""
) -> go.Figure:
    """Bars over ``names``, side by side for each key of ``values``, which the legend names."""
    figure = go.Figure(
        [
            go.Bar(
                x=list(names),
                y=list(heights),
                name=name,
                marker={"color": COLOURS[number % len(COLOURS)], "line": {"width": 0}},
            )
            for number, (name, heights) in enumerate(values.items())
        ]
    )
    figure.update_layout(
        barmode="group",
        bargap=0.25,
        showlegend=len(values) > 1,
        legend={"orientation": "h", "y": 1.02, "yanchor": "bottom", "x": 0},
    )
    figure.update_xaxes(title_text=x_title, type="category", showgrid=False)
    figure.update_yaxes(title_text=y_title, rangemode="tozero")
    return themed(figure)


def _band(line: Line) -> go.Scatter:
    """The filled area between the lower and upper edge, which goes by the curve's name."""
    assert line.low is not None
    assert line.high is not None
    return go.Scatter(
        x=[*line.x, *reversed(line.x)],
        y=[*line.high, *reversed(line.low)],
        fill="toself",
        fillcolor=line.colour,
        name=line.name,
        showlegend=False,
        opacity=0.15,
        line={"width": 0},
        hoverinfo="skip",
    )


def _template(mode: str) -> go.layout.Template:
    ink = INK[mode]
    axis = {
        "gridcolor": ink["grid"],
        "linecolor": ink["grid"],
        "zerolinecolor": ink["grid"],
        "zerolinewidth": 1,
        "automargin": True,
        "title": {"standoff": 8},
    }
    return go.layout.Template(
        layout={
            "paper_bgcolor": "rgba(0,0,0,0)",
            "plot_bgcolor": "rgba(0,0,0,0)",
            "font": {"family": "system-ui, sans-serif", "size": 12, "color": ink["text"]},
            "colorway": list(COLOURS),
            "colorscale": {"sequential": [list(stop) for stop in SCALES[mode]]},
            "hoverlabel": {"bgcolor": ink["label"], "font": {"color": ink["text"]}},
            "margin": {"l": 8, "r": 12, "t": 28, "b": 8},
            "xaxis": axis,
            "yaxis": axis,
        }
    )

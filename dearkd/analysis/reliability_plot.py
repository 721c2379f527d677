"""The Plotly figure of how far confidence can be trusted, from ``analysis.json``."""

from collections.abc import Mapping
from typing import Any

import numpy as np
import plotly.graph_objects as go

from dearkd.pages.plots import BELOW, COLOURS, GREY, curve, themed
from dearkd.said import counted

__all__ = ["reliability_diagram"]


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
    figure.update_layout(legend=BELOW)
    return themed(figure, height=360)

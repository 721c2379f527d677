"""Draws a study's figures, as `dearkd report` shows them, in one SVG for a page like RESULTS.md.

    pip install matplotlib
    python scripts/study_figures.py scripts/results/studies/few_images.json \
        --titles L_hidden "Attention distance" --out scripts/results/few_images_curves.svg

A figure is taken by how its title begins; without --titles all are drawn.
"""

import argparse
import textwrap
from pathlib import Path

import matplotlib.pyplot as plt

from dearkd.pages.page import Plot, Plots
from dearkd.report.study_chapter import study_section
from dearkd.run_folder.record import read_record

MARKED = 12
"""Points up to which a curve shows them."""
TITLE = 44
"""Characters that fit above a panel in one line."""
DASHES = {"solid": "-", "dash": "--", "dot": ":", "dashdot": "-."}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("record", type=Path)
    parser.add_argument("--titles", nargs="+", default=[""], help="how their titles begin")
    parser.add_argument("--out", type=Path, required=True)
    args = parser.parse_args()
    blocks = study_section(read_record(args.record)).blocks
    plots = [plot for block in blocks if isinstance(block, Plots) for plot in block.plots]
    chosen = [plot for title in args.titles for plot in plots if plot.title.startswith(title)]
    if not chosen:
        parser.error(f"no such figure; there are: {'; '.join(plot.title for plot in plots)}")
    plt.rcParams |= {"svg.fonttype": "none", "svg.hashsalt": "dearkd", "font.size": 8}
    figure, panels = plt.subplots(
        1, len(chosen), figsize=(3.4 * len(chosen), 3.2), layout="constrained", squeeze=False
    )
    for axes, plot in zip(panels[0], chosen, strict=True):
        draw(axes, plot)
    curves = max((axes.get_legend_handles_labels() for axes in panels[0]), key=lambda c: len(c[1]))
    figure.legend(*curves, loc="outside lower center", ncols=3, frameon=False)
    figure.savefig(args.out, metadata={"Date": None})
    print(args.out)


def draw(axes: plt.Axes, plot: Plot) -> None:
    """The curves of a figure, and their bands."""
    for trace in plot.figure.data:
        if trace.fill:
            axes.fill(trace.x, trace.y, color=trace.fillcolor, alpha=0.15, linewidth=0)
        else:
            line = {"color": trace.line.color, "linestyle": DASHES[trace.line.dash]}
            axes.plot(trace.x, trace.y, label=trace.name, linewidth=1.4, **line)
            if len(trace.x) <= MARKED:
                axes.plot(trace.x, trace.y, "o", color=trace.line.color, markersize=3)
    layout = plot.figure.layout
    axes.set_title(textwrap.fill(plot.title, TITLE), fontsize=8)
    axes.set_xlabel(layout.xaxis.title.text)
    axes.set_ylabel(layout.yaxis.title.text)
    if layout.xaxis.type == "log":
        axes.set_xscale("log")
    axes.grid(alpha=0.25)
    axes.spines[["top", "right"]].set_visible(False)


if __name__ == "__main__":
    main()

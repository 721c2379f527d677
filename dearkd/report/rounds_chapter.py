"""The chapter on runs in rounds: what each round added and reached, and the curve over rounds."""

from collections.abc import Sequence
from typing import Any

from dearkd.pages.page import Block, Legend, Plot, Plots, Section, Table
from dearkd.pages.plots import Line, curves
from dearkd.report.contents import Report, Run
from dearkd.said import number, seconds_text

__all__ = ["rounds_section"]

MEASURES = {
    "top1": "Top-1 on the evaluation images, %",
    "teacher_agreement": "Agreement with the teacher on training views, share",
    "loss": "Loss on training views",
}
"""What is drawn over the rounds."""
TITLES = (
    *("run", "round", "new images", "recognised by the teacher", "trained on", "epochs"),
    *("top-1 %", "agrees with the teacher", "loss", "making", "training"),
)


def rounds_section(report: Report) -> Section | None:
    """A table with a row for each round, and what was reached over the rounds as curves.

    None where no run was made in rounds.
    """
    runs = [run for run in report.runs if run.rounds]
    if not runs:
        return None
    rows = [[run.name, *_cells(entry)] for run in runs for entry in run.rounds]
    blocks: list[Block] = [Table(TITLES, rows)]
    drawn = [(key, title, _lines(report, runs, key)) for key, title in MEASURES.items()]
    plots = [
        Plot(curves(lines, x_title="round"), title)
        for _, title, lines in drawn
        if any(len(line.x) > 1 for line in lines)
    ]
    if plots:
        blocks += [Legend([(run.name, report.style_of(run)) for run in runs]), Plots(plots)]
    lead = (
        "No image was given: each round makes images from the teacher alone, against the student "
        "of the round before, and trains on all images so far."
    )
    return Section("Rounds", blocks, lead)


def _cells(entry: dict[str, Any]) -> list[str]:
    """A round as a row of the table."""
    return [
        str(entry.get("round", "")),
        number(entry.get("new_images"), ","),
        number(entry.get("recognition"), ".1%"),
        number(entry.get("train_images"), ","),
        number(entry.get("epochs"), ","),
        number(entry.get("top1"), ".2f"),
        number(entry.get("teacher_agreement"), ".1%"),
        number(entry.get("loss"), ".4f"),
        seconds_text(entry.get("set_seconds")),
        seconds_text(entry.get("seconds")),
    ]


def _lines(report: Report, runs: Sequence[Run], key: str) -> list[Line]:
    """A measure over the rounds, for each run that has it in every round."""
    lines = []
    for run in runs:
        values = [entry.get(key) for entry in run.rounds]
        known = [value for value in values if value is not None]
        if len(known) == len(values):
            places = range(1, len(values) + 1)
            lines.append(Line(run.name, list(places), known, report.style_of(run)))
    return lines

"""The chapter on curves: accuracy and every logged loss over the epochs."""

import re
from collections.abc import Sequence
from typing import Any

from dearkd.pages.page import Block, Legend, Note, Plot, Plots, Section, Table
from dearkd.pages.plots import Line, curves
from dearkd.report.contents import Group, Report, Run
from dearkd.said import data_name

__all__ = ["NO_CURVES", "TERMS", "curve_section", "run_plot", "switch_marks", "term_title"]

TERMS = {
    "top1": "Accuracy on the evaluation images, %",
    "class": "Loss of the class token on the label",
    "distillation": "Loss of the distillation token",
    "class_distillation": "Loss of the class token on the teacher",
    "hidden": "L_hidden: distance to the teacher's features",
    "loss": "Total loss",
    "teacher_agreement": "Agreement with the teacher on training views",
    "lr": "Learning rate",
}
"""Titles of the numbers of ``metrics.jsonl``, in the order of the page; other terms follow."""
NO_CURVES = {"epoch", "stage", "seconds", "images_per_second", "data_wait", "top5"}
"""Numbers of ``metrics.jsonl`` that other chapters show."""


def curve_section(report: Report) -> Section:
    """Accuracy and every logged loss over the epochs, all runs of a group in one figure."""
    blocks: list[Block] = []
    for group in report.groups:
        if len(report.groups) > 1:
            blocks.append(Note(f"Judged on {data_name(group.evaluation)}:"))
        plots = [run_plot(report, group, key, title) for key, title in _terms(group).items()]
        if drawn := [plot for plot in plots if plot is not None]:
            blocks.append(Plots(drawn))
        blocks += _logged_once(report, group)
    if any(isinstance(block, Plots) for block in blocks):
        blocks.insert(0, Legend([(run.name, report.style_of(run)) for run in report.runs]))
    return Section("Curves", blocks, _switch_sentence(report))


def _terms(group: Group) -> dict[str, str]:
    """Titles of all numbers that may have a plot: those in ``TERMS``, then any others logged."""
    lines = [line for run in group.runs for line in run.metrics]
    numbers = {key for line in lines for key in line if _has_number(line, key)}
    return TERMS | {key: term_title(key) for key in sorted(numbers - TERMS.keys() - NO_CURVES)}


def term_title(key: str) -> str:
    """The title of a number of ``metrics.jsonl``."""
    if pair := re.fullmatch(r"hidden_(\d+)", key):
        return f"L_hidden of pair {int(pair[1]) + 1}"
    return TERMS.get(key, f"Term {key}")


def switch_marks(report: Report, runs: Sequence[Run]) -> tuple[dict[float, str], dict[float, int]]:
    """Two mappings from the epochs where a further stage begins.

    The first is to the name of the stage, the second to the style of the run, where it is only one.
    """
    owners: dict[float, list[Run]] = {}
    names: dict[float, str] = {}
    for run in runs:
        for x, name in run.switches.items():
            owners.setdefault(x, []).append(run)
            names[x] = name
    styles = {x: report.style_of(found[0]) for x, found in owners.items() if len(found) == 1}
    return names, styles


def run_plot(report: Report, group: Group, key: str, title: str) -> Plot | None:
    """One logged number of all runs of a group; None where no run logged it twice."""
    lines = _lines(report, group, key)
    if not _are_curves(lines):
        return None
    logged = [run for run in group.runs if any(line.name == run.name for line in lines)]
    switches, styles = switch_marks(report, logged)
    return Plot(curves(lines, switches=switches, switch_styles=styles), title)


def _switch_sentence(report: Report) -> str:
    """A sentence on what the dotted lines mark; empty if no run has a second stage."""
    rounds = [run.name for run in report.runs if run.switches and run.rounds]
    staged = [run for run in report.runs if run.switches and not run.rounds]
    names = [run.name for run in staged]
    more = f"Uprights of {', '.join(rounds)} mark its rounds." if rounds else ""
    if not names:
        return more
    whose = f" of {', '.join(names)}" if len(names) < len(report.runs) else ""
    text = f"A dotted upright marks where stage 2{whose} begins: from then on labels alone"
    unlabelled = [run.name for run in staged if not run.has_labels]
    text += f" (the teacher's for {', '.join(unlabelled)})." if unlabelled else "."
    for run in report.runs:
        if run.is_switched_by_rule and run.switches:
            stage1 = sum(line["stage"] == "stage1" for line in run.metrics)
            text += f" Of {run.name} the hidden loss decided that, after epoch {stage1}"
            text += f" of {run.planned}."
    return f"{text} {more}".rstrip()


def _logged_once(report: Report, group: Group) -> list[Block]:
    """A table of the numbers that were logged once: a row for each, a column for each run."""
    found = {title: _lines(report, group, key) for key, title in _terms(group).items()}
    single = {title: lines for title, lines in found.items() if lines and not _are_curves(lines)}
    names = [run.name for run in group.runs]
    rows = []
    for title, lines in single.items():
        values = {line.name: f"{line.y[0]:.4g}" for line in lines}
        rows.append([title, *[values.get(name, "") for name in names]])
    return [Table(["", *names], rows, "Logged once, so there is no curve")] if rows else []


def _lines(report: Report, group: Group, key: str) -> list[Line]:
    """The curve of a logged number over the epochs, for each run that has it."""
    lines = []
    for run in group.runs:
        points = [(line["epoch"] + 1, line[key]) for line in run.metrics if _has_number(line, key)]
        if points:
            x, y = zip(*points, strict=True)
            lines.append(Line(run.name, x, y, report.style_of(run)))
    return lines


def _are_curves(lines: Sequence[Line]) -> bool:
    return any(len(line.x) > 1 for line in lines)


def _has_number(line: dict[str, Any], key: str) -> bool:
    return isinstance(line.get(key), int | float)

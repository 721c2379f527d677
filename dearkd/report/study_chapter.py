"""The chapter on a study: its tables, and curves with bands over the seeds."""

from collections.abc import Callable, Iterator, Sequence
from itertools import pairwise
from statistics import fmean, stdev
from typing import Any

from dearkd.pages.page import Block, Legend, Note, Plot, Plots, Section, Table, page
from dearkd.pages.plots import Line, curves
from dearkd.report.curves_chapter import NO_CURVES, TERMS, term_title
from dearkd.report.study_tables import notes, study_tables
from dearkd.run_folder.record import Entry, Record

__all__ = ["study_page", "study_section"]

BLOCKS: dict[str, tuple[str, Callable[[Sequence[float]], float]]] = {
    "attention_distance": ("Attention distance, mean of all blocks, in patches", fmean),
    "token_cosine": ("Cosine of the two tokens after the last block", lambda values: values[-1]),
}
"""Titles of what is logged for every block, and the number that a curve has of it."""
BANDS = "A curve is the mean over the seeds; its band is one standard deviation to each side."


def study_page(record: Record) -> str:
    """A page on a study alone, as HTML."""
    return page(f"dearkd sweep: {record.study.name}", [], [study_section(record)])


def study_section(record: Record) -> Section:
    """The tables of a study and its curves, from its record alone."""
    blocks: list[Block] = [Table(t.titles, t.rows) for t in study_tables(record)]
    blocks += [Note(note) for note in notes(record)]
    groups = dict(_groups(record))
    if (growth := _growth(record)) is not None:
        blocks += [Legend([(arm, n) for n, arm in enumerate(record.study.arms)]), Plots([growth])]
    plots = [plot for key in _terms(record) if (plot := _plot(groups, key)) is not None]
    if plots:
        names = [(name, style) for style, name in enumerate(groups)]
        blocks += [Legend(names), Note(BANDS), Plots(plots)]
    return Section(f"Study {record.study.name}", blocks)


def _growth(record: Record) -> Plot | None:
    """Top-1 over the number of training images, a curve an arm; None where all have as many."""
    lines = []
    for style, arm in enumerate(record.study.arms):
        found: dict[int, list[float]] = {}
        for entry in record.of_study():
            summary = entry["summary"]
            if entry["arm"] == arm and summary.get("top1") is not None:
                found.setdefault(summary["train_images"], []).append(summary["top1"])
        x = sorted(found)
        means = [fmean(found[images]) for images in x]
        spreads = [stdev(found[images]) if len(found[images]) > 1 else 0.0 for images in x]
        low = [mean - spread for mean, spread in zip(means, spreads, strict=True)]
        high = [mean + spread for mean, spread in zip(means, spreads, strict=True)]
        lines.append(Line(arm, x, means, style, low, high))
    if all(len(line.x) < 2 for line in lines):
        return None
    figure = curves(lines, x_title="training images", y_title="top-1, %")
    figure.update_xaxes(type="log", dtick=None)
    return Plot(figure, "What more images are worth: top-1 over their number", BANDS)


def _groups(record: Record) -> Iterator[tuple[str, list[Entry]]]:
    """The finished runs of each arm, by what the arm is called among those of all fractions."""
    study = record.study
    for fraction in study.fractions:
        share = "" if fraction is None else f", {100 * fraction:g} %"
        for arm in study.arms:
            found = (record.find(arm, fraction, seed) for seed in study.seeds)
            if entries := [entry for entry in found if entry is not None]:
                yield arm + share, entries


def _terms(record: Record) -> list[str]:
    """The numbers that have a curve: those with a title first."""
    logged = {
        key
        for entry in record.entries
        for key, values in entry["curve"].items()
        if any(_number(key, value) is not None for value in values)
    }
    known = [key for key in (*TERMS, *BLOCKS) if key in logged]
    return known + sorted(logged - TERMS.keys() - BLOCKS.keys() - NO_CURVES)


def _plot(groups: dict[str, list[Entry]], key: str) -> Plot | None:
    lines = [
        line
        for style, (name, entries) in enumerate(groups.items())
        if (line := _line(name, [_points(entry, key) for entry in entries], style)) is not None
    ]
    if all(len(line.x) < 2 for line in lines):
        return None
    title = BLOCKS[key][0] if key in BLOCKS else term_title(key)
    return Plot(curves(lines, switches=_switches(groups)), title)


def _line(name: str, runs: Sequence[dict[int, float]], style: int) -> Line | None:
    """Mean and band over the runs, in the epochs that all of them have."""
    epochs = sorted(set.intersection(*(set(run) for run in runs)))
    if not epochs:
        return None
    means = [fmean(run[epoch] for run in runs) for epoch in epochs]
    x = [epoch + 1 for epoch in epochs]
    if len(runs) == 1:
        return Line(name, x, means, style)
    spreads = [stdev(run[epoch] for run in runs) for epoch in epochs]
    low = [mean - spread for mean, spread in zip(means, spreads, strict=True)]
    high = [mean + spread for mean, spread in zip(means, spreads, strict=True)]
    return Line(name, x, means, style, low, high)


def _points(entry: Entry, key: str) -> dict[int, float]:
    curve = entry["curve"]
    values = [_number(key, value) for value in curve.get(key, [])]
    pairs = zip(curve["epoch"], values, strict=False)
    return {epoch: value for epoch, value in pairs if value is not None}


def _switches(groups: dict[str, list[Entry]]) -> dict[float, str]:
    """Where a further stage begins in any run."""
    found = {}
    for entries in groups.values():
        for entry in entries:
            stages = zip(entry["curve"]["epoch"], entry["curve"]["stage"], strict=True)
            for (epoch, before), (_, after) in pairwise(stages):
                if before != after:
                    found[epoch + 1.5] = str(after).replace("stage", "stage ")
    return found


def _number(key: str, value: Any) -> float | None:
    """What a curve shows of a logged value; None where it is no number."""
    if key in BLOCKS and value:
        return BLOCKS[key][1](value)
    return value if isinstance(value, int | float) else None

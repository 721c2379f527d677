"""The chapter on results: accuracy over seeds and of each run."""

from typing import Any

from dearkd.pages.page import Block, Cell, Details, Note, Section, Table
from dearkd.report.configurations import configurations, over_seeds, seed_cells, seed_titles
from dearkd.report.contents import Group, Report, Run
from dearkd.report.headline import group_name, image_kind
from dearkd.report.rows import result_row
from dearkd.said import counted, data_name, delta_text, number

__all__ = ["result_section"]

HEADS = ("class", "distillation", "logits", "softmax")
SEEDS_NOTE = (
    "The interval is Student's, of the differences paired by seed: coloured differences are those "
    "whose interval leaves out 0. What other evaluation images would change is not in it."
)


def result_section(report: Report) -> Section:
    """Tables of accuracy, with differences between runs on the same evaluation images alone."""
    blocks: list[Block] = [
        Note(f"{run.name}: {note}.", warning=True) for run in report.runs for note in run.notes
    ]
    for group in report.groups:
        seeds = over_seeds(group)
        if seeds:
            blocks += [_seed_table(seeds), Note(SEEDS_NOTE)]
        blocks += [Note(one.note, warning=True) for one in configurations(group) if one.note]
        blocks.append(_result_table(report, group, is_decided=not seeds))
        if (text := _uncertainty(group, is_decided=not seeds)) is not None:
            blocks.append(Note(text))
        if any(len(run.summary.get("heads", {})) > 1 for run in group.runs):
            blocks.append(Details("Top-1 by each way of reading the two heads", [_heads(group)]))
    return Section("Results", blocks)


def _result_table(report: Report, group: Group, *, is_decided: bool) -> Table:
    """A row for each run. Differences are coloured if no table over seeds decides them."""
    base = group.baseline
    against = "difference" if base is None else f"against {base.name}"
    titles = ["run", "top-1 %", against, "top-5 %", "network", "trained on", "images"]
    best = max((run.top1 or 0.0 for run in group.students), default=None) if is_decided else None
    rows = []
    for run in group.runs:
        row = result_row(run, group)
        rows.append(
            [
                Cell(run.name, style=report.style_of(run), below=_learned_by(run, group)),
                _top1_cell(run, best),
                _delta_cell(run, group, is_decided),
                number(row["top5"], ".2f"),
                row["student"] or "",
                _trained_on(report, row["data"]),
                number(row["train_images"], ","),
            ]
        )
    return Table(titles, rows, f"Judged on {group_name(group)}", left=(4, 5))


def _learned_by(run: Run, group: Group) -> str:
    return run.learned_by + (" (teacher)" if group.is_teacher(run) else "")


def _trained_on(report: Report, data: str | None) -> str:
    synthetic = any(data is not None and item.is_at(data) for item in report.sets)
    return "" if data is None else data_name(data) + (" (synthetic)" if synthetic else "")


def _top1_cell(run: Run, best: float | None) -> str | Cell:
    text = number(run.top1, ".2f")
    if not run.finished:
        return Cell(f"{text} so far" if text else "", tone="muted")
    return Cell(text, tone="best") if run.top1 == best else text


def _delta_cell(run: Run, group: Group, is_decided: bool) -> Cell:
    if run is group.baseline:
        return Cell("baseline", tone="muted")
    delta = group.delta(run)
    if delta is None:
        return Cell("not compared", tone="muted")
    clear = is_decided and abs(delta[0]) > 2 * delta[1]
    tone = ("good" if delta[0] > 0 else "bad") if clear else ""
    tone = "muted" if group.is_teacher(run) else tone
    return Cell(delta_text(delta).replace("+-", "\u00b1"), tone=tone)


def _uncertainty(group: Group, *, is_decided: bool) -> str | None:
    if group.images is None or not any(group.delta(run) for run in group.runs):
        return None
    kind = image_kind(group)
    text = (
        f"One {kind} is {100 / group.images:.2g} points. \u00b1 is the standard error that "
        f"{counted(group.images, kind)} leave to a difference of two runs"
    )
    if is_decided:
        return (
            f"{text}; coloured differences exceed twice that. What another seed would change is "
            "not in it."
        )
    return f"{text}; what another seed changes is in the table over seeds."


def _seed_table(rows: list[dict[str, Any]]) -> Table:
    """A row for each configuration: method below the name, interval below the difference."""
    tones = {True: "good", False: "bad"}
    cells: list[list[str | Cell]] = []
    for row in rows:
        name, learned_by, mean, points, interval, *rest = seed_cells(row)
        shown = row["verdict"] == "decided"
        tone = tones[row["difference"] > 0] if shown else ""
        first = Cell(name, below="" if name == learned_by else learned_by)
        cells.append([first, mean, Cell(points, tone, below=interval), *rest])
    name, _, mean, points, interval, *rest = seed_titles(rows)
    return Table([name, mean, f"{points}, {interval}", *rest], cells, left=(5,))


def _heads(group: Group) -> Table:
    rows = []
    for run in group.runs:
        heads = run.summary.get("heads", {})
        rows.append([run.name, *[number(heads.get(h, {}).get("top1"), ".2f") for h in HEADS]])
    return Table(["run", "class", "distillation", "mean of logits", "sum of softmax"], rows)

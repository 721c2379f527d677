"""The chapters on runs: results, curves, settings, costs, and where the numbers come from."""

import json
from collections.abc import Sequence
from typing import Any

import yaml  # type: ignore[import-untyped, unused-ignore]

from dearkd.pages.page import Block, Cell, Details, Legend, Note, Plot, Plots, Section, Table
from dearkd.pages.plots import Line, curves
from dearkd.report.configurations import configurations, over_seeds, seed_cells, seed_titles
from dearkd.report.contents import Group, Report, Run
from dearkd.report.headline import group_name
from dearkd.report.rows import config_difference, result_row
from dearkd.said import counted, data_name, delta_text, number, seconds_text

__all__ = [
    "curve_section",
    "origin_section",
    "result_section",
    "settings_section",
    "switch_marks",
]

TERMS = {
    "top1": "Accuracy on the test images, %",
    "class": "Loss of the class token on the label",
    "distillation": "Loss of the distillation token",
    "hidden": "L_hidden: distance to the teacher's features",
    "loss": "Total loss",
    "teacher_agreement": "Agreement with the teacher on training views",
    "lr": "Learning rate",
}
"""What ``metrics.jsonl`` logs, in the order of the page."""
SEEDS_NOTE = (
    "The interval is Student's, of the differences paired by seed: coloured differences are those "
    "whose interval leaves out 0. What other test images would change is not in it."
)
HEADS = ("class", "distillation", "logits", "softmax")


def result_section(report: Report) -> Section:
    """Who reached what, best first named; differences only within the same test images."""
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


def curve_section(report: Report) -> Section:
    """Accuracy and every logged loss over the epochs, all runs of a group in one figure."""
    blocks: list[Block] = [legend(report)]
    for group in report.groups:
        if len(report.groups) > 1:
            blocks.append(Note(f"Judged on {data_name(group.evaluation)}:"))
        plots = [_plot(report, group, key, title) for key, title in TERMS.items()]
        blocks.append(Plots([plot for plot in plots if plot is not None]))
        blocks += _logged_once(report, group)
    return Section("Curves", blocks, _switch_sentence(report))


def settings_section(report: Report) -> Section:
    """What ran: the settings in which the runs differ, and each run's own in full."""
    known = [run for run in report.runs if run.config]
    difference = config_difference(known)
    blocks: list[Block] = []
    if difference:
        titles = ["setting", *[run.name for run in known]]
        rows = [[key, *map(_setting, values)] for key, values in difference.items()]
        blocks.append(Table(titles, rows, left=range(1, len(titles))))
    blocks += [
        Details(f"{run.name}: all settings", text=yaml.safe_dump(run.config, sort_keys=False))
        for run in known
    ]
    lead = "Only settings that differ between the runs are listed." if difference else ""
    if len(known) > 1 and not difference:
        lead = "All runs have the same settings."
    return Section("What ran", blocks, lead)


def origin_section(report: Report) -> Section:
    """Time, memory and throughput, then versions, hardware, seed and the command to repeat."""
    rows = [(run, result_row(run, report.group_of(run))) for run in report.runs]
    cost = Table(
        ["run", "time", "images/s", "peak memory", "parameters", "device", "threads", "arithmetic"],
        [[_named(report, run), *_cost_cells(row)] for run, row in rows],
    )
    origin = Table(
        ["run", "seed", "commit", "dearkd", "torch", "timm", "python", "repeat with"],
        [[_named(report, run), *_origin_cells(run, row)] for run, row in rows],
        left=range(1, 8),
    )
    throughput = [
        _plot(report, group, "images_per_second", "Training throughput, images/s")
        for group in report.groups
    ]
    return Section("Cost and origin", [cost, Plots([plot for plot in throughput if plot]), origin])


def _switch_sentence(report: Report) -> str:
    names = [run.name for run in report.runs if run.switches]
    if not names:
        return ""
    whose = f" of {', '.join(names)}" if len(names) < len(report.runs) else ""
    return f"A dotted upright marks where stage 2{whose} begins: from then on labels alone."


def switch_marks(report: Report, runs: Sequence[Run]) -> tuple[dict[float, str], dict[float, int]]:
    """Where further stages begin: their names, and the style of a run that is alone there."""
    owners: dict[float, list[Run]] = {}
    names: dict[float, str] = {}
    for run in runs:
        for x, name in run.switches.items():
            owners.setdefault(x, []).append(run)
            names[x] = name
    styles = {x: style(report, found[0]) for x, found in owners.items() if len(found) == 1}
    return names, styles


def legend(report: Report) -> Legend:
    """The runs with their colours."""
    return Legend([(run.name, style(report, run)) for run in report.runs])


def style(report: Report, run: Run) -> int:
    """The number of a run's colour and dash, the same all over the page."""
    return report.runs.index(run)


def _result_table(report: Report, group: Group, *, is_decided: bool) -> Table:
    """A row a run; differences have a colour where no table over seeds decides."""
    base = group.baseline
    against = "difference" if base is None else f"against {base.name}"
    titles = ["run", "top-1 %", against, "top-5 %", "learned by", "network", "trained on", "images"]
    best = max((run.top1 or 0.0 for run in group.students), default=None)
    rows = []
    for run in group.runs:
        row = result_row(run, group)
        rows.append(
            [
                _named(report, run),
                _top1_cell(run, best),
                _delta_cell(run, group, is_decided),
                number(row["top5"], ".2f"),
                run.learned_by + (" (teacher)" if group.is_teacher(run) else ""),
                row["student"] or "",
                _trained_on(report, row["data"]),
                number(row["train_images"], ","),
            ]
        )
    return Table(titles, rows, f"Judged on {group_name(group)}", left=(4, 5, 6))


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
    clear = is_decided and abs(delta[0]) >= 2 * delta[1]
    tone = ("good" if delta[0] > 0 else "bad") if clear else ""
    tone = "muted" if group.is_teacher(run) else tone
    return Cell(delta_text(delta).replace("+-", "\u00b1"), tone=tone)


def _uncertainty(group: Group, *, is_decided: bool) -> str | None:
    if group.images is None or not any(group.delta(run) for run in group.runs):
        return None
    text = (
        f"One test image is {100 / group.images:.2g} points. \u00b1 is the standard error that "
        f"{counted(group.images, 'test image')} leave to a difference of two runs"
    )
    if is_decided:
        return (
            f"{text}; coloured differences exceed twice that. What another seed would change is "
            "not in it."
        )
    return f"{text}; what another seed changes is in the table over seeds."


def _seed_table(rows: list[dict[str, Any]]) -> Table:
    cells: list[list[str | Cell]] = [list(seed_cells(row)) for row in rows]
    for row, line in zip(rows, cells, strict=True):
        if row["verdict"] == "difference shown":
            line[5] = Cell(str(line[5]), tone="good" if row["difference"] > 0 else "bad")
    return Table(seed_titles(rows), cells, "Over seeds", left=(1, 7))


def _heads(group: Group) -> Table:
    rows = []
    for run in group.runs:
        heads = run.summary.get("heads", {})
        rows.append([run.name, *[number(heads.get(h, {}).get("top1"), ".2f") for h in HEADS]])
    return Table(["run", "class", "distillation", "mean of logits", "sum of softmax"], rows)


def _plot(report: Report, group: Group, key: str, title: str) -> Plot | None:
    """One logged number of all runs of a group; None where no run logged it twice."""
    lines = _lines(report, group, key)
    if not _are_curves(lines):
        return None
    logged = [run for run in group.runs if any(line.name == run.name for line in lines)]
    switches, styles = switch_marks(report, logged)
    return Plot(curves(lines, switches=switches, switch_styles=styles), title)


def _logged_once(report: Report, group: Group) -> list[Block]:
    """The numbers that make no curve, in a line a run."""
    found = {title: _lines(report, group, key) for key, title in TERMS.items()}
    single = {title: lines for title, lines in found.items() if lines and not _are_curves(lines)}
    said: dict[str, list[str]] = {}
    for title, lines in single.items():
        for line in lines:
            said.setdefault(line.name, []).append(f"{title}: {line.y[0]:.4g}")
    return [Note(f"{name}, measured once. {'. '.join(parts)}.") for name, parts in said.items()]


def _lines(report: Report, group: Group, key: str) -> list[Line]:
    lines = []
    for run in group.runs:
        points = [(line["epoch"] + 1, line[key]) for line in run.metrics if _has_number(line, key)]
        if points:
            x, y = zip(*points, strict=True)
            lines.append(Line(run.name, x, y, style(report, run)))
    return lines


def _are_curves(lines: Sequence[Line]) -> bool:
    return any(len(line.x) > 1 for line in lines)


def _has_number(line: dict[str, Any], key: str) -> bool:
    return isinstance(line.get(key), int | float)


def _named(report: Report, run: Run) -> Cell:
    return Cell(run.name, style=style(report, run))


def _cost_cells(row: dict[str, Any]) -> list[str]:
    memory = row["peak_memory_bytes"]
    return [
        seconds_text(row["seconds"]),
        number(row["images_per_second"], ",.0f"),
        "not recorded" if memory is None else f"{memory / 2**30:.2f} GiB",
        number(row["parameters"], ","),
        row["device"] or "",
        " x ".join(str(row[key]) for key in ("processes", "threads") if row[key]),
        row["precision"] or "",
    ]


def _origin_cells(run: Run, row: dict[str, Any]) -> list[str]:
    keys = ("seed", "commit", "dearkd", "torch", "timm", "python")
    again = f"dearkd train {run.path}/config.yaml --out NEW" if run.config else ""
    return [*["" if row[key] is None else str(row[key]) for key in keys], again]


def _setting(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value)

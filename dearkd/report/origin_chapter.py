"""The chapters on settings, and on costs, versions and hardware."""

import json
from typing import Any

import yaml  # type: ignore[import-untyped, unused-ignore]

from dearkd.pages.page import Block, Cell, Details, Note, Plots, Section, Table
from dearkd.report.contents import ARITHMETIC, Report, Run
from dearkd.report.curves_chapter import run_plot
from dearkd.report.rows import config_difference, result_row
from dearkd.run_folder.folder import CONFIG_FILE, ROUNDS_FILE
from dearkd.said import command, number, seconds_text, size_text

__all__ = ["origin_section", "settings_section"]

COST_TITLES = (
    *("run", "time", "images/s", "data wait", "peak memory", "parameters", "device", "threads"),
)


def settings_section(report: Report) -> Section:
    """The settings in which the runs differ, and all settings of each run."""
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
    """Time, memory, throughput and hardware; seed, versions and the command to repeat each run."""
    rows = [(run, result_row(run, report.group_of(run))) for run in report.runs]
    cost = Table(
        [*COST_TITLES, "student's arithmetic", "teacher's"],
        [[_named(report, run), *_cost_cells(run, row)] for run, row in rows],
        left=(6, 8, 9),
    )
    origin = Table(
        ["run", "seed", "commit", "dearkd", "torch", "timm", "python", "repeat with"],
        [[_named(report, run), *_origin_cells(run, row)] for run, row in rows],
        left=range(1, 8),
    )
    throughput = [
        run_plot(report, group, "images_per_second", "Training throughput, images/s")
        for group in report.groups
    ]
    drawn = [plot for plot in throughput if plot is not None]
    blocks: list[Block] = [cost, *_arithmetic_reasons(report), *([Plots(drawn)] if drawn else [])]
    return Section("Cost and origin", [*blocks, origin])


def _named(report: Report, run: Run) -> Cell:
    return Cell(run.name, style=report.style_of(run))


def _arithmetic_reasons(report: Report) -> list[Block]:
    """The reasons for each run's precision and memory layout, where its summary has them."""
    whose: dict[str, list[str]] = {}
    for run in report.runs:
        reasons = run.summary.get("arithmetic", {})
        if text := "; ".join(f"{part} {reason}" for part, reason in reasons.items()):
            whose.setdefault(text, []).append(run.name)
    return [Note(f"{', '.join(names)}: {reason}.") for reason, names in whose.items()]


def _cost_cells(run: Run, row: dict[str, Any]) -> list[str]:
    chosen = run.arithmetic
    student, teacher = (
        ", ".join(filter(None, map(chosen.get, keys))) for keys in (ARITHMETIC[:2], ARITHMETIC[2:])
    )
    return [
        seconds_text(row["seconds"]),
        number(row["images_per_second"], ",.0f"),
        number(row["data_wait"], ".0%"),
        size_text(row["peak_memory_bytes"]) or "not recorded",
        number(row["parameters"], ","),
        row["device"] or "",
        " x ".join(str(row[key]) for key in ("processes", "threads") if row[key]),
        student,
        teacher,
    ]


def _origin_cells(run: Run, row: dict[str, Any]) -> list[str]:
    keys = ("seed", "commit", "dearkd", "torch", "timm", "python")
    verb, file = ("distill", ROUNDS_FILE) if run.rounds else ("train", CONFIG_FILE)
    again = command("dearkd", verb, run.path / file, "--out", "NEW") if run.config else ""
    return [*["" if row[key] is None else str(row[key]) for key in keys], again]


def _setting(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)

"""A report for papers and scripts: as Markdown tables, CSV or JSON."""

import csv
import io
import json
from typing import Any

from dearkd.report.configurations import configurations, over_seeds, seed_cells, seed_titles
from dearkd.report.contents import Group, Report, Run, SyntheticSet
from dearkd.report.headline import group_name, headline
from dearkd.report.rows import config_difference, result_row, set_row
from dearkd.report.set_ranking import rankings
from dearkd.report.study_tables import study_markdown, study_rows
from dearkd.said import data_name, delta_text, markdown_table, number, seconds_text

__all__ = ["as_csv", "as_json", "as_markdown"]

COLUMNS = {
    "run": "run",
    "learned_by": "learned by",
    "student": "network",
    "trained_on": "trained on",
    "train_images": "images",
    "top1": "top-1 %",
    "delta": "difference",
    "top5": "top-5 %",
    "parameters": "parameters",
    "time": "time",
}
"""Columns of the Markdown table of runs: key of a row, and title."""
SET_COLUMNS = {
    "set": "synthetic set",
    "images": "images",
    "classes": "classes",
    "resolutions": "pixels",
    "iterations": "iterations",
    "teacher": "teacher",
    "teacher_recognition": "recognised by it",
    "verifier": "verifier",
    "verifier_recognition": "recognised by it",
    "verifier_diversity": "distance within a class, to the verifier",
    "lpips_within_class": "LPIPS within a class",
    "probe_top1": "top-1 % of a probe student",
}
"""Columns of the Markdown table of synthetic sets: key of a row, and title."""


def as_markdown(report: Report) -> str:
    """Headline, result tables and settings that differ, as Markdown for a paper or a README."""
    parts = [*headline(report)]
    for record in report.studies:
        parts += [f"**Study {record.study.name}**", study_markdown(record).rstrip()]
    for group in report.groups:
        rows = [_markdown_cells(run, group) for run in group.runs]
        parts += [f"**On {group_name(group)}**", markdown_table(list(COLUMNS.values()), rows)]
        if seeds := over_seeds(group):
            table = markdown_table(seed_titles(seeds), list(map(seed_cells, seeds)))
            parts += ["**Over seeds**", table]
        parts += [one.note for one in configurations(group) if one.note]
    difference = config_difference(report.runs)
    if difference:
        names = [run.name for run in report.runs if run.config]
        rows = [[key, *map(_code, values)] for key, values in difference.items()]
        parts += ["**Settings that differ**", markdown_table(["setting", *names], rows)]
    if report.sets:
        rows = [_set_cells(synthetic) for synthetic in report.sets]
        parts += ["**Synthetic sets**", markdown_table(list(SET_COLUMNS.values()), rows)]
    for found in rankings(report):
        parts += ["**Which measure ranks the sets as students do**"]
        parts += [markdown_table(found.titles, found.rows), found.note]
    notes = [f"- {item.name}: {note}" for item in report.items for note in item.notes]
    return "\n\n".join([*parts, *(["\n".join(notes)] if notes else [])]) + "\n"


def as_csv(report: Report) -> str:
    """CSV with a line for each run; without runs, for each synthetic set, or run of a record."""
    rows = [result_row(run, report.group_of(run)) for run in report.runs]
    rows = rows or [set_row(synthetic) for synthetic in report.sets]
    rows = rows or [row for record in report.studies for row in study_rows(record)]
    columns = list(dict.fromkeys(key for row in rows for key in row))
    text = io.StringIO()
    writer = csv.DictWriter(text, columns, lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    return text.getvalue()


def as_json(report: Report) -> str:
    """JSON with everything that was read, and all that was computed from it."""
    runs = [
        {
            **result_row(run, report.group_of(run)),
            "notes": run.notes,
            "config": run.config,
            "summary": run.summary,
            "metrics": run.metrics,
            "analysis": run.analysis,
        }
        for run in report.runs
    ]
    sets = [
        {
            **set_row(synthetic),
            "notes": synthetic.notes,
            "manifest": synthetic.manifest,
            "loss_curves": synthetic.curves,
            "diversity": synthetic.diversity,
        }
        for synthetic in report.sets
    ]
    names = [run.name for run in report.runs if run.config]
    content = {
        "headline": headline(report),
        "runs": runs,
        "config_difference": {
            key: dict(zip(names, values, strict=True))
            for key, values in config_difference(report.runs).items()
        },
        "over_seeds": [row for group in report.groups for row in over_seeds(group)],
        "sets": sets,
        "rankings": [found.as_dict() for found in rankings(report)],
        "studies": [{"name": r.study.name, "runs": r.of_study()} for r in report.studies],
    }
    return json.dumps(content, indent=1) + "\n"


def _markdown_cells(run: Run, group: Group) -> list[str]:
    row = result_row(run, group)
    row["trained_on"] = data_name(row["data"])
    row |= {"delta": delta_text(group.delta(run)), "time": seconds_text(row["seconds"])}
    if run is group.baseline:
        row["delta"] = "baseline"
    if not run.finished:
        row["run"] = f"{run.name} ({run.status})"
    return [_plain(row[key]) for key in COLUMNS]


def _set_cells(synthetic: SyntheticSet) -> list[str]:
    row = set_row(synthetic)
    for role in ("teacher", "verifier"):
        share = row[f"{role}_recognition"]
        row[f"{role}_recognition"] = "" if share is None else f"{100 * share:.1f} %"
    for key in ("verifier_diversity", "lpips_within_class"):
        row[key] = number(row[key], ".4f")
    return [_plain(row[key]) for key in SET_COLUMNS]


def _plain(value: Any) -> str:
    match value:
        case None:
            return ""
        case bool():
            return str(value)
        case int():
            return f"{value:,}"
        case float():
            return f"{value:.2f}"
        case list():
            return ", ".join(map(str, value))
    return str(value)


def _code(value: Any) -> str:
    return json.dumps(value) if not isinstance(value, str) else value

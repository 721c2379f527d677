"""A report as tables: results with differences, settings that differ; as Markdown, CSV, JSON."""

import csv
import io
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from dearkd.report_data import Group, Report, Run, SyntheticSet

__all__ = [
    "as_csv",
    "as_json",
    "as_markdown",
    "config_difference",
    "data_name",
    "delta_text",
    "headline",
    "number",
    "result_row",
    "seconds_text",
    "set_row",
]

UNCOMPARED = ("out",)
"""Settings that always differ and change nothing."""
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
"""Of the Markdown table: key of a row, and title."""


def result_row(run: Run, group: Group) -> dict[str, Any]:
    """One run as flat numbers and words; None where it has none."""
    summary, delta = run.summary, group.delta(run)
    last: dict[str, Any] = run.metrics[-1] if run.metrics else {}
    versions = summary.get("versions") or {}
    return {
        "run": run.name,
        "path": str(run.path),
        "status": run.status,
        "method": run.setting("method") or summary.get("method"),
        "learned_by": run.learned_by,
        "student": run.setting("student") or summary.get("student"),
        "teacher": run.setting("teacher.name") or summary.get("teacher"),
        "data": run.setting("data.train") or summary.get("data"),
        "evaluation": run.evaluation,
        "train_images": summary.get("train_images"),
        "eval_images": summary.get("eval_images"),
        "epochs": len(run.metrics) or summary.get("epochs"),
        "top1": run.top1,
        "top5": summary.get("top5"),
        "baseline": group.baseline.name if delta is not None and group.baseline else None,
        "delta_top1": None if delta is None else round(delta[0], 4),
        "delta_top1_error": None if delta is None else round(delta[1], 4),
        "best_top1": summary.get("best_top1"),
        "best_epoch": summary.get("best_epoch"),
        **{f"{head}_top1": value["top1"] for head, value in summary.get("heads", {}).items()},
        "parameters": summary.get("parameters"),
        "seconds": summary.get("seconds", last.get("seconds")),
        "images_per_second": run.images_per_second,
        "peak_memory_bytes": summary.get("peak_memory_bytes"),
        "precision": run.setting("precision") or summary.get("precision"),
        "device": summary.get("device"),
        "threads": summary.get("threads"),
        "processes": summary.get("processes"),
        "seed": run.setting("seed"),
        "commit": summary.get("commit"),
        "python": summary.get("python"),
        **{name: versions.get(name) for name in ("dearkd", "torch", "timm")},
    }


def set_row(synthetic: SyntheticSet) -> dict[str, Any]:
    """One synthetic set as flat numbers and words."""
    manifest = synthetic.manifest
    config, quality = manifest.get("config", {}), manifest.get("quality", {})
    row: dict[str, Any] = {
        "set": synthetic.name,
        "path": str(synthetic.path),
        "images": len(manifest.get("images", [])),
        "classes": len(manifest.get("classes", {}).get("indices", [])),
        "resolutions": config.get("resolutions"),
        "iterations": config.get("iterations"),
        "seconds": sum(group.get("seconds") or 0.0 for group in manifest.get("groups", [])),
    }
    for role in ("teacher", "verifier"):
        row[role] = (manifest.get(role) or {}).get("name")
        row[f"{role}_recognition"] = quality.get(role, {}).get("recognition", {}).get("overall")
        diversity = quality.get(role, {}).get("diversity") or {}
        row[f"{role}_diversity"] = diversity.get("overall")
    return row


def config_difference(runs: Sequence[Run]) -> dict[str, list[Any]]:
    """Dotted settings in which the runs with a configuration differ: a value for each run.

    A setting that a run does not have is None there.
    """
    known = [run for run in runs if run.config]
    flat = [_flattened(run.config) for run in known]
    keys = dict.fromkeys(key for settings in flat for key in settings)
    rows = {key: [settings.get(key) for settings in flat] for key in keys}
    return {
        key: values
        for key, values in rows.items()
        if key not in UNCOMPARED and any(value != values[0] for value in values)
    }


def headline(report: Report) -> list[str]:
    """What was run and what came out, in a few plain sentences."""
    lines = [_group_sentence(group) for group in report.groups]
    lines += [_set_sentence(synthetic) for synthetic in report.sets]
    if len(report.groups) > 1:
        lines.append(
            "These runs were judged on different data: numbers are compared only within a table."
        )
    return lines


def as_markdown(report: Report) -> str:
    """Result tables and the settings that differ, for a paper or a README."""
    parts = [*headline(report)]
    for group in report.groups:
        rows = [_markdown_cells(run, group) for run in group.runs]
        parts += [f"**On {_group_name(group)}**", _markdown_table(list(COLUMNS.values()), rows)]
    difference = config_difference(report.runs)
    if difference:
        names = [run.name for run in report.runs if run.config]
        rows = [[key, *map(_code, values)] for key, values in difference.items()]
        parts += ["**Settings that differ**", _markdown_table(["setting", *names], rows)]
    if report.sets:
        rows = [list(map(_plain, set_row(synthetic).values())) for synthetic in report.sets]
        titles = [key.replace("_", " ") for key in set_row(report.sets[0])]
        parts += ["**Synthetic sets**", _markdown_table(titles, rows)]
    notes = [f"- {item.name}: {note}" for item in report.items for note in item.notes]
    return "\n\n".join([*parts, *(["\n".join(notes)] if notes else [])]) + "\n"


def as_csv(report: Report) -> str:
    """One line a run, or one a synthetic set where there are no runs."""
    rows = [result_row(run, report.group_of(run)) for run in report.runs]
    rows = rows or [set_row(synthetic) for synthetic in report.sets]
    columns = list(dict.fromkeys(key for row in rows for key in row))
    text = io.StringIO()
    writer = csv.DictWriter(text, columns, lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    return text.getvalue()


def as_json(report: Report) -> str:
    """All that was read, and what was computed from it."""
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
        "sets": sets,
    }
    return json.dumps(content, indent=1) + "\n"


def delta_text(delta: tuple[float, float] | None) -> str:
    """``+5.28 +- 1.00``, or nothing."""
    return "" if delta is None else f"{delta[0]:+.2f} +- {delta[1]:.2f}"


def number(value: float | None, form: str) -> str:
    """A number in a format; nothing where there is none."""
    return "" if value is None else format(value, form)


def seconds_text(seconds: float | None) -> str:
    """A duration as a person says it: ``40 min``."""
    if seconds is None:
        return ""
    if seconds < 90:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"


def data_name(evaluation: str | None) -> str:
    """The last part of a data set's path or name."""
    return "data that is not known" if evaluation is None else Path(evaluation).name


def _group_name(group: Group) -> str:
    name = data_name(group.evaluation)
    return name if group.images is None else f"{name}, {group.images:,} test images"


def _group_sentence(group: Group) -> str:
    able = [run for run in group.runs if run.finished and run.top1 is not None]
    plural = "" if len(group.runs) == 1 else "s"
    count = f"{len(group.runs)} run{plural} on {_group_name(group)}"
    if not able:
        return f"{count}: none has a final top-1 yet."
    best = max(group.students, key=lambda run: run.top1 or 0.0)
    others = [run for run in group.students if run is not best]
    text = f"{count}. {best.name} ({best.learned_by}) reaches {best.top1:.2f} % top-1"
    if others:
        text += f", {_gaps(best, others)}"
    teachers = [f"{run.name} {run.top1:.2f} %" for run in able if run not in group.students]
    return f"{text}.{' Teacher: ' + ', '.join(teachers) + '.' if teachers else ''}"


def _gaps(best: Run, others: Sequence[Run]) -> str:
    """How far the best is above the three next: ``5.28 points above x and 6.78 above y``."""
    ranked = sorted(others, key=lambda run: -(run.top1 or 0.0))[:3]
    gaps = [f"{(best.top1 or 0) - (run.top1 or 0):.2f} above {run.name}" for run in ranked]
    gaps[0] = gaps[0].replace(" above", " points above")
    return gaps[0] if len(gaps) == 1 else f"{', '.join(gaps[:-1])} and {gaps[-1]}"


def _set_sentence(synthetic: SyntheticSet) -> str:
    row = set_row(synthetic)
    if not row["images"]:
        return f"{synthetic.name}: a synthetic set that is not finished."
    text = (
        f"{synthetic.name}: {row['images']:,} synthetic images of {row['classes']} classes from "
        f"the teacher {data_name(row['teacher'])} alone, which recognises "
        f"{100 * row['teacher_recognition']:.1f} % of them"
    )
    if row["verifier"]:
        share = 100 * row["verifier_recognition"]
        text += f"; the verifier {data_name(row['verifier'])} recognises {share:.1f} %"
    return text + "."


def _markdown_cells(run: Run, group: Group) -> list[str]:
    row = result_row(run, group)
    row["trained_on"] = data_name(row["data"])
    row |= {"delta": delta_text(group.delta(run)), "time": seconds_text(row["seconds"])}
    if run is group.baseline:
        row["delta"] = "baseline"
    if not run.finished:
        row["run"] = f"{run.name} ({run.status})"
    return [_plain(row[key]) for key in COLUMNS]


def _markdown_table(titles: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    lines = [titles, ["---"] * len(titles), *rows]
    return "\n".join(
        "| " + " | ".join(cell.replace("|", "\\|") for cell in row) + " |" for row in lines
    )


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


def _flattened(config: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for key, value in config.items():
        if isinstance(value, dict):
            flat |= _flattened(value, f"{prefix}{key}.")
        else:
            flat[prefix + key] = value
    return flat

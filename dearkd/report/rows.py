"""Rows of numbers and words for each run and synthetic set, and the settings that differ."""

from collections.abc import Sequence
from typing import Any

from dearkd.config_file import flattened
from dearkd.measures.cells import probe_name
from dearkd.report.contents import ARITHMETIC, Group, Run, SyntheticSet

__all__ = ["config_difference", "result_row", "set_row"]

UNCOMPARED = ("out",)
"""Settings that differ between all runs and have no effect on results."""


def result_row(run: Run, group: Group) -> dict[str, Any]:
    """One run as a flat row of numbers and words; None where a value is not known."""
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
        "teacher_top1": summary.get("teacher_top1"),
        "baseline": group.baseline.name if delta is not None and group.baseline else None,
        "delta_top1": None if delta is None else round(delta[0], 4),
        "delta_top1_error": None if delta is None else round(delta[1], 4),
        "best_top1": summary.get("best_top1"),
        "best_epoch": summary.get("best_epoch"),
        **{f"{head}_top1": value["top1"] for head, value in summary.get("heads", {}).items()},
        "parameters": summary.get("parameters"),
        "seconds": summary.get("seconds", last.get("seconds")),
        "images_per_second": run.images_per_second,
        "data_wait": run.data_wait,
        "peak_memory_bytes": summary.get("peak_memory_bytes"),
        **{key.replace(".", "_"): run.arithmetic.get(key) for key in ARITHMETIC},
        **{f"{part}_arithmetic": why for part, why in summary.get("arithmetic", {}).items()},
        "device": summary.get("device"),
        "threads": summary.get("threads"),
        "processes": summary.get("processes"),
        "seed": run.setting("seed"),
        "commit": summary.get("commit"),
        "python": summary.get("python"),
        **{name: versions.get(name) for name in ("dearkd", "torch", "timm")},
    }


def set_row(synthetic: SyntheticSet) -> dict[str, Any]:
    """One synthetic set as a flat row of numbers and words; None where a value is not known.

    Recognition is a share in [0, 1].
    """
    manifest, config = synthetic.manifest, synthetic.config
    quality = manifest.get("quality", {})
    row: dict[str, Any] = {
        "set": synthetic.name,
        "path": str(synthetic.path),
        "images": len(manifest.get("images", [])),
        "classes": len(manifest.get("classes", {}).get("indices", [])),
        "engine": synthetic.engine,
        "basis": config.get("basis"),
        "resolutions": config.get("resolutions"),
        "iterations": config.get("iterations"),
        "seconds": sum(group.get("seconds") or 0.0 for group in manifest.get("groups", [])),
    }
    for role in ("teacher", "verifier"):
        row[role] = (manifest.get(role) or {}).get("name")
        row[f"{role}_recognition"] = quality.get(role, {}).get("recognition", {}).get("overall")
        diversity = quality.get(role, {}).get("diversity") or {}
        row[f"{role}_diversity"] = diversity.get("overall")
    others = manifest.get("other_teachers")
    row["other_teachers"] = [
        str(other.get("name"))
        for other in (others if isinstance(others, list) else ())
        if isinstance(other, dict)
    ]
    lpips = synthetic.diversity.get("lpips") or {}
    row["lpips_net"] = lpips.get("net")
    row["lpips_within_class"] = lpips.get("within_class")
    row["lpips_overall"] = lpips.get("overall")
    row["probe_top1"] = synthetic.diversity.get("probe_top1")
    row["probe"] = probe_name(synthetic.diversity)
    return row


def config_difference(runs: Sequence[Run]) -> dict[str, list[Any]]:
    """Dotted settings in which the runs with a configuration differ: a value for each run.

    A setting that a run does not have is None there.
    """
    known = [run for run in runs if run.config]
    flat = [flattened(run.config) for run in known]
    keys = dict.fromkeys(key for settings in flat for key in settings)
    rows = {key: [settings.get(key) for settings in flat] for key in keys}
    return {
        key: values
        for key, values in rows.items()
        if key not in UNCOMPARED and any(value != values[0] for value in values)
    }

"""The measures of a set as text for the cells of a table, by name."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from dearkd.said import data_name

__all__ = ["distance_cells", "nearness_cells", "network_name", "probe_cells", "probe_name"]


def distance_cells(part: Mapping[str, Any]) -> dict[str, str]:
    """Mean distances between images, by LPIPS and in a network's features, with standard errors."""
    return {
        f"{unit} ({network_name(part[key])}), {words}": _with_error(part[key], measure)
        for key, unit in (("lpips", "LPIPS"), ("features", "distance"))
        if key in part
        for measure, words in (("within_class", "within classes"), ("overall", "all pairs"))
    }


def nearness_cells(part: Mapping[str, Any]) -> dict[str, str]:
    """Frechet distance, density and coverage; none if the set was not compared with a reference."""
    near = part.get("nearness") or {}
    return {
        f"{key.replace('_', ' ')} ({network_name(near)})": f"{near[key]:.4g}"
        for key in ("frechet_distance", "density", "coverage")
        if key in near
    }


def probe_cells(part: Mapping[str, Any]) -> dict[str, str]:
    """The top-1 of the probe student, by its budget and what it was read on; none without one."""
    if (name := probe_name(part)) is None:
        return {}
    return {name: f"{part['probe_top1']:.2f} %"}


def probe_name(part: Mapping[str, Any]) -> str | None:
    """What the top-1 of a probe student is called in tables, by all that it is compared within.

    None where there is none.
    """
    top1, probe = part.get("probe_top1"), part.get("probe")
    budget = probe.get("budget") if isinstance(probe, Mapping) else None
    if not isinstance(top1, int | float) or not isinstance(budget, Mapping):
        return None
    assert isinstance(probe, Mapping)
    real = f"{probe.get('eval_images')} images of {data_name(probe.get('against'))}"
    steps = f"{budget.get('steps')} steps of {budget.get('batch_size')}"
    how = f"{budget.get('student')}, {steps}, taught by {data_name(probe.get('teacher'))}"
    return f"top-1 of a probe student on {real} ({how})"


def network_name(measured: Mapping[str, Any]) -> str:
    """The network of a measure, and how many images of a class it saw where that had a limit.

    That is LPIPS's short name for it, or the last part of a path.
    """
    name = measured.get("net") or Path(measured["network"]).name
    limit = measured.get("limit")
    return name if limit is None else f"{name}, up to {limit} a class"


def _with_error(part: Mapping[str, Any], measure: str) -> str:
    """A mean with its standard error, ``-`` where there is no mean."""
    mean, error = part[measure], part[f"{measure}_standard_error"]
    if mean is None:
        return "-"
    return f"{mean:.4f}" if error is None else f"{mean:.4f} +/- {error:.4f}"

"""The measures of a set for tables, as text and as numbers, by one name for both.

A name says the network too, so that measures of one name are of one kind.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from dearkd.said import data_name

__all__ = ["measure_cells", "measure_numbers", "probe_name"]

DISTANCES = {"within_class": "within classes", "overall": "all pairs"}


def measure_cells(part: Mapping[str, Any]) -> dict[str, str]:
    """The measures of a set, or of a reference, as text; distances with their standard errors."""
    cells = {name: _with_error(*where) for name, where in _distances(part).items()}
    cells |= {name: f"{value:.4g}" for name, value in _nearness(part).items()}
    cells |= {name: f"{value:.2f}" for name, value in _verdict(part).items()}
    if (name := probe_name(part)) is not None:
        cells[name] = f"{part['probe_top1']:.2f} %"
    return cells


def measure_numbers(part: Mapping[str, Any]) -> dict[str, Any]:
    """The same measures as numbers; None where a mean is of nothing."""
    numbers = {name: measure[key] for name, (measure, key) in _distances(part).items()}
    numbers |= _nearness(part) | _verdict(part)
    if (name := probe_name(part)) is not None:
        numbers[name] = part["probe_top1"]
    return numbers


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


def _distances(part: Mapping[str, Any]) -> dict[str, tuple[Mapping[str, Any], str]]:
    """Mean distances by LPIPS and in a network's features: the measure, and the mean's key."""
    return {
        f"{unit} ({_network_name(measure)}), {words}": (measure, key)
        for name, unit in (("lpips", "LPIPS"), ("features", "distance"))
        if (measure := _of_a_network(part, name))
        for key, words in DISTANCES.items()
    }


def _nearness(part: Mapping[str, Any]) -> dict[str, float]:
    """Frechet distance, density and coverage; none if the set was not compared with a reference."""
    near = _of_a_network(part, "nearness")
    return {
        f"{key.replace('_', ' ')} ({_network_name(near)})": near[key]
        for key in ("frechet_distance", "density", "coverage")
        if key in near
    }


def _verdict(part: Mapping[str, Any]) -> dict[str, float]:
    """The percentage of the images that a verifier recognises; none without one."""
    judged = _of_a_network(part, "verifier")
    return {f"recognised by {_network_name(judged)}, %": judged["top1"]} if judged else {}


def _of_a_network(part: Mapping[str, Any], key: str) -> Mapping[str, Any]:
    """A measure; empty where there is none, or none that names its network."""
    found = part.get(key) or {}
    return found if found.get("net") or found.get("network") else {}


def _network_name(measured: Mapping[str, Any]) -> str:
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

"""The measures of a set as text for the cells of a table, by name."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

__all__ = ["distance_cells", "nearness_cells", "network_name"]


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


def network_name(measured: Mapping[str, Any]) -> str:
    """The network of a measure: LPIPS's short name for it, or the last part of a path."""
    return measured.get("net") or Path(measured["network"]).name


def _with_error(part: Mapping[str, Any], measure: str) -> str:
    """A mean with its standard error, ``-`` where there is no mean."""
    mean, error = part[measure], part[f"{measure}_standard_error"]
    if mean is None:
        return "-"
    return f"{mean:.4f}" if error is None else f"{mean:.4f} +/- {error:.4f}"

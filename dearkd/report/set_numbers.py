"""The measures of a synthetic set as numbers, by what they are called."""

from collections.abc import Mapping
from typing import Any

from dearkd.measures.cells import network_name, probe_name
from dearkd.report.contents import SyntheticSet
from dearkd.report.rows import set_row
from dearkd.said import data_name

__all__ = ["set_numbers"]

DISTANCES = {"within_class": "within classes", "overall": "all pairs"}
NEARNESS = ("frechet_distance", "density", "coverage")


def set_numbers(item: SyntheticSet) -> dict[str, float]:
    """All measures of a set, from its manifest and from ``dearkd eval``.

    A name says the network too, so that measures of one name are of one kind.
    """
    stored = item.diversity
    found: dict[str, Any] = {**_of_manifest(item), **_of_networks(stored)}
    if (name := probe_name(stored)) is not None:
        found[name] = stored["probe_top1"]
    return {name: float(value) for name, value in found.items() if isinstance(value, int | float)}


def _of_manifest(item: SyntheticSet) -> dict[str, Any]:
    """Its size, and what teacher and verifier said of it when it was made."""
    row = set_row(item)
    found: dict[str, Any] = {"images": row["images"]}
    for role in ("teacher", "verifier"):
        network = data_name(row[role]) if row[role] else role
        share = row[f"{role}_recognition"]
        found[f"recognised by {role} {network}, %"] = None if share is None else 100 * share
        found[f"distance within a class, to {role} {network}"] = row[f"{role}_diversity"]
    return found


def _of_networks(stored: Mapping[str, Any]) -> dict[str, Any]:
    """Diversity, nearness and a verifier's verdict, as ``dearkd eval`` stored them."""
    found: dict[str, Any] = {}
    for key, unit in (("lpips", "LPIPS"), ("features", "distance")):
        if part := _part(stored, key):
            name = f"{unit} ({network_name(part)})"
            found |= {f"{name}, {words}": part.get(key) for key, words in DISTANCES.items()}
    if near := _part(stored, "nearness"):
        name = network_name(near)
        found |= {f"{key.replace('_', ' ')} ({name})": near.get(key) for key in NEARNESS}
    if judged := _part(stored, "verifier"):
        found[f"recognised by {network_name(judged)}, %"] = judged.get("top1")
    return found


def _part(stored: Mapping[str, Any], key: str) -> Mapping[str, Any]:
    """A measure of the stored result; empty where it has none, or none that names its network."""
    found = stored.get(key)
    if isinstance(found, Mapping) and ("net" in found or "network" in found):
        return found
    return {}

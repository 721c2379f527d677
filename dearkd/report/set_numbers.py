"""The measures of a synthetic set as numbers, by what they are called."""

from typing import Any

from dearkd.measures.cells import measure_numbers
from dearkd.report.contents import SyntheticSet
from dearkd.report.rows import set_row
from dearkd.said import data_name

__all__ = ["set_numbers"]


def set_numbers(item: SyntheticSet) -> dict[str, float]:
    """All measures of a set, from its manifest and from ``dearkd eval``."""
    found: dict[str, Any] = {**_of_manifest(item), **measure_numbers(item.diversity)}
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

"""The result of ``dearkd eval`` on a set as its folder keeps it, each measure until taken anew.

A measure may take minutes or an hour, so that a call which takes another one leaves it there. Each
says itself which images it is of, and which commit took it.
"""

from pathlib import Path
from typing import Any

from dearkd.json_text import parsed
from dearkd.misfit import misfit
from dearkd.shapes import DIVERSITY
from dearkd.training.paths import rooted

__all__ = ["STORED", "is_result", "taken_with", "with_stored"]

STORED = "diversity.json"
"""The file in a synthetic set's folder that holds the result; `dearkd report` shows it."""
OF_EVERY_RESULT = {"data", "images", "limit", "unreadable", "commit"}
MEASURES = ("lpips", "features", "nearness", "verifier")
OF_A_PROBE = ("probe_top1", "probe")
"""Keys of a probe student, which says itself what it is of."""
CIRCUMSTANCES = ("limit", "seed", "commit")
"""What a measure was taken with."""


def is_result(file: Path) -> bool:
    """Whether a file is a result made before, which may be made anew."""
    return _read(file).keys() >= OF_EVERY_RESULT


def taken_with(part: dict[str, Any], circumstances: dict[str, Any]) -> dict[str, Any]:
    """A set's result, each of its measures with the ``circumstances`` that it does not say yet."""
    own = {key: circumstances.get(key) for key in CIRCUMSTANCES}
    return {key: own | value if key in MEASURES else value for key, value in part.items()}


def with_stored(result: dict[str, Any], file: Path) -> dict[str, Any]:
    """The result with the measures of the set's file that it has not taken itself.

    Those of a reference stay as long as the reference is the same.
    """
    found = _read(file)
    if misfit(found, DIVERSITY) is not None:
        return result
    kept = {key: found[key] for key in (*MEASURES, *OF_A_PROBE) if key in found}
    merged = taken_with(kept, found) | result
    earlier, new = found.get("reference"), result.get("reference", {})
    if earlier and not new.keys() & set(MEASURES):  # a probe's says nothing of its images
        merged["reference"] = taken_with(earlier, found)
    elif earlier and rooted(earlier.get("data")) == rooted(new["data"]):
        merged["reference"] = taken_with(earlier, found) | new
    return merged


def _read(file: Path) -> dict[str, Any]:
    """The object in a JSON file; empty where there is none."""
    try:
        found = parsed(file.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return found if isinstance(found, dict) else {}

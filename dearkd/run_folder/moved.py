"""Settings that say where a run's images and teacher lie, which may change between two sessions."""

from collections.abc import Mapping, Sequence
from typing import Any

__all__ = ["MOVABLE", "OPTIONS", "noted_fingerprints"]

OPTIONS = {
    "data.train": "--data",
    "data.evaluation": "--eval-data",
    "teacher.name": "--teacher",
    "teacher.weights": "--teacher-weights",
}
"""Settings that name images or a teacher, and the options of `dearkd train` for them."""
MOVABLE = (*OPTIONS, "cache_labels", "imports")
"""Settings that a run may have otherwise when it goes on."""


def noted_fingerprints(sessions: Sequence[Mapping[str, Any]]) -> dict[str, str | None]:
    """The fingerprints that a run noted in its first session, by setting; of older runs empty."""
    found: dict[str, str | None] = sessions[0].get("fingerprints", {}) if sessions else {}
    return found

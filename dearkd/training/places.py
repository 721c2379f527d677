"""What lies at the places that a configuration names: it counts for a run, and where it lies not.

A run notes it when it begins and is held to it when it goes on. So images, teacher and run may move
between two sessions, to another folder or machine, and can't change.
"""

from collections.abc import Mapping, Sequence
from typing import Any

from dearkd.errors import UserError
from dearkd.trained.weights import hash_of_weights
from dearkd.training.build import Parts

__all__ = ["PLACES", "check_places", "noted_places", "places"]

PLACES = {
    "data.train": ("other training images", "those"),
    "data.evaluation": ("other evaluation images", "those"),
    "teacher.name": ("another teacher", "that"),
    "teacher.weights": ("another teacher", "that"),
}
"""Settings that name a place; how it is told that something else lies there."""


def places(parts: Parts) -> dict[str, str | None]:
    """Fingerprints of images and teacher by setting, 16 hexadecimal digits; None: there is none.

    The teacher's weights are told by what came of them, at ``teacher.name``.
    """
    evaluation, teacher = parts.evaluation, parts.teacher
    return {
        "data.train": parts.train.fingerprint(),
        "data.evaluation": None if evaluation is None else evaluation.fingerprint(),
        "teacher.name": None if teacher is None else hash_of_weights(teacher.model)[:16],
        "teacher.weights": None,
    }


def noted_places(sessions: Sequence[Mapping[str, Any]]) -> dict[str, str | None]:
    """What a run noted when it began; empty if that was before runs noted it."""
    found: dict[str, str | None] = sessions[0].get("places", {}) if sessions else {}
    return found


def check_places(found: Mapping[str, str | None], sessions: Sequence[Mapping[str, Any]]) -> None:
    """Refuses to go on with other images, or another teacher, than the run began with.

    A teacher that is needed no more is not looked for.

    Raises:
        UserError: Naming the setting and both fingerprints.
    """
    for key, old in noted_places(sessions).items():
        new = found[key]
        if new != old and not (new is None and key == "teacher.name"):
            others, wanted = PLACES[key]
            raise UserError(
                f"{key} names {others} than the run began with (fingerprint {new}, not {old}); "
                f"name {wanted}, or start anew with another --out"
            )

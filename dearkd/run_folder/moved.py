"""Settings that say where images and networks lie, which may change between two sessions."""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from dearkd.errors import MissingFileError, UserError
from dearkd.misfit import misfit
from dearkd.said import command
from dearkd.shapes import PRINTS

__all__ = ["MOVABLE", "OPTIONS", "naming_the_new_place", "noted_fingerprints"]

OPTIONS = {
    "data.train": "--data",
    "data.evaluation": "--eval-data",
    "teacher.name": "--teacher",
    "teacher.weights": "--teacher-weights",
}
"""Settings that name images or a teacher, and the options of `dearkd train` for them."""
NEW = "--data NEW (or --eval-data, --teacher, --teacher-weights NEW)"
MOVABLE = (*OPTIONS, "cache_labels", "imports")
"""Settings that a run may have otherwise when it goes on."""


def noted_fingerprints(sessions: Sequence[Mapping[str, Any]]) -> dict[str, str | None]:
    """The fingerprints that a run noted in its first session, by setting; of older runs empty.

    Raises:
        UserError: If they are none.
    """
    found: dict[str, str | None] = sessions[0].get("fingerprints", {}) if sessions else {}
    if (fault := misfit(found, PRINTS, "fingerprints")) is not None:
        raise UserError(
            f"sessions.jsonl is damaged ({fault}); restore it, or start anew with another --out"
        )
    return found


@contextmanager
def naming_the_new_place(verb: str, begun: Path | None, options: str = NEW) -> Iterator[None]:
    """Where a file of a ``begun`` folder is missing, the error says how to name its new place.

    Raises:
        MissingFileError: As it is raised inside, with the command that ``verb`` goes on by.
    """
    try:
        yield
    except MissingFileError as error:
        if begun is None:
            raise
        again = command("dearkd", verb, "--resume", "--out", begun)
        raise MissingFileError(f"{error}; if it has moved: {again} {options}") from error

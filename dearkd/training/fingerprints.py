"""Fingerprints of a run's images and teacher, which a run is compared with when it goes on.

Their paths may change between two sessions, to another folder or machine. Compared are the images'
paths within their folder and the sizes of some, or the names and sizes of parquet and tar files;
the labels; and the teacher's weights and normalisation. That tells other data from the same, and
does not notice a changed pixel.
"""

from collections.abc import Mapping

from dearkd.data.sources import ImageSource, digest
from dearkd.errors import UserError
from dearkd.models.teacher import Teacher
from dearkd.trained.weights import hash_of_weights
from dearkd.training.build import Parts

__all__ = ["check_fingerprints", "fingerprints"]

TEACHER = "teacher.name"
WHAT = {
    "data.train": "training images",
    "data.evaluation": "evaluation images",
    TEACHER: "teacher",
}
"""What each fingerprint is of."""


def fingerprints(parts: Parts) -> dict[str, str | None]:
    """Sixteen hexadecimal digits for images and teacher, by setting; None where there is none."""
    return {
        "data.train": _of_images(parts.train),
        "data.evaluation": None if parts.evaluation is None else _of_images(parts.evaluation),
        TEACHER: None if parts.teacher is None else _of_teacher(parts.teacher),
    }


def check_fingerprints(here: Mapping[str, str | None], noted: Mapping[str, str | None]) -> None:
    """Refuses other images, or another teacher, than the run began with.

    A run in its second stage opens no teacher, which is then not compared.

    Raises:
        UserError: Naming the setting and what was expected.
    """
    for key, new in here.items():
        old = noted.get(key, new)
        if new == old or (key == TEACHER and new is None):
            continue
        if old is None:
            raise UserError(f"the run began without {WHAT[key]}; leave {key} out")
        raise UserError(
            f"{key}: not the {WHAT[key]} that the run began with (fingerprint {new}, not {old}; "
            "names of files count); name what it began with, or start anew with another --out"
        )


def _of_images(source: ImageSource) -> str:
    return digest([source.fingerprint(), source.labels.astype("<i8").tobytes()])


def _of_teacher(teacher: Teacher) -> str:
    look = (*teacher.mean, *teacher.std, teacher.resize)
    return digest([hash_of_weights(teacher.model), *map(str, look)])

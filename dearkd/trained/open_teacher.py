"""Loads the frozen teacher of a training run."""

from collections.abc import Sequence

from dearkd.models.teacher import Precision, Teacher
from dearkd.trained.open import open_trained
from dearkd.trained.resolve import Resolved

__all__ = ["open_teacher"]


def open_teacher(
    found: Resolved,
    *,
    student_mean: Sequence[float],
    student_std: Sequence[float],
    img_size: int | None = None,
    precision: Precision = "auto",
) -> Teacher:
    """The teacher, frozen, fed with images of ``img_size`` pixels normalised for the student.

    Raises:
        UserError: If its weights do not fit, are damaged or cannot be fetched.
    """
    trained = open_trained(found)
    return Teacher(
        trained.network,
        student_mean=student_mean,
        student_std=student_std,
        img_size=img_size,
        class_names=trained.class_names,
        precision=precision,
    )

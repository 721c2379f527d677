"""Loads the frozen teacher of a training run."""

from collections.abc import Sequence

from dearkd.errors import UserError, one_line
from dearkd.models.create import check_answer
from dearkd.models.teacher import Precision, Teacher
from dearkd.trained.open import open_trained
from dearkd.trained.resolve import Resolved
from dearkd.trained.trained import Trained

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
        UserError: If its weights do not fit, are damaged or cannot be fetched, or it can't take
            images of that size.
    """
    trained = open_trained(found)
    teacher = Teacher(
        trained.network,
        student_mean=student_mean,
        student_std=student_std,
        img_size=img_size,
        class_names=trained.class_names,
        precision=precision,
    )
    if img_size not in (None, trained.img_size) and teacher.resize is None:
        _check_size(found, trained, img_size)
    return teacher


def _check_size(found: Resolved, trained: Trained, size: int) -> None:
    try:
        check_answer(trained.network, trained.architecture, size)
    except (RuntimeError, AssertionError) as error:
        raise UserError(
            f"teacher {found.text} cannot take {size}-px images ({one_line(error)}); it was made "
            f"for {trained.img_size} px: choose --img-size nearer to that, or have it resize them "
            "(fixed_input_size=True in its default_cfg, and an argument img_size when it is built)"
        ) from error

"""How good the teacher is on the images that its student will be judged on, read at the start."""

import math
from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np
import torch
from accelerate import Accelerator
from jaxtyping import Float, Int
from numpy.typing import NDArray
from torch import Tensor, nn

from dearkd.judging.evaluate import evaluate
from dearkd.models.teacher import Teacher
from dearkd.training.batches import epoch_order
from dearkd.training.build import Parts

__all__ = ["teacher_line", "teacher_reading"]

STANDARD_ERRORS = 3
"""How far above the commonest class's share a top-1 must be to be told from a guess."""


class _Answers(nn.Module):
    """A teacher as a classifier of its student's images, in passes no larger than in training."""

    def __init__(self, teacher: Teacher, most: int) -> None:
        super().__init__()
        self.teacher, self.most = teacher, most

    def forward(
        self, images: Float[Tensor, "batch channels height width"]
    ) -> Float[Tensor, "batch classes"]:
        return torch.cat([self.teacher(part).logits for part in torch.split(images, self.most)])


def teacher_reading(
    parts: Parts, images: Iterable[Mapping[str, Any]] | None, accelerator: Accelerator
) -> dict[str, float] | None:
    """The teacher's ``top1`` and ``top5`` in percent on the evaluation ``images``, and their count.

    ``images`` are this process's part, as the student sees them. None without a teacher or images,
    or where these are more than the teacher's views in training (cached or not): reading them
    would take longer than what they are read for.

    Raises:
        UserError: If no evaluation image can be read, or one can't and none is to be left out.
    """
    if parts.teacher is None or parts.evaluation is None or images is None:
        return None
    order, _ = epoch_order(parts, accelerator.process_index, accelerator.num_processes)
    taught = sum(stage.epochs for stage in parts.stages if stage.teacher is not None)
    if len(parts.evaluation) > taught * order.views_per_epoch:
        return None
    pass_of_one = max(1, order.batch_size // accelerator.num_processes)
    found = evaluate(_Answers(parts.teacher, pass_of_one), images, accelerator)
    return {**found["logits"], "images": found["images"]["count"]}


def teacher_line(reading: dict[str, float], parts: Parts) -> str:
    """The reading in a line, which is a warning where the teacher may as well guess."""
    assert parts.evaluation is not None
    name = parts.config.teacher.name or "the teacher"
    told = f"{name} is right on {reading['top1']:.2f} % of {reading['images']:,} evaluation images"
    chance = _chance_bound(parts.evaluation.labels)
    if chance is None or reading["top1"] > 100 * chance:
        return f"teacher: {told}"
    return (
        f"warning: {told}, not clearly more than if it always named the commonest class; check its "
        f"weights, its normalisation and the order of its classes{_size_note(parts)}"
    )


def _size_note(parts: Parts) -> str:
    """What else to check where the teacher was made for images of another size."""
    size = parts.config.data.img_size
    made_for = [one.img_size for one in parts.networks if one.role == "teacher"]
    if not made_for or made_for[0] in (None, size):
        return ""
    return f", and the images' {size} px: it was made for {made_for[0]} (--img-size {made_for[0]})"


def _chance_bound(labels: Int[NDArray[np.int64], " images"]) -> float | None:
    """The share that guessing reaches at most, some standard errors above the commonest class's.

    None where the images are too few, or too much alike, to tell a perfect teacher from it.
    """
    counts = np.bincount(labels)
    share = float(counts.max() / counts.sum())
    bound = share + STANDARD_ERRORS * math.sqrt(share * (1 - share) / counts.sum())
    return bound if bound < 1 else None

"""How good the teacher is on the images that its student will be judged on, read at the start."""

import math
from typing import Any

import torch
from accelerate import Accelerator
from torch import Tensor, nn

from dearkd.judging.evaluate import evaluate
from dearkd.models.teacher import Teacher
from dearkd.training.batches import evaluation_images
from dearkd.training.build import Parts

__all__ = ["teacher_reading", "teacher_told"]

ERRORS = 3
"""Standard errors above the commonest class's share that tell a teacher from one that guesses."""


class _Answers(nn.Module):
    """A teacher as a classifier of its student's images."""

    def __init__(self, teacher: Teacher) -> None:
        super().__init__()
        self.teacher = teacher

    def forward(self, images: Tensor) -> Tensor:
        return self.teacher(images).logits


def teacher_reading(parts: Parts, accelerator: Accelerator) -> dict[str, float] | None:
    """The teacher's ``top1`` and ``top5`` in percent, on the student's own evaluation views.

    None without a teacher or evaluation images, or where these are more than the views that the
    teacher answers in training: reading them would take longer than what they are read for.

    Raises:
        UserError: If no evaluation image can be read.
    """
    images = evaluation_images(parts, accelerator)
    if parts.teacher is None or images is None or parts.evaluation is None:
        return None
    taught = sum(stage.epochs for stage in parts.stages if stage.teacher is not None)
    if len(parts.evaluation) > taught * len(parts.train):
        return None
    return evaluate(_Answers(parts.teacher), images, accelerator)["logits"]


def teacher_told(reading: dict[str, float] | None, parts: Parts) -> str | None:
    """The reading in a line: a warning where the teacher may as well guess; None without one."""
    if reading is None:
        return None
    assert parts.evaluation is not None
    count, name = len(parts.evaluation), parts.config.teacher.name or "the teacher"
    told = f"{name} is right on {reading['top1']:.2f} % of the {count:,} evaluation images"
    if reading["top1"] > 100 * _guessing(parts.evaluation.labels):
        return f"teacher: {told}"
    return (
        f"warning: {told}, no more than one that always names the commonest class; check its "
        "weights, its normalisation and the order of its classes"
    )


def _guessing(labels: Any) -> float:
    """The share that a constant answer may get right, by so many standard errors at most."""
    counts = torch.as_tensor(labels).bincount()
    share, total = float(counts.max() / counts.sum()), int(counts.sum())
    return share + ERRORS * math.sqrt(share * (1 - share) / total)

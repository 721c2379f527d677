"""Precision and memory layout of a run: as configured, or the fastest on this device."""

import copy
import dataclasses
from typing import Any

import torch
from accelerate.utils import broadcast_object_list
from jaxtyping import Float
from torch import Tensor, nn

from dearkd.config import TrainConfig
from dearkd.models import cost
from dearkd.training.build import Parts, is_convolutional

__all__ = ["laid_out", "noise", "student_step", "with_arithmetic"]

CPU_IMAGES, ACCELERATOR_IMAGES = 16, 256
"""Images in a timed forward pass, at most; few of them would time a GPU's launch overhead."""


def with_arithmetic(parts: Parts, device: torch.device, world: int = 1) -> Parts:
    """The parts with precision and memory layout chosen by timing, where the config says auto.

    The choice is stored with the run: a resumed run must not measure anew and choose otherwise.
    """
    config, teacher = parts.config, parts.config.teacher
    images = noise(config, device, world)
    chosen = _of_student(parts, images)
    if parts.teacher is not None:
        frozen = parts.teacher.to(device)
        chosen += cost.faster_arithmetic(
            lambda: frozen(images),
            frozen.set_memory_format,
            device,
            teacher.precision,
            teacher.memory_format,
        )
    broadcast_object_list(chosen)
    if parts.teacher is not None:
        teacher = dataclasses.replace(teacher, precision=chosen[2], memory_format=chosen[3])
    config = dataclasses.replace(
        config, precision=chosen[0], memory_format=chosen[1], teacher=teacher
    )
    return dataclasses.replace(parts, config=config)


def laid_out(parts: Parts, device: torch.device) -> None:
    """Puts student and teacher on the device in the chosen layout and precision."""
    config = parts.config
    parts.student.to(device, memory_format=cost.LAYOUTS[config.memory_format])  # type: ignore[call-overload]
    if parts.teacher is not None:
        parts.teacher.to(device)
        parts.teacher.precision = config.teacher.precision
        parts.teacher.set_memory_format(cost.LAYOUTS[config.teacher.memory_format])


def noise(config: TrainConfig, device: torch.device, world: int = 1) -> Tensor:
    """Images of the run's size, to time models with; on a GPU as many as a forward pass has."""
    size, batch = config.data.img_size, config.data.batch_size
    assert size is not None
    assert batch is not None
    most = CPU_IMAGES if device.type == "cpu" else ACCELERATOR_IMAGES
    count = min(config.data.micro_batch or max(1, batch // world), most)
    return torch.rand(count, 3, size, size, device=device)


def student_step(student: nn.Module, images: Float[Tensor, "batch 3 height width"]) -> None:
    """Forward and backward pass, for their time alone."""
    outputs = student(images)
    total: Tensor = (
        sum(part.float().sum() for part in outputs)
        if isinstance(outputs, tuple)
        else outputs.float().sum()
    )
    total.backward()  # type: ignore[no-untyped-call]


def _of_student(parts: Parts, images: Tensor) -> list[Any]:
    config, device = parts.config, images.device
    student: Any = copy.deepcopy(parts.student).to(device).train()
    layout = config.memory_format
    if layout == "auto" and not is_convolutional(student):
        layout = "contiguous"
    return cost.faster_arithmetic(
        lambda: student_step(student, images),
        lambda memory_format: student.to(memory_format=memory_format),
        device,
        config.precision,
        layout,
    )

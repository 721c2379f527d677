"""What a training run would take, before it is begun: sizes, steps, time and memory."""

import copy
from collections.abc import Callable
from typing import Any

import torch
from accelerate import PartialState
from rich.table import Table

from dearkd.config import to_yaml
from dearkd.models import cost
from dearkd.training.arithmetic import laid_out, noise, student_step, with_arithmetic
from dearkd.training.build import Parts
from dearkd.training.summary import arithmetic_line

__all__ = ["describe"]

PARAMETER_BYTES = 4


def describe(parts: Parts, state: PartialState, say: Callable[..., None]) -> None:
    """Says the configuration, the models' sizes, the steps, and time and memory, measured."""
    device, world = state.device, state.num_processes
    parts, reasons = with_arithmetic(parts, device, world)
    config, data = parts.config, parts.config.data
    assert data.img_size is not None
    assert data.batch_size is not None
    laid_out(parts, device)
    say(to_yaml(config), markup=False)
    say(arithmetic_line(config, reasons))
    table = Table("", "parameters", "GMACs an image", title=f"at {data.img_size} px")
    models: dict[str, Any] = {f"student {config.student}": parts.student}
    if parts.teacher is not None:
        models[f"teacher {config.teacher.name}"] = parts.teacher.model
    for name, model in models.items():
        macs = cost.multiply_adds(model, data.img_size) / 1e9
        table.add_row(name, f"{cost.parameter_count(model):,}", f"{macs:.3f}")
    say(table)
    views = parts.full_size if data.keep_steps else len(parts.train)
    steps = views // data.batch_size
    whole = steps * config.epochs
    say(
        f"{len(parts.train)} training images, {steps} step{'s' * (steps != 1)} of "
        f"{data.batch_size} an epoch, {whole} step{'s' * (whole != 1)} in {config.epochs} "
        f"epoch{'s' * (config.epochs != 1)}"
    )
    images = noise(config, device, world)
    both, alone = _seconds(parts, images)
    total = views * (config.stage1 * both + config.stage2 * alone) / world
    memory = _bytes(parts, images, world)
    each = f" each of {world} processes" if world > 1 else ""
    say(
        f"about {total / 3600:.2f} h and {memory / 2**30:.1f} GiB on {device}{each}, "
        f"{config.precision} ({world / both:.0f} images/s with the teacher, {world / alone:.0f} "
        f"without; models alone, measured on {len(images)} images)"
    )


def _seconds(parts: Parts, images: torch.Tensor) -> tuple[float, float]:
    """Seconds an image on one process, with and without the teacher."""
    config, device = parts.config, images.device
    student: Any = copy.deepcopy(parts.student).train()
    with cost.autocast(device, config.precision):
        step = cost.seconds_per_call(lambda: student_step(student, images), device, repeats=2)
        teach = 0.0
        if parts.teacher is not None:
            teacher = parts.teacher
            teach = cost.seconds_per_call(lambda: teacher(images), device, repeats=2)
    both = (step + teach) / len(images)
    return both, step / len(images) if config.method in ("dearkd", "ce") else both


def _bytes(parts: Parts, images: torch.Tensor, world: int) -> float:
    """Bytes on one process: weights, what the optimizer keeps, and a forward pass's activations."""
    config = parts.config
    assert config.data.batch_size is not None
    micro = config.data.micro_batch or config.data.batch_size // world
    student: Any = copy.deepcopy(parts.student).train()
    two = images if len(images) > 1 else images.repeat(2, 1, 1, 1)
    with cost.autocast(images.device, config.precision):
        activations = cost.activation_bytes_per_image(student, two) * micro
    # Weights, gradients and two moments; the moving average; DDP's gradient buckets.
    copies = 4 + bool(config.optim.ema_decay) + (world > 1)
    numbers = copies * cost.parameter_count(student)
    if parts.teacher is not None:
        numbers += cost.parameter_count(parts.teacher)
    return PARAMETER_BYTES * numbers + activations

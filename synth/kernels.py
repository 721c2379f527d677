"""Which precision and memory layout are fastest for a teacher here: measured once, then kept."""

import itertools
import time
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from synth.classifier import Classifier
from synth.config import SynthesisConfig
from synth.groups import Group, generator_for
from synth.objective import Objective, targets_of

__all__ = ["Kernels", "build_objective", "measure_kernels"]

DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16}
PRECISIONS: tuple[Literal["fp32", "bf16"], ...] = ("fp32", "bf16")
TRIAL_PIXELS = 4_000_000  # ours: input size of a trial step, about 26 images at 224


@dataclass(frozen=True, kw_only=True)
class Kernels:
    """How the numbers are computed. Bits depend on it, so a run keeps it when resumed."""

    device: str
    threads: int
    precision: Literal["fp32", "bf16"]
    channels_last: bool


def measure_kernels(
    config: SynthesisConfig,
    teacher: Classifier,
    batch: tuple[Group, ...],
    device: torch.device,
    student: Classifier | None = None,
) -> Kernels:
    """The fastest of the combinations that the configuration leaves open.

    One forward and backward of the objective on a part of the first batch at the last resolution,
    the better of two after one to warm up. Nothing is timed where nothing is open.
    """
    precisions = PRECISIONS if config.precision == "auto" else (config.precision,)
    layouts = (True, False) if config.layout == "auto" else (config.layout == "channels_last",)
    kernels = [
        Kernels(
            device=str(device),
            threads=torch.get_num_threads(),
            precision=precision,
            channels_last=layout,
        )
        for precision, layout in itertools.product(precisions, layouts)
    ]
    if len(kernels) == 1:
        return kernels[0]
    trial, images = _trial(config, teacher, batch[0], device)
    seconds = [
        _seconds(build_objective(config, teacher, choice, student), trial, images)
        for choice in kernels
    ]
    return kernels[seconds.index(min(seconds))]


def build_objective(
    config: SynthesisConfig,
    teacher: Classifier,
    kernels: Kernels,
    student: Classifier | None = None,
) -> Objective:
    """The objective of a run, computed as ``kernels`` says."""
    return Objective(
        teacher,
        config.objective,
        dtype=DTYPES[kernels.precision],
        channels_last=kernels.channels_last,
        allow_no_bn=config.allow_no_bn,
        student=student,
    )


def _trial(
    config: SynthesisConfig, teacher: Classifier, group: Group, device: torch.device
) -> tuple[Group, Tensor]:
    size = config.resolutions[-1]
    count = max(4, min(len(group.targets), TRIAL_PIXELS // (3 * size * size)))
    half = max(2, count // 2)  # two classes: every anchor has its partners, whatever was cut
    targets = (0,) * half + (1 % teacher.num_classes,) * half
    shape = (2 * half, len(teacher.mean), size, size)
    images = torch.randn(shape, generator=generator_for(config.seed, "kernels"))
    return Group(id=0, targets=targets), images.to(device)


def _seconds(objective: Objective, trial: Group, images: Tensor) -> float:
    targets = targets_of((trial,), objective.config, images.device)
    best = float("inf")
    for attempt in range(3):
        start = time.perf_counter()
        images = images.detach().requires_grad_()
        total = objective(images, targets)["objective"].sum()
        torch.autograd.backward(total)
        total.item()  # the sync that ends the timing
        if attempt:
            best = min(best, time.perf_counter() - start)
    return best

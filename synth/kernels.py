"""Which precision, layout and compiler are fastest for a teacher here: measured once, then kept."""

import dataclasses
import itertools
import os
import shutil
import time
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from synth.classifier import Classifier
from synth.groups import Group, generator_for
from synth.objective import Objective, targets_of
from synth.settings import SynthesisConfig

__all__ = ["Kernels", "build_objective", "measure_kernels"]

DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16}
PRECISIONS: tuple[Literal["fp32", "bf16"], ...] = ("fp32", "bf16")
TRIAL_PIXELS = 4_000_000  # ours: input size of a trial step, about 26 images at 224
LONG_RUN = 600.0  # ours: seconds uncompiled from which a compiler, a minute a graph, is tried


@dataclass(frozen=True, kw_only=True)
class Kernels:
    """How the numbers are computed. Bits depend on it, so a run keeps it when resumed."""

    device: str
    threads: int
    precision: Literal["fp32", "bf16"]
    channels_last: bool
    compile: bool = False


def measure_kernels(
    config: SynthesisConfig,
    teacher: Classifier,
    batch: tuple[Group, ...],
    device: torch.device,
    student: Classifier | None = None,
    batches: int = 1,
) -> Kernels:
    """The fastest of the combinations that the configuration leaves open.

    One forward and backward of the objective on a part of the first batch at the last resolution,
    the better of two after one to warm up. Nothing is timed where nothing is open. A run of
    ``batches`` that would last over ten minutes also tries the compiler, on the whole batch.

    Raises:
        ValueError: If ``compile`` is ``always`` and there is no C++ compiler for a CPU.
    """
    compiler = _has_compiler(device)
    if config.compile == "always" and not compiler:
        raise ValueError("compile=always needs a C++ compiler (CXX, or g++); install one")
    open_to_compile = config.compile == "auto" and compiler and not config.grad_norm_interval
    compiled = config.compile == "always"
    precisions = PRECISIONS if config.precision == "auto" else (config.precision,)
    layouts = (True, False) if config.layout == "auto" else (config.layout == "channels_last",)
    plain = [
        Kernels(
            device=str(device),
            threads=torch.get_num_threads(),
            precision=precision,
            channels_last=layout,
        )
        for precision, layout in itertools.product(precisions, layouts)
    ]
    best, seconds = plain[0], 0.0
    if len(plain) > 1 or open_to_compile:
        trial, images = _trial(config, teacher, batch[0], device)
        best, seconds = _fastest(plain, config, teacher, student, (trial,), images)
        seconds *= len(batch) * len(batch[0].targets) / len(images)
    if not compiled and not (open_to_compile and seconds * _steps(config, batches) > LONG_RUN):
        return best
    # The graphs of a compiler may prefer another precision: fused, float32 moves less memory.
    graphs = [
        dataclasses.replace(best, precision=precision, compile=True) for precision in precisions
    ]
    if compiled and len(graphs) == 1:
        return graphs[0]
    images = torch.cat([_noise(config, teacher, len(group.targets), device) for group in batch])
    choices = graphs if compiled else [best, *graphs]
    return _fastest(choices, config, teacher, student, batch, images)[0]


def build_objective(
    config: SynthesisConfig,
    teacher: Classifier,
    kernels: Kernels,
    student: Classifier | None = None,
) -> Objective:
    """The objective of a run, computed as ``kernels`` says."""
    if kernels.compile:
        torch.compiler.reset()  # graphs of earlier objectives count against torch's limit
    return Objective(
        teacher,
        config.objective,
        dtype=DTYPES[kernels.precision],
        channels_last=kernels.channels_last,
        allow_no_bn=config.allow_no_bn,
        student=student,
        compile=kernels.compile,
    )


def _has_compiler(device: torch.device) -> bool:
    return device.type != "cpu" or shutil.which(os.environ.get("CXX", "g++")) is not None


def _steps(config: SynthesisConfig, batches: int) -> float:
    """Steps of a run in units of one at the last resolution: their cost goes with the pixels."""
    last = config.resolutions[-1]
    return batches * sum(steps * (size / last) ** 2 for size, steps in config.stages)


def _fastest(
    choices: list[Kernels],
    config: SynthesisConfig,
    teacher: Classifier,
    student: Classifier | None,
    batch: tuple[Group, ...],
    images: Tensor,
) -> tuple[Kernels, float]:
    """The choice whose step takes the fewest seconds, and these."""
    seconds = [
        _seconds(build_objective(config, teacher, choice, student), batch, images)
        for choice in choices
    ]
    return choices[seconds.index(min(seconds))], min(seconds)


def _trial(
    config: SynthesisConfig, teacher: Classifier, group: Group, device: torch.device
) -> tuple[Group, Tensor]:
    size = config.resolutions[-1]
    count = max(4, min(len(group.targets), TRIAL_PIXELS // (3 * size * size)))
    half = max(2, count // 2)  # two classes: every anchor has its partners, whatever was cut
    targets = (0,) * half + (1 % teacher.num_classes,) * half
    return Group(id=0, targets=targets), _noise(config, teacher, 2 * half, device)


def _noise(
    config: SynthesisConfig, teacher: Classifier, count: int, device: torch.device
) -> Tensor:
    size = config.resolutions[-1]
    shape = (count, len(teacher.mean), size, size)
    return torch.randn(shape, generator=generator_for(config.seed, "kernels")).to(device)


def _seconds(objective: Objective, batch: tuple[Group, ...], images: Tensor) -> float:
    targets = targets_of(batch, objective.config, images.device)
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

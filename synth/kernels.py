"""Precision, layout and compiler of a run, chosen by :mod:`synth.facts` or by a stopwatch.

The choice is made once; all processes of the run and every resume keep it.
"""

import dataclasses
import itertools
import time
from dataclasses import dataclass

import torch
from torch import Tensor

from synth.classifier import Classifier
from synth.facts import (
    compile_by_facts,
    facts_of,
    full_size_iterations,
    has_compiler,
    layout_by_facts,
    precision_by_facts,
)
from synth.groups import Group, generator_for
from synth.objective import Objective, targets_of
from synth.refusal import SynthError
from synth.settings import Precision, SynthesisConfig

__all__ = ["DTYPES", "Kernels", "build_objective", "choose_kernels"]

DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16}
PRECISIONS: tuple[Precision, ...] = ("fp32", "bf16")
TRIAL_PIXELS = 4_000_000  # ours: input size of a trial step, about 26 images at 224
LONG_RUN = 600.0  # ours: seconds uncompiled from which the stopwatch tries a compiler


@dataclass(frozen=True, kw_only=True)
class Kernels:
    """How the numbers of a run are computed. Their bits depend on it, so a resumed run keeps it.

    That holds for the number of threads too, by which sums on a CPU are ordered. It is that of the
    first process, and launchers set it by the number of processes (torchrun: 1 thread each).
    """

    device: str
    threads: int
    precision: Precision
    channels_last: bool
    compile: bool = False
    cuda_graphs: bool = False  # of the compiled step
    reason: str = ""  # why, for what the configuration left open; empty if it set everything


def choose_kernels(
    config: SynthesisConfig,
    teacher: Classifier,
    batches: tuple[tuple[Group, ...], ...],
    device: torch.device,
    student: Classifier | None = None,
    others: tuple[Classifier, ...] = (),
) -> Kernels:
    """The kernels that the configuration sets, with ``auto`` and ``fastest`` decided.

    Raises:
        SynthError: If ``compile`` is ``always`` and there is no C++ compiler for a CPU.
    """
    if config.compile == "always" and not has_compiler(device):
        raise SynthError("compile=always needs a C++ compiler (CXX, or g++); install one")
    chosen = _chosen(config, teacher, batches, device, student, others)
    replays = config.cuda_graphs and chosen.compile and device.type == "cuda"
    return dataclasses.replace(chosen, cuda_graphs=replays)


def _chosen(
    config: SynthesisConfig,
    teacher: Classifier,
    batches: tuple[tuple[Group, ...], ...],
    device: torch.device,
    student: Classifier | None,
    others: tuple[Classifier, ...],
) -> Kernels:
    """The kernels by settings, facts and, where it is asked for, the stopwatch."""
    kernels = _by_facts(config, teacher, batches, device, student, others)
    timed = [name for name in ("precision", "layout", "compile") if _is_fastest(config, name)]
    if not timed:
        return kernels
    fastest = _by_stopwatch(kernels, config, teacher, batches, device, student, others)
    reasons = [kernels.reason, f"{' and '.join(timed)}: the fastest here, measured once"]
    return dataclasses.replace(fastest, reason="; ".join(filter(None, reasons)))


def build_objective(
    config: SynthesisConfig,
    teacher: Classifier,
    kernels: Kernels,
    student: Classifier | None = None,
    others: tuple[Classifier, ...] = (),
) -> Objective:
    """The objective of a run, computed as ``kernels`` says."""
    if kernels.compile:
        torch.compiler.reset()  # graphs of earlier objectives count against torch's limit
    objective = Objective(
        teacher,
        config.objective,
        dtype=DTYPES[kernels.precision],
        channels_last=kernels.channels_last,
        allow_no_bn=config.allow_no_bn,
        student=student,
        others=others,
        compile=kernels.compile,
        cuda_graphs=kernels.cuda_graphs,
    )
    if config.stop_cross_entropy and not objective.recorders:
        raise SynthError(
            f"stop_cross_entropy needs R_BN, and {teacher.name} has no BatchNorm2d; leave it out"
        )
    return objective


def _is_fastest(config: SynthesisConfig, name: str) -> bool:
    return bool(getattr(config, name) == "fastest")


def _by_facts(
    config: SynthesisConfig,
    teacher: Classifier,
    batches: tuple[tuple[Group, ...], ...],
    device: torch.device,
    student: Classifier | None,
    others: tuple[Classifier, ...],
) -> Kernels:
    """The kernels that are set, with ``auto`` decided by facts and a default for ``fastest``."""
    kernels = Kernels(
        device=str(device),
        threads=torch.get_num_threads(),
        precision="bf16" if config.precision == "bf16" else "fp32",
        channels_last=config.layout == "channels_last",
        compile=config.compile == "always",
    )
    if "auto" not in (config.precision, config.layout, config.compile):
        return kernels
    facts, reasons = facts_of(config, teacher, batches, device, student, others), []
    if config.precision == "auto":
        precision, reason = precision_by_facts(facts)
        kernels = dataclasses.replace(kernels, precision=precision)
        reasons.append(f"{precision}: {reason}")
    if config.layout == "auto":
        layout, reason = layout_by_facts(facts)
        kernels = dataclasses.replace(kernels, channels_last=layout == "channels_last")
        reasons.append(f"{layout}: {reason}")
    if config.compile == "auto":
        compiled, reason = compile_by_facts(facts)
        kernels = dataclasses.replace(kernels, compile=compiled)
        reasons.append(f"{'compiled' if compiled else 'not compiled'}: {reason}")
    return dataclasses.replace(kernels, reason="; ".join(reasons))


def _by_stopwatch(
    given: Kernels,
    config: SynthesisConfig,
    teacher: Classifier,
    batches: tuple[tuple[Group, ...], ...],
    device: torch.device,
    student: Classifier | None,
    others: tuple[Classifier, ...],
) -> Kernels:
    """The fastest of the combinations that ``fastest`` leaves open.

    One forward and backward of the objective on a part of the first batch at the last resolution,
    the better of two after one to warm up. A run that would last over ten minutes also tries the
    compiler, on the whole batch.
    """
    batch = batches[0]
    precisions = PRECISIONS if config.precision == "fastest" else (given.precision,)
    layouts = (True, False) if config.layout == "fastest" else (given.channels_last,)
    plain = [
        dataclasses.replace(given, precision=precision, channels_last=layout, compile=False)
        for precision, layout in itertools.product(precisions, layouts)
    ]
    trial, images = _trial(config, teacher, batch[0], device)
    best, seconds = _fastest(plain, config, teacher, student, others, (trial,), images)
    seconds *= len(batch) * len(batch[0].targets) / len(images)
    open_to_compile = (
        config.compile == "fastest" and has_compiler(device) and not config.grad_norm_interval
    )
    long = seconds * len(batches) * full_size_iterations(config) > LONG_RUN
    if not given.compile and not (open_to_compile and long):
        return best
    # The graphs of a compiler may prefer another precision: fused, float32 moves less memory.
    graphs = [
        dataclasses.replace(best, precision=precision, compile=True) for precision in precisions
    ]
    if given.compile and len(graphs) == 1:
        return graphs[0]
    images = torch.cat([_noise(config, teacher, len(group.targets), device) for group in batch])
    choices = graphs if given.compile else [best, *graphs]
    return _fastest(choices, config, teacher, student, others, batch, images)[0]


def _fastest(
    choices: list[Kernels],
    config: SynthesisConfig,
    teacher: Classifier,
    student: Classifier | None,
    others: tuple[Classifier, ...],
    batch: tuple[Group, ...],
    images: Tensor,
) -> tuple[Kernels, float]:
    """The choice whose step takes the least time, and that time in seconds."""
    seconds = [
        _seconds(build_objective(config, teacher, choice, student, others), batch, images)
        for choice in choices
    ]
    return choices[seconds.index(min(seconds))], min(seconds)


def _trial(
    config: SynthesisConfig, teacher: Classifier, group: Group, device: torch.device
) -> tuple[Group, Tensor]:
    """A group of at most ``TRIAL_PIXELS`` pixels at the last resolution, and its noise."""
    size = config.resolutions[-1]
    count = max(4, min(len(group.targets), TRIAL_PIXELS // (3 * size * size)))
    half = max(2, count // 2)  # two classes: every anchor has its partners, whatever was cut
    targets = (0,) * half + (1 % teacher.num_classes,) * half
    return Group(id=0, targets=targets), _noise(config, teacher, 2 * half, device)


def _noise(
    config: SynthesisConfig, teacher: Classifier, count: int, device: torch.device
) -> Tensor:
    """Standard normal images at the last resolution: (count, channels, size, size)."""
    size = config.resolutions[-1]
    shape = (count, len(teacher.mean), size, size)
    return torch.randn(shape, generator=generator_for(config.seed, "kernels")).to(device)


def _seconds(objective: Objective, batch: tuple[Group, ...], images: Tensor) -> float:
    """Seconds of a forward and backward: the better of two after one to warm up."""
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

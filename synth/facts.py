"""Precision, layout and compiler from facts: of the machine, of the network, of the work ahead.

No stopwatch: the same run on the same kind of machine is computed in the same way, busy or idle,
by one process or several. The number of threads is no such fact: launchers set it by the number of
processes. It is one of the kernels, as sums on a CPU are ordered by it (:mod:`synth.kernels`).
``fastest`` in the configuration asks for the stopwatch of :mod:`synth.kernels` instead.
"""

import os
import shutil
import sys
from dataclasses import dataclass
from typing import Literal

import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from synth.classifier import Classifier
from synth.cores import usable_cores
from synth.groups import Group
from synth.guide import size_for
from synth.settings import Precision, SynthesisConfig

__all__ = [
    "BF16_UNITS",
    "Facts",
    "bf16_units",
    "compile_by_facts",
    "cpp_compiler",
    "facts_of",
    "full_size_iterations",
    "has_compiler",
    "layout_by_facts",
    "precision_by_facts",
]

BF16_UNITS = {"amx_bf16": "AMX", "avx512_bf16": "AVX-512"}  # torch's name: ours, the faster first
BF16_CAPABILITY = (8, 0)  # CUDA's, from which on tensor cores compute in bf16
RATE = 24e9  # ours: operations a second of a CPU's core (EfficientNet-Lite0, AVX2)
MINUTES_A_GRAPH = 10  # ours: a graph takes one or two to compile, and saves a third or more


@dataclass(frozen=True, kw_only=True)
class Facts:
    """The facts that decide precision, layout and compiler: equal for equal runs on one machine."""

    device: str  # torch's type of device
    bf16_units: str | None  # their kind; None: bf16 is emulated, and slow
    compiler: bool  # whether torch.compile has what it needs
    grouped: bool  # convolutions in groups of channels, depth-wise ones apart
    depthwise: bool  # convolutions of each channel on its own
    grad_norms: bool  # whether gradient norms are logged: a compiled step cannot give them
    # Minutes of a CPU at RATE for the whole run, divided by the number of graphs to compile. The
    # work of all processes and all cores count, so that the number of processes decides nothing.
    minutes_a_graph: float
    generator: bool = False  # whether a generator makes the images


def facts_of(
    config: SynthesisConfig,
    teacher: Classifier,
    batches: tuple[tuple[Group, ...], ...],
    device: torch.device,
    student: Classifier | None = None,
    others: tuple[Classifier, ...] = (),
) -> Facts:
    """The facts of a run. One image goes through the networks to count the operations."""
    teachers, size = [teacher, *others], config.resolutions[-1]
    seen = [(one, size_for(one, teacher, size)) for one in teachers]
    if student is not None:
        seen.append((student, size))
    rate = RATE * usable_cores()
    images = sum(len(group.targets) for batch in batches for group in batch)
    operations = sum(_step_operations(one, side, device) for one, side in seen)
    operations *= images * full_size_iterations(config) / _graphs(config, batches)
    layers = [layer for one in teachers for layer in one.network.modules()]
    convolutions = [layer for layer in layers if isinstance(layer, nn.Conv2d)]
    return Facts(
        device=device.type,
        bf16_units=bf16_units(device),
        compiler=has_compiler(device),
        grouped=any(1 < conv.groups < conv.in_channels for conv in convolutions),
        depthwise=any(1 < conv.groups == conv.in_channels for conv in convolutions),
        grad_norms=config.grad_norm_interval > 0,
        minutes_a_graph=operations / rate / 60,
        generator=config.engine == "generator",
    )


def precision_by_facts(facts: Facts) -> tuple[Precision, str]:
    """The precision and the reason: bf16 where the device has units that the network can use.

    AVX-512's units do not help depth-wise convolutions: a step of EfficientNet-Lite0 at 112 px took
    318 ms against 301 in float32, compiled 245 against 195.
    """
    if facts.bf16_units is None:
        return "fp32", f"no bf16 units known in this {_device_name(facts.device)}"
    if facts.bf16_units == "AVX-512" and facts.depthwise:
        return "fp32", "AVX-512's bf16 units do not help depth-wise convolutions"
    return "bf16", f"this {_device_name(facts.device)} has bf16 units ({facts.bf16_units})"


def layout_by_facts(facts: Facts) -> tuple[Literal["contiguous", "channels_last"], str]:
    """The memory layout and the reason: channels_last where convolutions are faster with it.

    On an AVX2 CPU 9 to 23 % (ResNet, EfficientNet, MobileNet, RegNetY, ResNeXt); on another a
    RegNetY, whose convolutions are grouped, became three times slower.
    """
    if facts.device not in ("cpu", "cuda"):
        return "contiguous", f"channels_last is not tried on {facts.device}"
    if facts.grouped:
        return "contiguous", "grouped convolutions, which may be slow in the other"
    if facts.device == "cuda" and facts.bf16_units is None:
        return "contiguous", "channels_last is for tensor cores in bf16"
    return "channels_last", "no grouped convolutions"


def compile_by_facts(facts: Facts) -> tuple[bool, str]:
    """Whether to compile the step, and the reason.

    On CPUs it takes a third off a step of EfficientNet-Lite0, whose depth-wise convolutions leave
    the time to normalisation and activations, and at most an eighth off one of a ResNet. On GPUs
    it was not measured.
    """
    if facts.generator:
        return False, "a generator's batches are not"
    if facts.device != "cpu":
        return False, f"compiling was not measured on a {_device_name(facts.device)}"
    if facts.grad_norms:
        return False, "grad_norm_interval wants a backward for every term"
    if not facts.depthwise:
        return False, "no depth-wise convolutions, little to gain"
    if not facts.compiler:
        return False, "no C++ compiler (CXX, or g++)"
    long = facts.minutes_a_graph >= MINUTES_A_GRAPH
    length = "a long run" if long else "a short run"
    return long, f"{length}, of nominal {facts.minutes_a_graph:.0f} minutes a graph"


def full_size_iterations(config: SynthesisConfig) -> float:
    """Iterations of a batch, each counted by its share of the pixels of the last resolution.

    The cost of an iteration is about proportional to the pixels.
    """
    last = config.resolutions[-1]
    return sum(iterations * (size / last) ** 2 for size, iterations in config.stages)


def bf16_units(device: torch.device) -> str | None:
    """The kind of bf16 units that the device has; None if it has none or torch does not know."""
    if device.type == "cuda":
        capable = torch.cuda.get_device_capability(device) >= BF16_CAPABILITY
        return "tensor cores" if capable else None
    if device.type != "cpu" or not hasattr(torch.cpu, "get_capabilities"):
        return None
    known = torch.cpu.get_capabilities()
    return next((kind for name, kind in BF16_UNITS.items() if known.get(name)), None)


def cpp_compiler() -> str:
    """The C++ compiler that torch.compile calls on a CPU, whether it is there or not."""
    return os.environ.get("CXX", "clang++" if sys.platform == "darwin" else "g++")


def has_compiler(device: torch.device) -> bool:
    """Whether torch.compile can work: on a CPU it needs a C++ compiler."""
    return device.type != "cpu" or shutil.which(cpp_compiler()) is not None


def _step_operations(classifier: Classifier, size: int, device: torch.device) -> float:
    """Floating-point operations of a step for one image of ``size`` pixels a side.

    Twice those of a forward: the backward goes to the pixels alone, the weights are frozen.
    """
    images = torch.zeros(1, len(classifier.mean), size, size, device=device)
    with torch.no_grad(), FlopCounterMode(display=False) as counter:
        classifier.network(images.to(next(classifier.network.parameters())))
    return 2 * counter.get_total_flops()


def _graphs(config: SynthesisConfig, batches: tuple[tuple[Group, ...], ...]) -> int:
    """How many graphs torch.compile makes: one for each stage and shape of a batch."""
    shapes = {(len(batch), len(batch[0].targets)) for batch in batches}
    return len(config.stages) * len(shapes)


def _device_name(device: str) -> str:
    """The device as a person calls it."""
    return {"cpu": "CPU", "cuda": "GPU"}.get(device, device)

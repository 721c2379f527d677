"""Precision and memory layout of a run: by facts of device and network, or as configured.

``auto`` goes by a rule, so that the same command is the same run on one kind of machine, busy or
idle. ``fastest`` measures, for those who ask: two runs may then differ.

The rule, and what it rests on:

- bf16 wherever a CUDA device has units for it (capability 8.0 and later), and for convolutional
  networks on a CPU that has (AMX or AVX-512 BF16: about 3x as fast; ARM's has not been tried). A
  transformer on such a CPU is ``mixed``: its linear layers are 1.3x as fast in bf16, and all else
  is slower under autocast (micro student, batch 64, two cores: 122 images/s, against 92 in float32
  and 50 to 72 in bf16).
- Attention is written out as plain products on a CPU for up to 128 patches
  (`dearkd.models.attention.set_attention`): at 66 tokens these layers take 0.78 to 1.0 of the fused
  kernel's time in training (AVX2), and bring the mixed step above to 153 images/s. At 198 tokens
  the fused kernel is faster (`scripts/bench_attention.py`).
- channels_last for convolutional networks on CUDA, in bf16, and in float32 on a CPU with AVX2
  (`scripts/bench_layout.py`; with AVX-512 it was not measured), but not where convolutions are
  grouped and not depth-wise (RegNet: three times slower on one stack). Transformers have matrices
  alone. Nor where it would spoil memory (`spoils_memory`).
"""

import copy
import dataclasses
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from accelerate.utils import broadcast_object_list
from jaxtyping import Float
from torch import Tensor, nn

from dearkd.config import TrainConfig
from dearkd.data.augment import crops_at_random
from dearkd.data.settings import DataConfig, Place
from dearkd.errors import UserError
from dearkd.models import cost
from dearkd.models.placing import place
from dearkd.training.build import Parts
from dearkd.training.settings import MemoryFormat, Precision
from synth.facts import bf16_units

__all__ = [
    "Arithmetic",
    "layout_rule",
    "noise",
    "place_models",
    "precision_rule",
    "spoils_memory",
    "student_step",
    "with_arithmetic",
]

CPU_IMAGES, ACCELERATOR_IMAGES = 16, 256
"""Images in a timed forward pass, at most; few of them would time a GPU's launch overhead."""
NARROW = 8
"""Input channels below which a strided 1x1 convolution may spoil memory."""


@dataclass(frozen=True)
class Arithmetic:
    """How a network is computed, and why so."""

    precision: Precision
    memory_format: MemoryFormat
    reason: str


def precision_rule(network: nn.Module, device: torch.device) -> tuple[Precision, str]:
    """(precision, reason) for a network: by facts of it and of the machine, not by a timing."""
    units = bf16_units(device)
    kind = {"cpu": "CPU", "cuda": "GPU"}.get(device.type, f"{device.type} device")
    if units is None:
        return "fp32", f"a {kind} without bf16 units"
    if device.type == "cpu" and not _is_convolutional(network):
        return "mixed", f"linear layers in bf16, on a {kind} with {units}"
    return "bf16", f"a {kind} with {units}"


def with_arithmetic(
    parts: Parts, device: torch.device, world: int = 1
) -> tuple[Parts, dict[str, str]]:
    """The parts with every precision, layout and place of views chosen, and each choice's reason.

    The choice is stored with the run: a resumed run must not choose otherwise.

    Raises:
        UserError: If the student's memory layout is one in which it would spoil memory.
    """
    config = parts.config
    images = noise(config, device, world)
    student: Any = parts.student
    if config.memory_format in ("channels_last", cost.FASTEST) and spoils_memory(student, device):
        raise UserError(
            f"memory_format={config.memory_format} could spoil memory on a CPU without AVX-512: "
            f"{config.student} has a strided 1x1 convolution of fewer than {NARROW} channels; "
            "leave it at auto"
        )
    own = _chosen(
        student,
        device,
        (config.precision, config.memory_format),
        lambda: _student_call(copy.deepcopy(student).to(device).train(), images),
    )
    reasons = {"student": own.reason}
    teacher = parts.teacher
    if teacher is not None:
        guide, asked = teacher, config.teacher.precision
        if asked == "auto":  # one that was made in Python may have its own
            asked = guide.precision
        its = _chosen(
            guide.model,
            device,
            (asked, config.teacher.memory_format),
            lambda: (lambda: guide.to(device)(images), guide.set_memory_format),
        )
        reasons["teacher"] = its.reason
        config = dataclasses.replace(
            config,
            teacher=dataclasses.replace(
                config.teacher, precision=its.precision, memory_format=its.memory_format
            ),
        )
    views, reason = _views_rule(config.data, device)
    if reason:
        reasons["views"] = reason
    config = dataclasses.replace(
        config,
        data=dataclasses.replace(config.data, views=views),
        precision=own.precision,
        memory_format=own.memory_format,
    )
    return dataclasses.replace(parts, config=config), reasons


def place_models(parts: Parts, device: torch.device) -> None:
    """Moves student and teacher to the device, in the memory layout and precision of the config."""
    config = parts.config
    place(parts.student, device, config.memory_format)
    teacher = parts.teacher
    if teacher is not None:
        teacher.to(device)
        assert config.teacher.precision != "fastest"
        teacher.precision = config.teacher.precision
        teacher.set_memory_format(cost.LAYOUTS[config.teacher.memory_format])


def noise(config: TrainConfig, device: torch.device, world: int = 1) -> Tensor:
    """Images of the run's size, to time models with; on a GPU as many as a forward pass has."""
    size, batch = config.data.img_size, config.data.batch_size
    assert size is not None
    assert batch is not None
    most = CPU_IMAGES if device.type == "cpu" else ACCELERATOR_IMAGES
    count = min(config.data.views_a_pass or max(1, batch // world), most)
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


Timed = tuple[Callable[[], Any], Callable[[torch.memory_format], Any]]
"""A call to time, and a function that puts its network into another memory layout."""


def _chosen(
    network: nn.Module,
    device: torch.device,
    asked: tuple[Precision, MemoryFormat],
    timed: Callable[[], Timed],
) -> Arithmetic:
    """Precision and layout as asked for, by the rule where that is auto, else measured."""
    precision: Precision
    memory_format: MemoryFormat
    precision, memory_format = asked
    reasons = []
    if precision == "auto":
        ruled = precision_rule(network, device)
        precision = ruled[0]
        reasons.append(f"{precision}: {ruled[1]}")
    if memory_format == "auto":
        layout = layout_rule(network, device, precision)
        memory_format = layout[0]
        reasons.append(f"{memory_format}: {layout[1]}")
    if "fastest" in (precision, memory_format):
        call, set_layout = timed()
        fastest: list[Any] = cost.faster_arithmetic(
            call, set_layout, device, precision, memory_format
        )
        broadcast_object_list(fastest)
        precision, memory_format = fastest
        reasons.append("measured")
    return Arithmetic(precision, memory_format, "; ".join(reasons) or "as configured")


def _is_convolutional(network: nn.Module) -> bool:
    """Whether a network takes images of any size, as a CNN does."""
    cfg: Any = getattr(network, "pretrained_cfg", None) or {}
    return not cfg.get("fixed_input_size")


def _views_rule(data: DataConfig, device: torch.device) -> tuple[Place, str | None]:
    """Where views are made, and why there, if there is a choice."""
    assert data.img_size is not None
    if not crops_at_random(data.augment, data.img_size):
        return "cpu", None
    if data.views != "auto":
        return data.views, "as configured"
    return ("device" if device.type == "cuda" else "cpu"), f"a {device.type} device"


def layout_rule(
    network: nn.Module, device: torch.device, precision: str
) -> tuple[MemoryFormat, str]:
    """(memory format, reason) for a network in that precision."""
    if not _is_convolutional(network):
        return "contiguous", "a transformer"
    if device.type != "cuda" and precision != "bf16" and not _is_avx2(device):
        return "contiguous", f"channels_last was not measured in float32 on this {device.type}"
    if any(1 < conv.groups < conv.in_channels for conv in _convolutions(network)):
        return "contiguous", "grouped convolutions"
    if spoils_memory(network, device):
        return "contiguous", "channels_last would spoil memory"
    return "channels_last", f"a CNN on {device.type} in {precision}"


def spoils_memory(network: nn.Module, device: torch.device) -> bool:
    """Whether training the network in channels_last may write over memory that is not its own.

    On a CPU with AVX2 and no AVX-512, oneDNN 3.12 writes past the end of the gradient of the
    weights of a strided 1x1 convolution with fewer than 8 input channels.
    """
    return _is_avx2(device) and any(
        conv.in_channels < NARROW and conv.kernel_size == (1, 1) and max(conv.stride) > 1
        for conv in _convolutions(network)
    )


def _is_avx2(device: torch.device) -> bool:
    """Whether the device is a CPU with AVX2 and without AVX-512."""
    able = torch.cpu.get_capabilities()
    return device.type == "cpu" and bool(able.get("avx2")) and not able.get("avx512_f")


def _convolutions(network: nn.Module) -> list[nn.Conv2d]:
    return [module for module in network.modules() if isinstance(module, nn.Conv2d)]


def _student_call(student: Any, images: Tensor) -> Timed:
    def set_layout(memory_format: torch.memory_format) -> None:
        student.to(memory_format=memory_format)

    return lambda: student_step(student, images), set_layout

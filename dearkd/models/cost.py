"""Measures what a network costs, and which arithmetic is the faster on this device."""

import functools
import time
from collections.abc import Callable
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from dearkd.models.precision import precision_context

__all__ = [
    "LAYOUTS",
    "activation_bytes",
    "activation_bytes_per_image",
    "faster_arithmetic",
    "multiply_adds",
    "parameter_count",
    "seconds_per_call",
]

LAYOUTS = {"contiguous": torch.contiguous_format, "channels_last": torch.channels_last}
MARGIN = 0.95
FASTEST = "fastest"
"""The setting that leaves a choice to a measurement."""


def parameter_count(model: nn.Module) -> int:
    """Number of parameters, trained or not."""
    return sum(parameter.numel() for parameter in model.parameters())


def multiply_adds(model: nn.Module, img_size: int) -> int:
    """Multiply-accumulates of convolutions and matrix products in one forward pass on one image."""
    image = torch.zeros(1, 3, img_size, img_size, device=_device(model))
    was_training = model.training
    model.eval()
    with torch.no_grad(), FlopCounterMode(display=False) as counter:
        model(image)
    model.train(was_training)
    return counter.get_total_flops() // 2


def faster_arithmetic(
    call: Callable[[], Any],
    set_layout: Callable[[torch.memory_format], Any],
    device: torch.device,
    precision: str,
    memory_format: str,
) -> list[Any]:
    """The precision and the memory format with which ``call`` is fastest on this device.

    ``set_layout``: a function that puts the network of ``call`` into another memory layout. What is
    given is kept; with both given nothing is run. Another choice than float32 and contiguous is
    made only where it saves at least 5 %.
    """
    precisions = ("fp32", "mixed", "bf16") if precision == FASTEST else (precision,)
    layouts = ("contiguous", "channels_last") if memory_format == FASTEST else (memory_format,)
    if len(precisions) == len(layouts) == 1:
        return [precision, memory_format]
    seconds = {}
    for layout in layouts:
        set_layout(LAYOUTS[layout])
        for kind in precisions:
            with precision_context(device, kind):
                seconds[kind, layout] = seconds_per_call(call, device)
    plain, fastest = next(iter(seconds)), min(seconds, key=lambda choice: seconds[choice])
    return list(fastest if seconds[fastest] < MARGIN * seconds[plain] else plain)


def seconds_per_call(call: Callable[[], Any], device: torch.device, repeats: int = 3) -> float:
    """The least wall time of ``repeats`` calls, after one that warms up."""
    times = []
    for _ in range(repeats + 1):
        _wait(device)
        started = time.perf_counter()
        call()
        _wait(device)
        times.append(time.perf_counter() - started)
    return min(times[1:])


def activation_bytes(call: Callable[[], Tensor | tuple[Tensor, ...]]) -> int:
    """Bytes that autograd keeps for the backward pass of ``call``, each storage counted once.

    The weights that it keeps are included.
    """
    storages: dict[int, int] = {}

    def pack(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        storages[storage.data_ptr()] = storage.nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        kept = call()
    del kept
    return sum(storages.values())


def activation_bytes_per_image(
    model: nn.Module, images: Float[Tensor, "batch 3 height width"]
) -> float:
    """Bytes that each further image of a batch adds to what autograd keeps of a forward pass.

    It is the difference between a pass on all the images (at least two) and one on half of them, so
    that neither weights nor their casts to bf16 count.
    """
    half = len(images) // 2
    whole, part = (
        activation_bytes(functools.partial(model, batch))
        for batch in (images.clone(), images[:half].clone())
    )
    return (whole - part) / (len(images) - half)


def _device(model: nn.Module) -> torch.device:
    return next(model.parameters()).device


def _wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)

"""What a run will cost, and which arithmetic is faster on this device: measured, not looked up."""

import time
from collections.abc import Callable
from contextlib import AbstractContextManager
from typing import Any, Literal

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

__all__ = [
    "activation_bytes",
    "faster_precision",
    "multiply_adds",
    "parameter_count",
    "seconds_per_call",
]

Concrete = Literal["fp32", "bf16"]
MARGIN = 0.95
"""bf16 is taken only where it saves at least 5 %: below that its rounding buys nothing."""


def parameter_count(model: nn.Module) -> int:
    """Number of parameters, trained or not."""
    return sum(parameter.numel() for parameter in model.parameters())


def multiply_adds(model: nn.Module, img_size: int) -> int:
    """Multiply-accumulates of one forward pass on one image (convolutions, matrix products)."""
    image = torch.zeros(1, 3, img_size, img_size, device=_device(model))
    was_training = model.training
    model.eval()
    with torch.no_grad(), FlopCounterMode(display=False) as counter:
        model(image)
    model.train(was_training)
    return counter.get_total_flops() // 2


def autocast(device: torch.device, precision: str) -> AbstractContextManager[Any]:
    """Mixed precision for the calls inside; ``fp32`` also switches an outer autocast off."""
    return torch.autocast(device.type, torch.bfloat16, enabled=precision == "bf16")


def faster_precision(call: Callable[[], Any], device: torch.device, repeats: int = 3) -> Concrete:
    """Whichever of fp32 and bf16 autocast runs ``call`` faster here.

    On a CPU with bf16 units convolutions gain and small transformers may lose, so it is measured.
    """
    seconds = {}
    for precision in ("fp32", "bf16"):
        with autocast(device, precision):
            seconds[precision] = seconds_per_call(call, device, repeats)
    return "bf16" if seconds["bf16"] < MARGIN * seconds["fp32"] else "fp32"


def seconds_per_call(call: Callable[[], Any], device: torch.device, repeats: int = 3) -> float:
    """Least wall time of a call after one to warm up."""
    times = []
    for _ in range(repeats + 1):
        _wait(device)
        started = time.perf_counter()
        call()
        _wait(device)
        times.append(time.perf_counter() - started)
    return min(times[1:])


def activation_bytes(call: Callable[[], Tensor]) -> int:
    """Bytes that autograd keeps for the backward pass of ``call``, each storage counted once."""
    storages: dict[int, int] = {}

    def pack(tensor: Float[Tensor, "..."]) -> Tensor:
        storage = tensor.untyped_storage()
        storages[storage.data_ptr()] = storage.nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        kept = call()
    del kept
    return sum(storages.values())


def _device(model: nn.Module) -> torch.device:
    return next(model.parameters()).device


def _wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)

"""The arithmetic of a forward pass: float32, bf16 by autocast, or bf16 in linear layers alone.

``mixed`` rounds the operands of linear layers to bf16. Weights, gradients of weights, optimizer,
norms, attention, sums and losses stay in float32, and products are summed in float32 by the
kernels. On a CPU with units for bf16 the linear layers of a small transformer are what pays;
autocast also rounds norms and attention there, which costs more time than it saves.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.overrides import TorchFunctionMode

__all__ = ["Precision", "precision_context"]

Precision = Literal["fp32", "bf16", "mixed"]

LEAST_FEATURES = 64
"""Linear layers with fewer inputs or outputs stay in float32: heads of few classes gain nothing."""

_mixed = [False]
"""Whether the innermost context is ``mixed``: a teacher in float32 stands within a mixed step."""


@contextmanager
def precision_context(device: torch.device, precision: str) -> Iterator[None]:
    """A context in which forward passes are computed in that precision; contexts may be nested.

    ``fp32`` switches an outer context off. Whatever is no linear layer keeps the dtype of its
    operands in ``mixed``.
    """
    _mixed.append(precision == "mixed")
    try:
        with torch.autocast(device.type, torch.bfloat16, enabled=precision == "bf16"):
            if precision == "mixed":
                with _RoundedLinear():
                    yield
            else:
                yield
    finally:
        _mixed.pop()


class _RoundedLinear(TorchFunctionMode):
    """Rounds the operands of each ``F.linear`` of float32 tensors to bf16."""

    def __torch_function__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        if func is F.linear and _mixed[-1]:
            return _rounded_linear(*args, **(kwargs or {}))
        return func(*args, **(kwargs or {}))


def _rounded_linear(x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """The layer's output in float32, computed from bf16 operands; autograd does the same."""
    if x.dtype != torch.float32 or min(weight.shape) < LEAST_FEATURES:
        return F.linear(x, weight, bias)
    rounded = None if bias is None else bias.bfloat16()
    return F.linear(x.bfloat16(), weight.bfloat16(), rounded).float()

"""Linear layers whose operands are rounded to bf16, while all else stays in float32.

Weights, norms, attention and sums keep float32, and products are summed in it by the kernels. On a
CPU with units for bf16 the linear layers of a small transformer are what pays; autocast also rounds
norms and attention there, which costs more time than it saves.
"""

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.overrides import TorchFunctionMode

__all__ = ["RoundedLinear"]

LEAST_FEATURES = 64
"""Linear layers with fewer inputs or outputs stay in float32: heads of few classes gain nothing."""


class RoundedLinear(TorchFunctionMode):
    """A context in which each ``F.linear`` of float32 tensors rounds its operands to bf16.

    Autograd does the same; the output is float32.
    """

    def __torch_function__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        call = _rounded if func is F.linear else func
        return call(*args, **(kwargs or {}))


def _rounded(x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    if x.dtype != torch.float32 or min(weight.shape) < LEAST_FEATURES:
        return F.linear(x, weight, bias)
    rounded = None if bias is None else bias.bfloat16()
    return F.linear(x.bfloat16(), weight.bfloat16(), rounded).float()

"""The arithmetic of a forward pass: float32, bf16 by autocast, or bf16 in linear layers alone.

``mixed`` rounds the operands of linear layers to bf16 (`synth.rounded` says why). Weights, their
gradients, optimizer, norms, attention, sums and losses stay in float32.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Literal, get_args

import torch

from dearkd.errors import UserError
from synth.rounded import RoundedLinear

__all__ = ["Precision", "precision_context"]

Precision = Literal["fp32", "bf16", "mixed"]
PRECISIONS = get_args(Precision)

_mixed = [False]
"""Whether the innermost context is ``mixed``: a teacher in float32 stands within a mixed step."""


@contextmanager
def precision_context(device: torch.device, precision: str) -> Iterator[None]:
    """A context in which forward passes are computed in that precision; contexts may be nested.

    ``fp32`` switches an outer context off. Whatever is no linear layer keeps the dtype of its
    operands in ``mixed``.

    Raises:
        UserError: If the precision is unknown; a stranger's run folder may name any.
    """
    if precision not in PRECISIONS:
        raise UserError(
            f"precision must be fp32, bf16 or mixed, got {precision!r}; set another value"
        )
    _mixed.append(precision == "mixed")
    try:
        with torch.autocast(device.type, torch.bfloat16, enabled=precision == "bf16"):
            if precision == "mixed":
                with _Mixed():
                    yield
            else:
                yield
    finally:
        _mixed.pop()


class _Mixed(RoundedLinear):
    """Rounds while the innermost context is ``mixed``."""

    def __torch_function__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        if _mixed[-1]:
            return super().__torch_function__(func, types, args, kwargs)
        return func(*args, **(kwargs or {}))

"""Reads the terms of an epoch, and refuses numbers that are no longer finite.

So they never replace good ones in a file.
"""

import math

import torch
from accelerate import Accelerator
from accelerate.utils import reduce
from torch import Tensor, nn

from dearkd.errors import UserError
from dearkd.training.stages import Position

__all__ = ["check_weights", "mean_terms"]

RUNNING = ("running_mean", "running_var")
"""How the names of BatchNorm's statistics end."""


def mean_terms(position: Position, accelerator: Accelerator, lr: float | None) -> dict[str, float]:
    """Mean of each term over the epoch so far and over processes; waits for the device.

    ``lr`` is the peak learning rate, which an error names.

    Raises:
        UserError: If one is not finite.
    """
    names = sorted(position.sums)
    stacked = torch.stack([position.sums[name] for name in names]) / max(1, position.step)
    values = accelerator.reduce(stacked, reduction="mean").tolist()
    terms = dict(zip(names, values, strict=True))
    for name, value in terms.items():
        if not math.isfinite(value):
            raise _lost(f"{name} is {value}", position, lr)
    return terms


def check_weights(
    objective: nn.Module,
    optimizer: torch.optim.Optimizer,
    position: Position,
    lr: float | None,
) -> None:
    """Refuses what the last step broke and a checkpoint would keep; waits for all processes.

    The loss of a step is of the weights before it, so it does not show them. BatchNorm's statistics
    are a process's own until they are shared.

    Raises:
        UserError: On every process, if a trained weight, a statistic of BatchNorm or a moment of
            the optimizer is NaN or infinite on one of them.
    """
    kept: dict[str, list[Tensor]] = {
        "weight": [weight for weight in objective.parameters() if weight.requires_grad],
        "statistic of BatchNorm": [
            buffer for name, buffer in objective.named_buffers() if name.endswith(RUNNING)
        ],
        "moment of the optimizer": [
            value
            for moments in optimizer.state.values()
            for value in moments.values()
            if isinstance(value, Tensor) and value.ndim  # its count of steps may be elsewhere
        ],
    }
    broken = torch.stack([_broken(tensors, kept["weight"][0]) for tensors in kept.values()])
    for kind, count in zip(kept, reduce(broken, "sum").tolist(), strict=True):
        if count:
            raise _lost(f"a {kind} is no longer a finite number", position, lr)


def _broken(tensors: list[Tensor], beside: Tensor) -> Tensor:
    """How many of the tensors have a number that is not finite, on the device of ``beside``."""
    return sum((~each.isfinite().all() for each in tensors), beside.new_zeros((), dtype=torch.int))


def _lost(what: str, position: Position, lr: float | None) -> UserError:
    return UserError(
        f"{what} in epoch {position.epoch}, step {position.step}; the last checkpoint is from "
        f"before that step; begin a new run with optim.lr below {lr}, or with precision=fp32 "
        "(--resume repeats the same steps)"
    )

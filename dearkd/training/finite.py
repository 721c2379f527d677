"""Reads the terms of an epoch, and refuses numbers that are no longer finite.

So they never replace good ones in a file.
"""

import math

import torch
from accelerate import Accelerator
from torch import nn

from dearkd.errors import UserError
from dearkd.training.stages import Position

__all__ = ["check_weights", "mean_terms"]


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


def check_weights(objective: nn.Module, position: Position, lr: float | None) -> None:
    """Refuses weights that the last step broke; waits for the device.

    The loss of a step is of the weights before it, so it does not show them.

    Raises:
        UserError: If a trained one is NaN or infinite.
    """
    trained = [parameter for parameter in objective.parameters() if parameter.requires_grad]
    if not torch.stack([parameter.isfinite().all() for parameter in trained]).all():
        raise _lost("a weight is no longer a finite number", position, lr)


def _lost(what: str, position: Position, lr: float | None) -> UserError:
    return UserError(
        f"{what} in epoch {position.epoch}, step {position.step}; the last checkpoint is from "
        f"before. Start again with optim.lr below {lr}, or with precision=fp32"
    )

"""The state of a run between two steps: what a checkpoint holds and how a run takes it up."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn

from dearkd.config import TrainConfig
from dearkd.errors import UserError
from dearkd.training.optim import optimizer_state
from dearkd.training.stages import Position

__all__ = ["Begun", "identity", "restore", "restore_objective", "run_state"]

TEACHER, STUDENT = "teacher.", "student."
"""Prefixes of the teacher's and the student's tensors in an objective's state dict."""


@dataclass(frozen=True)
class Begun:
    """What a checkpoint says of the run that it is of."""

    epoch: int
    """Epochs completed."""
    class_map: tuple[int, ...]
    class_names: tuple[str, ...] | None
    num_classes: int
    watched: tuple[float, ...] = ()
    """What the rule that ends stage 1 goes by (`dearkd.training.stages.Position`)."""
    step: int = 0
    """Steps completed in the current epoch."""

    @classmethod
    def of(cls, saved: Mapping[str, Any]) -> "Begun | None":
        """Read from a checkpoint; None where it does not say (an older version wrote it)."""
        if "classes" not in saved:
            return None
        classes = saved["classes"]
        names = classes["names"]
        return cls(
            epoch=saved["position"]["epoch"],
            class_map=tuple(classes["map"]),
            class_names=None if names is None else tuple(names),
            num_classes=classes["count"],
            watched=tuple(saved["position"].get("watched", ())),
            step=saved["position"]["step"],
        )


def identity(config: TrainConfig) -> dict[str, Any]:
    """What tells the checkpoint of one run from that of another; nobody changes it in a run."""
    return {
        "student": config.student,
        "method": config.method,
        "image size": config.data.img_size,
        "seed": config.seed,
    }


def run_state(
    objective: nn.Module,
    optimizer: torch.optim.Optimizer,
    average: nn.Module | None,
    position: Position,
    classes: Mapping[str, Any] | None,
) -> dict[str, Any]:
    """All that the next step depends on, but for the teacher, which never changes.

    ``average`` holds the moving average of the student's weights, where there is one.
    """
    trained = {
        name: value
        for name, value in objective.state_dict().items()
        if not name.startswith(TEACHER)
    }
    state = {
        "objective": trained,
        "optimizer": optimizer_state(optimizer, objective),
        "ema": {} if average is None else average.state_dict(),
        "position": vars(position),
    }
    return state if classes is None else {**state, "classes": dict(classes)}


def restore(
    saved: Mapping[str, Any], student: nn.Module, average: nn.Module | None, file: Path
) -> Position:
    """Puts saved weights into the student and its average; returns where the run stood.

    Raises:
        UserError: If ``file`` is the checkpoint of another run.
    """
    weights = {
        name.removeprefix(STUDENT): value
        for name, value in saved["objective"].items()
        if name.startswith(STUDENT)
    }
    for network, state in ((student, weights), (average, saved["ema"])):
        if network is not None:
            _check_fit(state, network, file)
            network.load_state_dict(state)
    return Position(**saved["position"])


def restore_objective(saved: Mapping[str, Any], objective: nn.Module, file: Path) -> None:
    """Puts saved tensors into the objective of the stage that goes on.

    Raises:
        UserError: If ``file`` is the checkpoint of another run.
    """
    _check_fit(saved, objective, file)
    objective.load_state_dict(saved, strict=False)


def _check_fit(saved: Mapping[str, Any], network: nn.Module, file: Path) -> None:
    """Refuses tensors of other names or shapes than the network's, its teacher left out."""
    own = {k: v.shape for k, v in network.state_dict().items() if not k.startswith(TEACHER)}
    given = {name: value.shape for name, value in saved.items()}
    odd = sorted(name for name in own.keys() | given.keys() if own.get(name) != given.get(name))
    if odd:
        raise UserError(
            f"{file} is of another run: {odd[0]} does not fit; start anew with another --out"
        )

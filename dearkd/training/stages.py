"""What the loop is given and keeps: stages, batches, where the run stands, who watches."""

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any, Protocol

from torch import Tensor, nn

from dearkd.models.teacher import Teacher
from dearkd.training.switch import SwitchRule

__all__ = ["Batches", "Position", "Progress", "Stage"]


@dataclass
class Stage:
    """A part of a run: so many epochs of one objective."""

    name: str
    epochs: int
    """At most so many where there is a ``rule``; the next stage then takes the rest."""
    objective: nn.Module | None
    """None: of a stage that is over, of which the epochs alone count."""
    teacher: Teacher | None = None
    """The teacher in the objective, if it has one."""
    rule: SwitchRule | None = None
    """What may end the stage sooner."""

    def let_go(self) -> None:
        """Drops its references to objective and teacher, so that their memory can be freed."""
        self.objective = self.teacher = None


class Batches(Protocol):
    """Training batches of any epoch, from any step on."""

    steps: int
    """Forward passes an epoch on this process."""

    @property
    def waited(self) -> float:
        """Seconds for which loading has kept the loop waiting, over all epochs."""

    def __call__(self, epoch: int, start: int) -> Iterable[tuple[Tensor, ...]]:
        """What an objective takes: (images, targets) on the training device, in the epoch's order.

        For a teacher with a memory the numbers of the views follow.
        """


class Progress(Protocol):
    """What the loop tells whoever watches."""

    def begin(self, position: "Position", total_epochs: int, steps: int) -> None:
        """An epoch starts (or goes on)."""

    def step(self, step: int, images: int, terms: dict[str, float] | None) -> None:
        """A step is done; terms are means of the epoch so far, when they were read."""

    def end(self, line: dict[str, Any]) -> None:
        """An epoch is over; the line that went into ``metrics.jsonl``."""

    def say(self, text: str) -> None:
        """Something that the user should know, in a line."""


@dataclass
class Position:
    """Where the run stands; all that a checkpoint stores besides tensors."""

    epoch: int = 0
    """Epochs completed."""
    step: int = 0
    """Optimizer steps completed in the current epoch."""
    seconds: float = 0.0
    """Time in training and evaluation so far, over all sessions of the run."""
    epoch_seconds: float = 0.0
    best_top1: float | None = None
    best_epoch: int | None = None
    stage: str = ""
    heads: list[str] = field(default_factory=list)
    """The heads of a student of two that have learned so far; empty where it is not known."""
    head_scales: dict[str, float] = field(default_factory=dict)
    """Factors of the logits of heads that get no scale from the loss."""
    watched: list[float] = field(default_factory=list)
    """Mean of the term that a stage's rule goes by, in each epoch of that stage."""
    micro_batch: int | None = None
    """Views a pass, where memory was out (``data.micro_batch=auto``)."""
    sums: dict[str, Tensor] = field(default_factory=dict)
    """Sum of each term over the steps of the current epoch, on the device."""

    @property
    def head_facts(self) -> dict[str, Any]:
        """What became of the heads, as it is stored with the weights."""
        facts = {"heads": self.heads, "head_scales": self.head_scales}
        return {name: value for name, value in facts.items() if value}

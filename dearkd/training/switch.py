"""When stage 1 ends by itself (``stage1: auto``): once its hidden loss has all but stopped falling.

The rule looks at the mean of a term over each epoch, which is the same number on every process and
is part of the checkpoint: a resumed run and all processes decide alike.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from dearkd.errors import UserError
from dearkd.said import counted

__all__ = ["SwitchRule", "relative_fall"]


def relative_fall(losses: Sequence[float], window: int) -> float | None:
    """By which share the mean of the last ``window`` losses is below that of the ``window`` before.

    None where there are too few losses; negative where they rose.

    Source:
        After Adaptive Locality Guidance, which smooths the loss and ends its guidance once the
        loss no longer falls.

    Departure:
        Smoothed by the mean over a window, a tenth of the planned run, so that nothing depends on
        where a running mean began.

    Raises:
        ValueError: If ``window`` is below 1.
    """
    if window < 1:
        raise ValueError(f"window must be at least 1, got {window}")
    if len(losses) < 2 * window:
        return None
    before = sum(losses[-2 * window : -window])
    return (before - sum(losses[-window:])) / before if before else 0.0


@dataclass(frozen=True)
class SwitchRule:
    """Ends a stage, after ``least`` epochs, when a term's relative fall is below ``fall``."""

    least: int
    window: int
    """Epochs that the fall is measured over, and that each of the two means is taken over."""
    fall: float
    term: str = "hidden"
    """The term of the objective whose mean over an epoch is watched."""

    def watched(self, terms: Mapping[str, float]) -> float:
        """The mean that it looks at, of those of an epoch.

        Raises:
            UserError: If the objective has no such term; one that a user imports may not.
        """
        if self.term not in terms:
            raise UserError(
                f"stage1=auto needs a term {self.term!r} of the objective, which has "
                f"{', '.join(sorted(terms))}; return it from forward, or give --stage1 a number"
            )
        return terms[self.term]

    def is_met(self, losses: Sequence[float]) -> bool:
        """Whether the stage ends after the epochs that had these means of the term."""
        fall = relative_fall(losses, self.window)
        return len(losses) >= self.least and fall is not None and fall < self.fall

    def verdict(self, stage: str, losses: Sequence[float], epochs: int) -> str:
        """A sentence on the end of the stage, in a run of so many epochs."""
        fall = relative_fall(losses, self.window)
        last = counted(self.window, "epoch")
        text = f"{stage} ended after {len(losses)} of {counted(epochs, 'epoch')}"
        if fall is None or not self.is_met(losses):
            still = "" if fall is None else f": {self.term} still fell by {fall:.2%} in {last}"
            return f"{text}, the most it may have{still}"
        moved = f"fell by {fall:.2%}" if fall >= 0 else f"rose by {-fall:.2%}"
        return f"{text}: {self.term} {moved} in {last}; it ends below a fall of {self.fall:.2%}"

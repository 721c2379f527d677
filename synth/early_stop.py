"""A group that has come as far as it will is stopped before its stage ends.

The rule, looked at every ``log_interval`` iterations (when the terms are read anyway, so that no
step waits for the device): a group stops if its cross-entropy is below ``stop_cross_entropy`` and
its R_BN has fallen by less than ``stop_bn_fall`` of itself over the last ``stop_window``
iterations. It goes by the group's own terms alone. So a group stops at the same iteration whoever
computes it and whatever is beside it in the batch, as far as its terms are the same numbers there.
"""

import torch
from torch import Tensor

from synth.settings import SynthesisConfig

__all__ = ["EarlyStop"]


class EarlyStop:
    """The groups of a batch that have stopped in a stage, and their images of that moment."""

    def __init__(self, groups: int, config: SynthesisConfig) -> None:
        self.config = config
        self.at: list[int | None] = [None] * groups
        """The iteration after which each group stopped; None: it goes on."""
        self._images: Tensor | None = None
        self._reads: list[tuple[int, list[float]]] = []

    @property
    def is_over(self) -> bool:
        """Whether every group has stopped: the stage may end."""
        return None not in self.at

    def look(self, done: int, terms: dict[str, list[float]], images: Tensor) -> Tensor:
        """The batch's images after ``done`` iterations, those of stopped groups as they stopped.

        ``terms`` were read in the last of these iterations, ``images`` are those it led to.
        """
        kept = self._frozen(images)
        if self.config.stop_cross_entropy and done % self.config.log_interval == 0:
            for group, met in enumerate(self._meets(done, terms)):
                if met and self.at[group] is None:
                    self.at[group] = done
            self._images = kept
        return kept

    def _frozen(self, images: Tensor) -> Tensor:
        if self._images is None or not any(self.at):
            return images
        stopped = torch.tensor([at is not None for at in self.at], device=images.device)
        mask = stopped.repeat_interleave(len(images) // len(self.at))[:, None, None, None]
        return torch.where(mask, self._images, images)

    def _meets(self, done: int, terms: dict[str, list[float]]) -> list[bool]:
        """Whether each group meets the rule now."""
        config, now = self.config, terms["bn_statistics"]
        self._reads.append((done, now))
        past = [read for at, read in self._reads if at <= done - config.stop_window]
        if not past:
            return [False] * len(now)
        return [
            cross_entropy < config.stop_cross_entropy and then - r_bn < config.stop_bn_fall * then
            for cross_entropy, r_bn, then in zip(terms["cross_entropy"], now, past[-1], strict=True)
        ]

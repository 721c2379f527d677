"""R_BN against a running mean: what the batches of a chain have shown a teacher so far."""

from collections.abc import Sequence

from torch import Tensor

__all__ = ["KEPT", "RunningStatistics", "Statistics"]

KEPT = 0.9  # of the running mean when a batch is added

Statistics = tuple[Tensor, Tensor, Tensor, Tensor]
"""Of one layer: mean and variance seen (groups, channels), stored mean and variance (channels)."""


class RunningStatistics:
    """A mean m of every layer's statistics over batches, for :class:`bn_statistics.Recorder`.

    In R_BN the statistics of a layer become ``0.9 * m + 0.1 * batch``; m has no gradient and is
    updated to that value once a batch is finished. So a batch need not have the statistics of the
    whole data set by itself, and R_BN pulls a tenth as strongly as on a batch alone.

    Source:
        The running mean of Fast-Datafree, Fang et al. 2022, https://arxiv.org/abs/2112.15278.

    Departure:
        m starts with the stored statistics of the teacher: the batches before the first count as
        perfect, and its R_BN pulls as strongly as that of any other batch.
    """

    def __init__(self) -> None:
        self.layers: list[tuple[Tensor, Tensor]] | None = None
        """m of each layer, in the order of the forward: mean and variance (groups, channels)."""

    def blended(self, seen: Sequence[Statistics]) -> list[Statistics]:
        """The statistics of a forward, with those of each layer averaged into the running mean."""
        before = self._layers(seen)
        return [
            (_step(old_mean, mean), _step(old_var, var), stored_mean, stored_var)
            for (old_mean, old_var), (mean, var, stored_mean, stored_var) in zip(
                before, seen, strict=True
            )
        ]

    def update(self, seen: Sequence[Statistics]) -> None:
        """Add the batch whose last forward this was to the running mean."""
        self.layers = [(mean.detach(), var.detach()) for mean, var, _, _ in self.blended(seen)]

    def _layers(self, seen: Sequence[Statistics]) -> list[tuple[Tensor, Tensor]]:
        if self.layers is not None:
            return self.layers
        return [(mean.expand_as(seen), var.expand_as(seen)) for seen, _, mean, var in seen]


def _step(old: Tensor, new: Tensor) -> Tensor:
    return KEPT * old + (1 - KEPT) * new

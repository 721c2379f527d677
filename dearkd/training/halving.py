"""``data.micro_batch=auto``: a step that does not fit into memory is made in smaller passes.

The step begins anew, and all passes are as small from then on. So a run that is halved in its first
step is the run of which that size was typed, to the bit.
"""

from collections.abc import Callable

from accelerate.utils import release_memory
from torch import nn

from dearkd.errors import UserError, is_out_of_memory
from dearkd.training.finite import RUNNING
from dearkd.training.stages import Batches, Position

__all__ = ["Cut", "Halving"]

Cut = Callable[[int], tuple[Batches, int]]
"""Views of a pass to the batches of a run, and how many of these make a step."""

LEAST = 2
"""Views of the smallest pass."""
STATISTICS = (*RUNNING, "num_batches_tracked")
"""How the names of what every pass in training moves end."""


class Halving:
    """Repeats a step in ever smaller passes until it fits into memory."""

    def __init__(self, batch: int, cut: Cut) -> None:
        self.batch = self.micro = batch
        self.cut = cut

    def fitted(
        self,
        objective: nn.Module,
        position: Position,
        passes: Callable[[], int],
        recut: Callable[[Batches, int], None],
    ) -> int:
        """What ``passes`` returns once it fits; before each further try ``recut`` gets its batches.

        Raises:
            UserError: If the fewest views do not fit.
        """
        while (images := self._tried(objective, position, passes)) is None:
            batches, accumulate = self.at(self._less())
            position.micro_batch = self.micro
            recut(batches, accumulate)
        return images

    def at(self, micro: int) -> tuple[Batches, int]:
        """Batches with so many views a pass, and how many of them make a step."""
        self.micro = micro
        return self.cut(micro)

    def _tried(
        self, objective: nn.Module, position: Position, passes: Callable[[], int]
    ) -> int | None:
        """What ``passes`` returns; None, with all that it changed put back, if memory is out."""
        sums = dict(position.sums)
        statistics = {
            buffer: buffer.clone()
            for name, buffer in objective.named_buffers()
            if name.endswith(STATISTICS) and "teacher." not in name
        }
        try:
            return passes()
        except RuntimeError as error:
            if not is_out_of_memory(error):
                raise
        # After the handler: until its end the error holds on to the tensors of the pass.
        for buffer, value in statistics.items():
            buffer.copy_(value)
        position.sums = sums
        objective.zero_grad()
        release_memory()
        return None

    def _less(self) -> int:
        """The largest even divisor of the batch up to half of this: views are mixed in pairs."""
        less = self.micro // 2
        while less > 1 and (less % 2 or self.batch % less):
            less -= 1
        if less < LEAST:
            raise UserError(
                f"out of memory with {self.micro} views a pass, the fewest that "
                f"data.micro_batch=auto makes of data.batch_size={self.batch}; choose a smaller "
                "student or data.img_size, or end what else uses the device"
            )
        return less

"""The passes of a step: forward and backward over its batches, smaller ones where memory is out.

With ``data.micro_batch=auto`` a step that does not fit into memory begins anew, and all passes are
as small from then on. So a run that is cut in its first step is the run of which that size was
typed, to the bit.
"""

from collections.abc import Callable, Iterator
from contextlib import nullcontext
from itertools import islice

import torch
from accelerate import Accelerator
from accelerate.utils import release_memory
from torch import Tensor, nn

from dearkd.config import TrainConfig
from dearkd.errors import UserError, is_out_of_memory
from dearkd.models.precision import precision_context
from dearkd.training.stages import Batches, Position

__all__ = ["Cut", "Passes"]

Cut = Callable[[int], tuple[Batches, int]]
"""Views of a pass to the batches of a run, and how many of these make a step."""

LEAST = 2
"""Views of the smallest pass."""


class Passes:
    """Makes the passes of every step of a run.

    Args:
        batches: Those of one process, a pass each.
        accumulate: How many of them make a step.
        accelerator: Its device, and what shares gradients between processes.
        config: Batch size, precision and seed.
        say: Told when batches become smaller.
        cut: Gives smaller batches where a pass does not fit; None: its error is the run's.
    """

    def __init__(
        self,
        batches: Batches,
        accumulate: int,
        accelerator: Accelerator,
        config: TrainConfig,
        say: Callable[[str], None],
        cut: Cut | None = None,
    ) -> None:
        self.batches = batches
        self.accumulate = accumulate
        self.accelerator = accelerator
        self.config = config
        self.say = say
        self.cut = cut
        self.steps = batches.steps // accumulate
        """Steps of an epoch."""
        self.feed: Iterator[tuple[Tensor, ...]] = iter(())
        """The epoch's batches that are left."""
        self._waited_before = 0.0

    @property
    def waited(self) -> float:
        """Seconds for which loading has kept the run waiting, over all epochs."""
        return self._waited_before + self.batches.waited

    @property
    def are_whole(self) -> bool:
        """Whether every step is one pass of one process."""
        return self.cut is None and self.accumulate == self.accelerator.num_processes == 1

    def resume(self, position: Position) -> None:
        """Takes the size that a run found which goes on from there."""
        if self.cut is not None and position.micro_batch is not None:
            self.batches, self.accumulate = self.cut(position.micro_batch)

    def begin(self, position: Position) -> None:
        """Opens the batches of the position's epoch, from its step on."""
        self.feed = iter(self.batches(position.epoch, position.step * self.accumulate))

    def step(self, objective: nn.Module, position: Position) -> int:
        """Adds up the gradients of a step, and its terms in ``position.sums``.

        Returns:
            The images in it, of all processes.

        Raises:
            UserError: If memory is out with the fewest views.
        """
        if self.cut is None:
            return self._made(objective, position)
        while (images := self._tried(objective, position)) is None:
            self._recut(self.cut, position)
        return images

    def _made(self, objective: nn.Module, position: Position) -> int:
        """Forward and backward passes over the next batches; the images in them."""
        count = 0
        for part, batch in enumerate(islice(self.feed, self.accumulate)):
            # A pass's own seed: drop-path draws the same masks after a resume.
            self._seed(position, part)
            last = part == self.accumulate - 1
            sync = nullcontext() if last else self.accelerator.no_sync(objective)
            with sync:
                with precision_context(self.accelerator.device, self.config.precision):
                    terms = objective(*batch)
                self.accelerator.backward(terms["loss"] / self.accumulate)
            for name, value in terms.items():
                previous = position.sums.get(name, 0.0)
                position.sums[name] = previous + value.detach().float() / self.accumulate
            count += len(batch[0])
        return count * self.accelerator.num_processes

    def _seed(self, position: Position, part: int) -> None:
        rank, processes = self.accelerator.process_index, self.accelerator.num_processes
        step = position.epoch * self.steps + position.step
        number = (step * self.accumulate + part) * processes + rank
        seed = (self.config.seed * 1_000_003 + number) % 2**63
        if self.accelerator.device.type == "cpu":  # 2 ms less: no stack is noted for absent devices
            torch.default_generator.manual_seed(seed)
        else:
            torch.manual_seed(seed)

    def _tried(self, objective: nn.Module, position: Position) -> int | None:
        """The images of a step; None, with all that it changed put back, if memory is out."""
        sums = dict(position.sums)
        counted = {
            buffer: buffer.clone()
            for name, buffer in objective.named_buffers()
            if "teacher." not in name
        }
        try:
            return self._made(objective, position)
        except RuntimeError as error:
            if not is_out_of_memory(error):
                raise
        # After the handler: until its end the error holds on to the tensors of the pass.
        for buffer, value in counted.items():
            buffer.copy_(value)
        position.sums = sums
        objective.zero_grad()
        release_memory()
        return None

    def _recut(self, cut: Cut, position: Position) -> None:
        """Goes on from this step with smaller batches of the same images."""
        position.micro_batch = self._fewer_views()
        self._waited_before += self.batches.waited
        self.batches, self.accumulate = cut(position.micro_batch)
        self.begin(position)
        self.say(
            f"out of memory: from here on data.micro_batch is {position.micro_batch}, "
            f"{self.accumulate} passes a step; the batch stays the same"
        )

    def _fewer_views(self) -> int:
        """The largest even divisor of the batch up to half a pass: views are mixed in pairs."""
        batch = self.config.data.batch_size
        assert batch is not None
        views = batch // self.accumulate
        less = views // 2
        while less > 1 and (less % 2 or batch % less):
            less -= 1
        if less < LEAST:
            raise UserError(
                f"out of memory with {views} views a pass, the fewest that "
                f"data.micro_batch=auto makes of data.batch_size={batch}; choose a smaller "
                "student or data.img_size, or end what else uses the device"
            )
        return less

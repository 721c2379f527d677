"""The memory of a teacher: one epoch's answers at a time, read from a folder and written to it."""

from typing import Any

import numpy as np
import torch
from jaxtyping import Float, Int
from numpy.typing import NDArray
from torch import Tensor

from dearkd.labels.folder import LabelFolder

__all__ = ["LabelMemory"]

MOST_PENDING = 1 << 16
"""Views whose answers wait on the device; fetching them makes the program wait for it."""


class LabelMemory:
    """A `dearkd.models.teacher.Memory` of the views in a `LabelFolder`.

    A view's number is ``epoch * views + position``. What is recorded comes back as it will be
    recalled, so that a run's numbers are the same whether its answers were known or not.
    """

    def __init__(self, folder: LabelFolder) -> None:
        self.folder = folder
        self.read = 0
        """Answers recalled so far."""
        self.computed = 0
        """Answers that the teacher had to give; those of a step that is begun anew count once."""
        self._epoch: int | None = None
        self._known: NDArray[np.bool_] = np.zeros(0, dtype=bool)
        self._own: NDArray[np.bool_] = self._known
        self._counted: NDArray[np.bool_] = self._known
        self._values: NDArray[Any] = np.zeros(0)
        self._pending: list[tuple[NDArray[np.int64], Tensor]] = []
        self._changed = False

    @torch.compiler.disable  # type: ignore[untyped-decorator]
    def recall(
        self, views: Int[Tensor, " batch"], device: torch.device
    ) -> Float[Tensor, "batch classes"] | None:
        """The logits of these views on the device; None where one of them is not known.

        ``views`` are best on the CPU: elsewhere this waits for the device.
        """
        numbers = views.cpu().numpy()
        if numbers.max() < 0:
            return None
        self._turn_to(int(numbers.max()) // self.folder.views)
        rows = numbers % self.folder.views
        if numbers.min() < 0 or not self._known[rows].all():
            return None
        self.read += self._new(numbers)
        kept = torch.from_numpy(self._values[rows]).to(device, non_blocking=True)
        return self.folder.answers.decode(kept)

    @torch.compiler.disable  # type: ignore[untyped-decorator]
    def record(
        self, views: Int[Tensor, " batch"], logits: Float[Tensor, "batch classes"]
    ) -> Float[Tensor, "batch classes"]:
        """Keeps the logits of views that have a number, and returns all as it will recall them."""
        numbers, kept = views.cpu().numpy(), self.folder.answers.encode(logits)
        self._pending.append((numbers, kept))
        self.computed += self._new(numbers)
        if sum(len(numbers) for numbers, _ in self._pending) >= MOST_PENDING:
            self._fetch()
        return self.folder.answers.decode(kept)

    def save(self) -> None:
        """Writes what was recorded since the last time, if anything was."""
        self._fetch()
        if self._changed:
            assert self._epoch is not None
            self.folder.write(self._epoch, self._own, self._values[self._own])
            self._changed = False

    def _turn_to(self, epoch: int) -> None:
        """Makes that epoch the one at hand."""
        if epoch == self._epoch:
            return
        self.save()
        self._known, self._values = self.folder.read(epoch)
        self._own, self._counted = np.zeros_like(self._known), np.zeros_like(self._known)
        self._epoch = epoch

    def _new(self, numbers: NDArray[np.int64]) -> int:
        """How many of these views are not counted yet; those without a number always are not."""
        rows = numbers[numbers >= 0] % self.folder.views
        new = len(numbers) - int(self._counted[rows].sum())
        self._counted[rows] = True
        return new

    def _fetch(self) -> None:
        """Takes the answers that wait on the device."""
        for numbers, kept in self._pending:
            named = numbers >= 0
            if not named.any():  # maybe no epoch is at hand yet
                continue
            rows = numbers[named] % self.folder.views
            self._values[rows] = kept.cpu().numpy()[named]
            self._known[rows] = self._own[rows] = True
            self._changed = True
        self._pending.clear()

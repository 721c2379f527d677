"""When a run looks at its loss, saves and stops: on every process after the same step."""

import time

import torch
from accelerate import Accelerator

from dearkd.run_folder.stop import StopRequest

__all__ = ["Agenda"]

READ_SECONDS = 2.0
"""Least time between two looks at the loss: each look waits for the device."""
AGREE_STEPS = 10
"""Several processes agree this often whether to look, save or stop: each time all wait."""


class Agenda:
    """What is due between two steps. None of it changes the numbers of a run."""

    def __init__(
        self, accelerator: Accelerator, stop: StopRequest, checkpoint_minutes: float
    ) -> None:
        self.accelerator = accelerator
        self.stop = stop
        self.save_seconds = 60 * checkpoint_minutes
        self.last_save = self.last_read = time.monotonic()

    def has_read(self) -> None:
        """The loss was looked at just now."""
        self.last_read = time.monotonic()

    def has_saved(self) -> None:
        """A checkpoint was written just now."""
        self.last_save = time.monotonic()

    def due(self, step: int) -> tuple[bool, bool, bool]:
        """Whether to look at the loss, to save and to stop, the same on every process.

        The main process's clock decides; a stop may be asked of any. ``step`` counts within the
        epoch: several processes answer at every tenth, and at 0, the end of an epoch.
        """
        now, main = time.monotonic(), self.accelerator.is_main_process
        due = (
            main and now - self.last_read > READ_SECONDS,
            main and now - self.last_save > self.save_seconds,
            self.stop.made,
        )
        if self.accelerator.num_processes == 1:
            return due
        if step % AGREE_STEPS:
            return False, False, False
        flags = torch.tensor(due, dtype=torch.int32, device=self.accelerator.device)
        read, save, stop = self.accelerator.reduce(flags).tolist()
        return bool(read), bool(save), bool(stop)

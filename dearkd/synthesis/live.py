"""The progress of a synthesis: a live bar on a terminal, plain lines elsewhere."""

import time

from rich.console import Console, Group
from rich.live import Live
from rich.progress import BarColumn, Progress, TaskID, TextColumn
from rich.text import Text

from dearkd.said import PLAIN_SECONDS
from synth.stage import Step
from synth.synthesis import Prepared

__all__ = ["SynthesisProgress", "clock"]


class SynthesisProgress:
    """Shows the progress of one process's share of a run.

    The time left is estimated from pixels, not iterations: one at 224 costs four at 112.
    """

    def __init__(
        self, console: Console, stages: tuple[tuple[int, int], ...], *, visible: bool = True
    ) -> None:
        self.console, self.stages, self.visible = console, stages, visible
        self.batch_work = sum(iterations * size**2 for size, iterations in stages)
        self.total = self.images = self.images_done = self.iterations = 0
        self.started = self.last_line = time.monotonic()
        self.bar = Progress(
            TextColumn("{task.description}"),
            BarColumn(bar_width=24),
            TextColumn("{task.percentage:>3.0f} %"),
            TextColumn("{task.fields[note]}"),
            console=console,
        )
        self.task: TaskID | None = None
        self.live: Live | None = None

    def __enter__(self) -> "SynthesisProgress":
        if self.visible and self.console.is_terminal:
            self.live = Live(self.bar, console=self.console, refresh_per_second=4)
            self.live.start()
        return self

    def __exit__(self, *error: object) -> None:
        if self.live is not None:
            self.live.stop()

    def begin(self, prepared: Prepared) -> None:
        """Takes over how much there is to do, and starts the clock."""
        each = sum(iterations for _, iterations in self.stages)
        self.total = prepared.iterations_here // each * self.batch_work
        self.images, self.images_done = prepared.images_here, 0
        self.started = self.last_line = time.monotonic()
        self.task = self.bar.add_task("", total=max(1, self.total), note="")

    def step(self, step: Step, iterations_done: int, *, warming_up: bool) -> None:
        """Shows stage, iteration, speed, time left and the terms.

        ``warming_up``: the images of these steps are not kept.
        """
        elapsed = time.monotonic() - self.started
        done = self._work(step, iterations_done)
        left = elapsed / done * (self.total - done)
        where = "warm-up, " if warming_up else ""
        where += (
            f"stage {step.stage + 1}/{len(self.stages)}, {step.resolution} px, "
            f"iteration {step.iteration}/{self.stages[step.stage][1]}"
        )
        note = (
            f"{iterations_done / max(1e-9, elapsed):.2f} iterations/s  "
            f"{self.images_done}/{self.images} images  left {clock(left)}"
        )
        terms = _terms(step)
        if self.live is not None and self.task is not None:
            self.bar.update(self.task, completed=done, description=where, note=note)
            self.live.update(Group(self.bar, Text(terms, style="dim")))
        elif self.visible and time.monotonic() - self.last_line > PLAIN_SECONDS:
            self.last_line = time.monotonic()
            share = 100 * done / self.total
            self.console.print(f"  {share:.0f} %  {where}  {note}  {terms}", markup=False)

    def group(self, images: int) -> None:
        """Adds the images of a finished group to those that are done."""
        self.images_done += images

    def _work(self, step: Step, iterations_done: int) -> int:
        """Pixels of one image times iterations so far, over all batches of this process."""
        before = self.stages[: step.stage]
        here = step.iteration + sum(iterations for _, iterations in before)
        batches = (iterations_done - here) // sum(iterations for _, iterations in self.stages)
        within = sum(iterations * size**2 for size, iterations in before)
        return batches * self.batch_work + within + step.iteration * step.resolution**2


def clock(seconds: float) -> str:
    """Seconds as ``h:mm:ss``."""
    whole = int(seconds)
    return f"{whole // 3600}:{whole // 60 % 60:02d}:{whole % 60:02d}"


def _terms(step: Step) -> str:
    """The objective and each term as text, averaged over the groups of the batch."""
    means = {name: sum(values) / len(values) for name, values in step.terms.items()}
    total = means.pop("objective")
    parts = "  ".join(f"{name} {value:.3g}" for name, value in means.items())
    return f"objective {total:.3g}  ({parts})"

"""What a person sees while a run goes on: a live bar on a terminal, a line an epoch elsewhere."""

import time
from typing import Any

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TaskID,
    TextColumn,
    TimeRemainingColumn,
)

from dearkd.said import PLAIN_SECONDS
from dearkd.training.stages import Position

__all__ = ["RunProgress"]

WORTH_SAYING, WORTH_MENDING = 0.05, 1 / 3
"""Shares of an epoch spent waiting for data from which the epoch's line, and a hint, say so."""


class RunProgress:
    """Draws the steps of the whole run, so that the time left is the run's, not the epoch's."""

    def __init__(self, console: Console, visible: bool = True, faster_data: str = "") -> None:
        self.console = console
        self.visible = visible
        self.faster_data = faster_data
        """What to change where data is waited for; empty once it was said."""
        self.bar: Progress | None = None
        self.task: TaskID | None = None
        self.steps = self.epochs = self.epoch = self.seen = 0
        self.stage = ""
        self.started = self.last_line = time.monotonic()

    def __enter__(self) -> "RunProgress":
        if self.visible and self.console.is_terminal:
            self.bar = Progress(
                TextColumn("{task.description}"),
                BarColumn(bar_width=24),
                MofNCompleteColumn(),
                TextColumn("steps"),
                TextColumn("left"),
                TimeRemainingColumn(),
                TextColumn("{task.fields[note]}"),
                console=self.console,
                transient=True,
            )
            self.bar.start()
        return self

    def __exit__(self, *error: object) -> None:
        if self.bar is not None:
            self.bar.stop()

    def begin(self, position: Position, total_epochs: int, steps: int) -> None:
        """Notes where the run stands; opens the bar the first time."""
        self.steps, self.epochs, self.epoch = steps, total_epochs, position.epoch
        self.stage, self.seen, self.started = position.stage, 0, time.monotonic()
        if self.bar is not None:
            done = position.epoch * steps + position.step
            if self.task is None:
                self.task = self.bar.add_task("", total=total_epochs * steps, note="")
            title = f"{self.stage} epoch {self.epoch + 1}/{total_epochs}"
            self.bar.update(self.task, completed=done, description=title)

    def step(self, step: int, images: int, terms: dict[str, float] | None) -> None:
        """Advances; shows the loss whenever it was read."""
        self.seen += images
        if self.bar is not None and self.task is not None:
            self.bar.update(self.task, advance=1)
            if terms is not None:
                self.bar.update(self.task, note=self._note(terms))
        elif self.visible and terms and time.monotonic() - self.last_line > PLAIN_SECONDS:
            self.last_line = time.monotonic()
            where = f"{self.stage} epoch {self.epoch + 1}/{self.epochs} step {step}/{self.steps}"
            self.console.print(f"  {where}  {self._note(terms)}", highlight=False)

    def end(self, line: dict[str, Any]) -> None:
        """Prints the epoch's numbers."""
        if not self.visible:
            return
        self.last_line = time.monotonic()
        top1 = "" if line["top1"] is None else f"  top1 {line['top1']:.2f} %"
        left, wait = self._left(line), line["data_wait"]
        waiting = f"  waiting for data {100 * wait:.0f} %" if wait > WORTH_SAYING else ""
        self.console.print(
            f"{line['stage']} epoch {line['epoch'] + 1}/{self.epochs}  loss {line['loss']:.4f}"
            f"{top1}  {line['images_per_second']:.0f} images/s{waiting}  lr {line['lr']:.2e}"
            f"  left {left}",
            highlight=False,
        )
        if wait > WORTH_MENDING and self.faster_data:
            share = f"{100 * wait:.0f} % of the epoch was spent waiting for data"
            self.console.print(f"note: {share}; {self.faster_data}", highlight=False)
            self.faster_data = ""

    def say(self, text: str) -> None:
        """Prints a line of its own."""
        if self.visible:
            self.console.print(text, highlight=False)

    def _note(self, terms: dict[str, float]) -> str:
        rate = self.seen / max(1e-9, time.monotonic() - self.started)
        return f"loss {terms['loss']:.4f}  {rate:.0f} images/s"

    def _left(self, line: dict[str, Any]) -> str:
        done = line["epoch"] + 1
        seconds = int(line["seconds"] / done * (self.epochs - done))
        return f"{seconds // 3600}:{seconds // 60 % 60:02d}:{seconds % 60:02d}"

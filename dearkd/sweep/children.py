"""Commands in child processes, some side by side; what asks us to stop is passed on to them."""

import json
import os
import re
import subprocess
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeAlias

from dearkd.run_folder.stop import UNDER, StopRequest
from synth.cores import usable_cores

__all__ = ["Child", "run_all", "threads_each"]

Process: TypeAlias = "subprocess.Popen[bytes]"
COMMAND = (sys.executable, "-m", "dearkd")
POLL_SECONDS, WATCH_SECONDS = 0.1, 5.0
"""Time between two looks at which children have ended, and at how far the others are."""
AGAIN = "--- again: dearkd "
"""Begins a line of a log, after which a later start of the command writes."""


@dataclass(frozen=True)
class Child:
    """A command of ``dearkd`` and the file that it adds its lines to."""

    name: str
    words: tuple[str, ...]
    log: Path

    def start(self, threads: int) -> Process:
        """Starts the command, in a session of its own: Ctrl-C reaches it through us alone."""
        self.log.parent.mkdir(parents=True, exist_ok=True)
        with self.log.open("ab") as log:
            if log.tell():
                log.write(f"\n{AGAIN}{' '.join(self.words)}\n".encode())
                log.flush()
            return subprocess.Popen(
                [*COMMAND, *self.words],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                env={**os.environ, "OMP_NUM_THREADS": str(threads), UNDER: str(os.getpid())},
                start_new_session=True,
            )

    def last_words(self) -> str:
        """The error that it told last, else its last line."""
        lines = self._said().splitlines()
        told = [line for line in lines if line.startswith("error: ")] or lines or [""]
        return told[-1].removeprefix("error: ")

    def last_object(self) -> dict[str, Any] | None:
        """The JSON object that it printed last, whatever stands around it; None: there is none."""
        text = self._said()
        for begin in reversed([found.start() for found in re.finditer(r"^\{", text, re.MULTILINE)]):
            with suppress(ValueError):
                found: dict[str, Any] = json.JSONDecoder().raw_decode(text, begin)[0]
                return found
        return None

    def _said(self) -> str:
        """What it wrote since it was started last."""
        text = self.log.read_text(encoding="utf-8", errors="replace")
        _, again, rest = text.rpartition(f"\n{AGAIN}")
        return rest.partition("\n")[2] if again else text


def threads_each(jobs: int) -> int:
    """Threads of each of so many processes side by side: an equal share of the cores, or fewer.

    ``OMP_NUM_THREADS`` in the environment is the most that a user wants; of several numbers, which
    are for nested loops, the first. OpenMP goes on without one that is none.
    """
    share = max(1, usable_cores() // jobs)
    wanted = os.environ.get("OMP_NUM_THREADS", "").partition(",")[0].strip()
    return min(share, int(wanted)) if wanted.isdecimal() and int(wanted) else share


def run_all(
    children: Sequence[Child],
    jobs: int,
    begun: Callable[[Child], None],
    ended: Callable[[Child, int], None],
    watch: Callable[[Sequence[Child]], None] = lambda running: None,
) -> None:
    """Runs the commands in their order, ``jobs`` at a time; what ends is told with its exit code.

    ``watch`` is called with those that go on.

    Raises:
        Interrupted: After Ctrl-C, SIGTERM or SIGUSR1, once the children have saved and ended.
    """
    waiting, running = list(children), dict[Child, Process]()
    threads, stop, told, seen = threads_each(jobs), StopRequest(), False, time.monotonic()
    with stop.listening(), _ended_with_us(running):
        while running or (waiting and not stop.made):
            while waiting and len(running) < jobs and not stop.made:
                child = waiting.pop(0)
                running[child] = child.start(threads)
                begun(child)
            if stop.made and not told:
                told = True
                _terminate(running.values())
            time.sleep(POLL_SECONDS)
            for child in [c for c, process in running.items() if process.poll() is not None]:
                ended(child, running.pop(child).returncode)
            if time.monotonic() - seen > WATCH_SECONDS:
                seen = time.monotonic()
                watch(list(running))
    if stop.made:
        raise stop.interrupted()


@contextmanager
def _ended_with_us(running: dict[Child, Process]) -> Iterator[None]:
    """Whatever ends the loop over them, no child goes on without us."""
    try:
        yield
    finally:
        _terminate(running.values())
        for process in running.values():
            process.wait()


def _terminate(processes: Iterable[Process]) -> None:
    for process in processes:
        process.terminate()

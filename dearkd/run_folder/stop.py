"""Turns Ctrl-C and a scheduler's signals into requests, so that state is saved before the end.

SIGTERM and SIGUSR1 are a scheduler's: it takes the machine away, and the command is to be started
again (`REQUEUE`). Ctrl-C is a person's.
"""

import os
import signal
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from types import FrameType

__all__ = [
    "INTERRUPTED",
    "REQUEUE",
    "SCHEDULER",
    "UNDER",
    "Interrupted",
    "RequeueSignal",
    "StopRequest",
    "raising_on_signals",
]

INTERRUPTED = 130
"""Exit code of a command that Ctrl-C ended: 128 + SIGINT."""
REQUEUE = 75
"""Exit code of a command that a scheduler ended and that goes on when it is started again.

EX_TEMPFAIL of sysexits.h: "the user is invited to retry the operation".
"""
UNDER = "DEARKD_UNDER"
"""In the environment of a command that another one has started: the other's process id. Read where
a process is its parent's own child; Python in a virtual environment on Windows is a launcher's."""
SIGUSR1: int | None = getattr(signal, "SIGUSR1", None)
"""None on Windows."""
SCHEDULER = (signal.SIGTERM,) if SIGUSR1 is None else (signal.SIGTERM, SIGUSR1)
"""What schedulers send before they end a process."""


class RequeueSignal(KeyboardInterrupt):
    """A scheduler's signal where the work can stop at any point."""

    code = REQUEUE


class Interrupted(Exception):  # noqa: N818 - not an error
    """The run was asked to stop and has saved its state; ``requeue``: by a scheduler."""

    def __init__(self, requeue: bool = False) -> None:
        super().__init__()
        self.code = REQUEUE if requeue else INTERRUPTED


class StopRequest:
    """Whether the process is to stop: by a signal, or as the command is gone that started it."""

    def __init__(self) -> None:
        self.first: int | None = None
        under = os.environ.get(UNDER, "")
        self.under = int(under) if under.isdecimal() and os.name == "posix" else 0

    @property
    def made(self) -> bool:
        """Whether the process has been asked to stop."""
        if self.first is None and self.under and os.getppid() != self.under:
            self.first = signal.SIGTERM
        return self.first is not None

    def interrupted(self) -> Interrupted:
        """What ends the run once its state is saved; of several processes any may be asked."""
        return Interrupted(requeue=self.first != signal.SIGINT)

    @contextmanager
    def listening(self) -> Iterator[None]:
        """Handles the signals: the first is noted, the second stops the process at once.

        SIGUSR1 is no second one, and after it none is: a scheduler sends it to all processes of a
        job, maybe twice, and SIGTERM when the time is over.
        """
        with _handled((signal.SIGINT, *SCHEDULER), self._note):
            yield

    def _note(self, number: int, frame: FrameType | None) -> None:
        if self.first is None:
            self.first = number
        elif SIGUSR1 not in (number, self.first):
            raise KeyboardInterrupt


@contextmanager
def raising_on_signals() -> Iterator[None]:
    """Has a scheduler's signals raise ``RequeueSignal`` at any point, as Ctrl-C does its own."""
    with _handled(SCHEDULER, _raise):
        yield


def _raise(number: int, frame: FrameType | None) -> None:
    raise RequeueSignal


@contextmanager
def _handled(
    kinds: Sequence[int], handler: Callable[[int, FrameType | None], None]
) -> Iterator[None]:
    """Installs ``handler`` for these signals inside the block.

    Does nothing outside the main thread, which alone receives signals.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    previous = [signal.signal(kind, handler) for kind in kinds]
    try:
        yield
    finally:
        for kind, before in zip(kinds, previous, strict=True):
            signal.signal(kind, before)

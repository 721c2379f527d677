"""Turns Ctrl-C and SIGTERM into requests, so that the loop can save its state before it stops."""

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

__all__ = ["Interrupted", "StopRequest", "sigterm_as_ctrl_c"]


class Interrupted(Exception):  # noqa: N818 - not an error
    """The run was asked to stop and has saved its state."""


class StopRequest:
    """Whether a signal asked the process to stop."""

    def __init__(self) -> None:
        self.made = False

    @contextmanager
    def listening(self) -> Iterator[None]:
        """Handles the signals: the first is noted, the second stops the process at once.

        Python delivers signals to the main thread alone; in any other thread this does nothing.
        """
        if threading.current_thread() is not threading.main_thread():
            yield
            return
        kinds = (signal.SIGINT, signal.SIGTERM)
        previous = [signal.signal(kind, self._note) for kind in kinds]
        try:
            yield
        finally:
            for kind, handler in zip(kinds, previous, strict=True):
                signal.signal(kind, handler)

    def _note(self, number: int, frame: Any) -> None:
        if self.made:
            raise KeyboardInterrupt
        self.made = True


@contextmanager
def sigterm_as_ctrl_c() -> Iterator[None]:
    """Lets SIGTERM interrupt as Ctrl-C does, at any time: for work whose files appear whole."""
    if threading.current_thread() is not threading.main_thread():
        yield  # Python hands signals to the main thread alone
        return
    interrupt = signal.getsignal(signal.SIGINT)  # ignored in a shell's background jobs
    handler = interrupt if callable(interrupt) else signal.default_int_handler
    previous = signal.signal(signal.SIGTERM, handler)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, previous)

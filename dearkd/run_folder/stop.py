"""Ctrl-C and SIGTERM as a request: the loop stops where it can save its state."""

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

__all__ = ["Interrupted", "StopRequest"]


class Interrupted(Exception):  # noqa: N818 - it is no error
    """The run was asked to stop and has saved its state."""


class StopRequest:
    """Whether the process was asked to stop while it listened."""

    def __init__(self) -> None:
        self.made = False

    @contextmanager
    def listening(self) -> Iterator[None]:
        """Takes the signals: the first is noted, a second one stops at once.

        In a thread that is not the main one nothing is heard: Python gives signals to that alone.
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

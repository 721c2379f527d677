"""Entry point of the installed command, which handles Ctrl-C before slow imports begin."""

import gc
import os
import signal
import sys
from types import FrameType

from dearkd.run_folder.threads import settle_threads

__all__ = ["main"]

INTERRUPTED = 130
"""Exit code of a command that Ctrl-C ended: 128 + SIGINT."""


def main() -> None:
    """Runs the typed command and exits."""
    # A shell has background jobs ignore Ctrl-C, and so do we.
    if signal.getsignal(signal.SIGINT) is signal.default_int_handler:
        signal.signal(signal.SIGINT, _interrupt)
    settle_threads()
    try:
        from dearkd.cli.app import run

        run()
    except KeyboardInterrupt:
        sys.exit(INTERRUPTED)
    finally:
        gc.freeze()  # Python's last look for garbage, at a million objects, takes a second


def _interrupt(number: int, frame: FrameType | None) -> None:
    """Ends an import at once: a library may turn KeyboardInterrupt into an error of its own."""
    while frame is not None:
        if frame.f_code.co_filename.startswith("<frozen importlib"):
            os._exit(INTERRUPTED)
        frame = frame.f_back
    raise KeyboardInterrupt

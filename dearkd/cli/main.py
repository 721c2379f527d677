"""Entry point of the installed command, which handles signals before slow imports begin."""

import gc
import io
import os
import signal
import sys
from types import FrameType

from dearkd.run_folder.stop import INTERRUPTED, REQUEUE, SCHEDULER, RequeueSignal
from dearkd.run_folder.threads import settle_threads

__all__ = ["main"]


def main() -> None:
    """Runs the typed command and exits."""
    # A shell has background jobs ignore Ctrl-C, and so do we.
    if signal.getsignal(signal.SIGINT) is signal.default_int_handler:
        signal.signal(signal.SIGINT, _interrupt)
    for kind in SCHEDULER:
        if signal.getsignal(kind) is signal.SIG_DFL:
            signal.signal(kind, _requeue)
    _escape_output()
    settle_threads()
    try:
        from dearkd.cli.app import run

        run()
    except RequeueSignal as stopped:
        sys.exit(stopped.code)
    except KeyboardInterrupt:
        sys.exit(INTERRUPTED)
    finally:
        gc.freeze()  # Python's last look for garbage, at a million objects, takes a second


def _escape_output() -> None:
    """Has stdout write what it cannot encode as stderr does; a file's name may be any bytes."""
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="backslashreplace")


def _interrupt(number: int, frame: FrameType | None) -> None:
    _leave_imports(frame, INTERRUPTED)
    raise KeyboardInterrupt


def _requeue(number: int, frame: FrameType | None) -> None:
    _leave_imports(frame, REQUEUE)
    raise RequeueSignal


def _leave_imports(frame: FrameType | None, code: int) -> None:
    """Ends an import at once: a library may turn KeyboardInterrupt into an error of its own."""
    while frame is not None:
        if frame.f_code.co_filename.startswith("<frozen importlib"):
            os._exit(code)
        frame = frame.f_back

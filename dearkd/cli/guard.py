"""Shows the user's mistakes and what the machine lacks in one line, and bugs with a traceback."""

import errno
import functools
import os
import sys
import warnings
from collections.abc import Callable
from typing import Any

import typer

from dearkd.cli.options import error_console
from dearkd.errors import UserError, is_out_of_memory, one_line
from dearkd.loading import without_collection
from dearkd.run_folder.stop import Interrupted, RequeueSignal

__all__ = ["guarded"]

_SMALLER_STEPS = (
    "add --set data.micro_batch=auto, or a number of views a pass: the batch stays the same"
)
LESS_MEMORY = {
    "train": _SMALLER_STEPS,
    "teacher": _SMALLER_STEPS,
    "evaluate": "lower --batch-size (the budget of --probe is fixed)",
    "synthesize": "lower --images-per-batch",
    "distill": "add --set train.data.micro_batch=auto (the batch stays the same), or a smaller "
    "--set synth.images_per_batch=N",
}
"""Verb: what to do when the device is full; the others can only be given more room."""
ENVIRONMENT = {
    errno.ENOSPC: "make room, or choose another --out",
    errno.EDQUOT: "make room, or choose another --out",
    errno.EROFS: "choose another --out",
    errno.EACCES: "check its permissions",
    errno.EPERM: "check its permissions",
    errno.ENAMETOOLONG: "choose a shorter name",
}
"""What the machine may refuse at any place, and what to do; other OSErrors are bugs of ours."""


def guarded(verb: Callable[..., None]) -> Callable[..., None]:
    """The verb, with errors that are meant for the user shown in one line on stderr (exit code 2).

    They are the ``UserError`` of dearkd and the ``SynthError`` of synth, a full or read-only disk,
    and a device without memory. Anything else is a bug of ours and keeps its traceback. With
    ``DEARKD_TRACEBACK=1`` in the environment every error does.
    """

    @functools.wraps(verb)
    def call(*args: Any, **kwargs: Any) -> None:
        with without_collection():
            import torch  # noqa: F401 - takes seconds, so it is not left to whoever needs it first

        if not sys.warnoptions:
            # Pillow's is of an enormous image, which it reads; a yet larger one it refuses.
            warnings.filterwarnings("ignore", module="torch|timm|accelerate|PIL")
        try:
            verb(*args, **kwargs)
        except (Interrupted, RequeueSignal) as stopped:  # before Typer takes it for Ctrl-C
            raise typer.Exit(stopped.code) from None
        except Exception as error:
            line = _line(error, verb.__name__)
            if line is None or os.environ.get("DEARKD_TRACEBACK"):
                raise
            error_console().print(f"error: {line}", style="red")
            raise typer.Exit(2) from None

    return call


def _line(error: Exception, verb: str) -> str | None:
    """What the user is told, in one line; None of a bug of ours."""
    from synth.refusal import SynthError

    if isinstance(error, UserError | SynthError):
        return " ".join(str(error).split())
    if isinstance(error, OSError) and error.errno in ENVIRONMENT:
        place = f": {error.filename}" if error.filename else ""
        return f"{error.strerror}{place}; {ENVIRONMENT[error.errno]}"
    if is_out_of_memory(error):
        remedy = LESS_MEMORY.get(verb, "end what else uses the device")
        return f"out of memory; {remedy} ({one_line(error)})"
    return None

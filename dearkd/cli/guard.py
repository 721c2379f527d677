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
from dearkd.errors import UserError, one_line
from dearkd.loading import without_collection
from dearkd.run_folder.stop import Interrupted

__all__ = ["guarded"]

_SMALLER_STEPS = "lower data.micro_batch, e.g. --set data.micro_batch=64: the batch stays the same"
LESS_MEMORY = {
    "train": _SMALLER_STEPS,
    "teacher": _SMALLER_STEPS,
    "evaluate": "lower --batch-size",
    "synthesize": "lower --images-per-batch",
    "distill": "set synth.images_per_batch, or train.data.micro_batch=64: the batch stays the same",
}
"""Verb: what to do when the device is full; the others can only be given more room."""
ENVIRONMENT = {
    errno.ENOSPC: "make room, or choose another --out",
    errno.EDQUOT: "make room, or choose another --out",
    errno.EROFS: "choose another --out",
    errno.EACCES: "check its permissions",
    errno.EPERM: "check its permissions",
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
            from torch import OutOfMemoryError

        from synth.refusal import SynthError

        if not sys.warnoptions:
            # Pillow's is of an enormous image, which it reads; a yet larger one it refuses.
            warnings.filterwarnings("ignore", module="torch|timm|accelerate|PIL")
        try:
            verb(*args, **kwargs)
        except (UserError, SynthError) as error:
            _raise_or_refuse(error, " ".join(str(error).split()))
        except OSError as error:
            if error.errno not in ENVIRONMENT:
                raise
            place = f": {error.filename}" if error.filename else ""
            remedy = ENVIRONMENT[error.errno]
            _raise_or_refuse(error, f"{error.strerror}{place}; {remedy}")
        except OutOfMemoryError as error:
            remedy = LESS_MEMORY.get(verb.__name__, "end what else uses the device")
            _raise_or_refuse(error, f"out of memory; {remedy} ({one_line(error)})")
        except Interrupted:
            raise typer.Exit(130) from None

    return call


def _raise_or_refuse(error: Exception, line: str) -> None:
    if os.environ.get("DEARKD_TRACEBACK"):
        raise error
    error_console().print(f"error: {line}", style="red")
    raise typer.Exit(2) from None

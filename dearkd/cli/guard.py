"""The user's mistakes and what the machine lacks, told in one line; bugs, with their traceback."""

import functools
import os
import sys
import traceback
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import typer
from rich.console import Console

from dearkd.run_folder.stop import Interrupted

__all__ = ["guarded"]

_SMALLER_STEPS = "lower data.micro_batch, e.g. --set data.micro_batch=64: the batch stays the same"
LESS_MEMORY = {
    "train": _SMALLER_STEPS,
    "teacher": _SMALLER_STEPS,
    "evaluate": "lower --batch-size",
    "synthesize": "lower --images-per-batch",
}
"""Verb: what to do when the device is full; the others can only be given more room."""
OURS = tuple(Path(__file__).parents[2] / package for package in ("dearkd", "synth"))
"""What is raised here is meant for the user."""


def guarded(verb: Callable[..., None]) -> Callable[..., None]:
    """The verb with the user's mistakes turned into one line on stderr and exit code 2.

    A ValueError that a library raised for itself is a bug of ours, and shows its traceback.
    ``DEARKD_TRACEBACK=1`` shows where any error came from.
    """

    @functools.wraps(verb)
    def call(*args: Any, **kwargs: Any) -> None:
        from torch import OutOfMemoryError

        if not sys.warnoptions:
            # Pillow's is of an enormous image, which it reads; a yet larger one it refuses.
            warnings.filterwarnings("ignore", module="torch|timm|accelerate|PIL")
        try:
            verb(*args, **kwargs)
        except (ValueError, OSError, ImportError, FloatingPointError) as error:
            if os.environ.get("DEARKD_TRACEBACK") or _is_bug(error):
                raise
            _refuse(_one_line(error))
        except OutOfMemoryError as error:
            if os.environ.get("DEARKD_TRACEBACK"):
                raise
            remedy = LESS_MEMORY.get(verb.__name__, "end what else uses the device")
            _refuse(f"out of memory; {remedy} ({_one_line(error)})")
        except Interrupted:
            raise typer.Exit(130) from None

    return call


def _refuse(line: str) -> None:
    # Made here: a console keeps the stream it finds, and a later caller may have replaced it.
    console = Console(stderr=True, highlight=False, soft_wrap=True)
    console.print(f"error: {line}", style="red", markup=False)
    raise typer.Exit(2) from None


def _is_bug(error: Exception) -> bool:
    """Whether an installed library raised a ValueError that none of our code expected."""
    if not isinstance(error, ValueError) or error.__traceback__ is None:
        return False
    file = Path(traceback.extract_tb(error.__traceback__)[-1].filename)
    return "site-packages" in file.parts and not any(file.is_relative_to(own) for own in OURS)


def _one_line(error: Exception) -> str:
    """The first line of a message, with the file for an operating system's error."""
    if isinstance(error, OSError) and error.strerror:
        return f"{error.strerror}: {error.filename}" if error.filename else error.strerror
    return (str(error) or type(error).__name__).splitlines()[0]

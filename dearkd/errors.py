"""Errors for the user, which are shown in one line; any other error is a bug of ours."""

import difflib
from pathlib import Path

__all__ = [
    "ALIKE",
    "MissingFileError",
    "UnusableImportError",
    "UserError",
    "WriteError",
    "is_out_of_memory",
    "missing",
    "one_line",
]

ALIKE = 0.7
"""How alike two names are, of 1, for the one to be a misspelling of the other."""
LONGEST = 200
"""Most characters of another library's message that are passed on."""


class UserError(ValueError):
    """A mistake in what was typed or in the user's files; it names the value and the remedy."""


class MissingFileError(UserError, FileNotFoundError):
    """A path that does not exist."""


class UnusableImportError(UserError, ImportError):
    """A Python file of the user's that fails, or a package that is not installed."""


class WriteError(UserError, OSError):
    """A file that could not be written: no room, or no permission."""


def missing(what: str, path: Path, remedy: str = "check the path") -> MissingFileError:
    """The error that a path does not exist, with the one beside it that is probably meant."""
    return MissingFileError(f"{what} does not exist; {_meant(path) or remedy}")


FULL = (
    "DefaultCPUAllocator: can't allocate memory",
    "could not create a primitive",  # oneDNN's one word for all that fails, full memory included
    "MPS backend out of memory",
)
"""How torch says of a CPU and of Apple's GPUs what has an error of its own on others."""


def is_out_of_memory(error: BaseException) -> bool:
    """Whether the device, or the machine, has no memory left for what was asked."""
    from torch import OutOfMemoryError

    told = isinstance(error, RuntimeError) and any(words in str(error) for words in FULL)
    return told or isinstance(error, OutOfMemoryError | MemoryError)


def one_line(error: BaseException) -> str:
    """An error's message in one line: a ``UserError`` whole, of others the first 200 characters."""
    text = " ".join(str(error).split()) or type(error).__name__
    return text if isinstance(error, UserError) or len(text) <= LONGEST else text[:LONGEST] + "..."


def _meant(path: Path) -> str:
    """``did you mean PATH?`` where the first part that is missing is the misspelling of another."""
    absent = path
    while not absent.parent.exists():
        absent = absent.parent
    try:
        names = [entry.name for entry in absent.parent.iterdir()]
    except OSError:  # a file, or a folder that may not be read
        return ""
    near = difflib.get_close_matches(absent.name, names, n=1, cutoff=ALIKE)
    found = [absent.parent / name / path.relative_to(absent) for name in near]
    return f"did you mean {found[0]}?" if found and found[0].exists() else ""

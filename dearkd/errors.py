"""Errors for the user, which are shown in one line; any other error is a bug of ours."""

import difflib
import re
from pathlib import Path

__all__ = [
    "ALIKE",
    "MissingFileError",
    "UnusableImportError",
    "UserError",
    "WriteError",
    "is_out_of_memory",
    "missing_file",
    "one_line",
]

ALIKE = 0.7
"""How alike two names are, of 1, for the one to be a misspelling of the other."""
MOST_NAMES = 5000
"""Names in a folder at most for one of them to be looked for: it takes a second."""
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


FULL = (
    "DefaultCPUAllocator: can't allocate memory",
    "could not create a primitive",  # oneDNN's one word for all that fails, full memory included
    "MPS backend out of memory",
)
"""How torch says of a CPU and of Apple's GPUs what has an error of its own on others."""


def missing_file(what: str, path: Path, remedy: str = "check the path") -> MissingFileError:
    """The error that a path is no file, with the one beside it that is probably meant."""
    if path.exists():
        return MissingFileError(f"{what} is no file; {remedy}")
    return MissingFileError(f"{what} does not exist; {_meant(path) or remedy}")


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
    """``did you mean PATH?`` where the first part that is missing is the misspelling of another.

    A name with another number is another thing, and a folder is not meant by the name of a file.
    """
    try:
        absent = next((part for part in (path, *path.parents) if part.parent.exists()), path)
        own = _without_digits(absent.name)
        names = [entry.name for entry in absent.parent.iterdir()]
        names = [name for name in names if _without_digits(name) != own]
        if len(names) > MOST_NAMES:
            return ""
        near = difflib.get_close_matches(absent.name, names, cutoff=ALIKE)
        found = [absent.parent / name / path.relative_to(absent) for name in near]
        fits = [one for one in found if one.exists() and not (path.suffix and one.is_dir())]
    except OSError:  # a folder that is none or may not be read, a name that is too long
        return ""
    return f"did you mean {fits[0]}?" if fits else ""


def _without_digits(name: str) -> str:
    return re.sub(r"\d+", "", name)

"""Errors for the user, which are shown in one line; any other error is a bug of ours."""

__all__ = [
    "MissingFileError",
    "UnusableImportError",
    "UserError",
    "WriteError",
    "is_out_of_memory",
    "one_line",
]

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


def is_out_of_memory(error: BaseException) -> bool:
    """Whether the device, or the machine, has no memory left for what was asked."""
    from torch import OutOfMemoryError

    told = isinstance(error, RuntimeError) and any(words in str(error) for words in FULL)
    return told or isinstance(error, OutOfMemoryError | MemoryError)


def one_line(error: BaseException) -> str:
    """An error's message in one line: a ``UserError`` whole, of others the first 200 characters."""
    text = " ".join(str(error).split()) or type(error).__name__
    return text if isinstance(error, UserError) or len(text) <= LONGEST else text[:LONGEST] + "..."

"""What is meant for the user: told in one line without a traceback. All else is a bug of ours."""

__all__ = ["MissingFileError", "UnusableImportError", "UserError", "WriteError", "one_line"]

LONGEST = 200
"""Characters of another's message that are passed on."""


class UserError(ValueError):
    """A mistake in what was typed, or in a file of the user's; names the value and the remedy."""


class MissingFileError(UserError, FileNotFoundError):
    """A path that does not exist."""


class UnusableImportError(UserError, ImportError):
    """A Python file of the user's that fails, or a package that is not installed."""


class WriteError(UserError, OSError):
    """A file that could not be written: no room, or no permission."""


def one_line(error: BaseException) -> str:
    """What an error says, in one line: all of our own, the beginning of another's."""
    text = " ".join(str(error).split()) or type(error).__name__
    return text if isinstance(error, UserError) or len(text) <= LONGEST else text[:LONGEST] + "..."

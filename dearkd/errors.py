"""What is meant for the user: told in one line without a traceback. All else is a bug of ours."""

__all__ = ["MissingFileError", "UnusableImportError", "UserError", "WriteError"]


class UserError(ValueError):
    """A mistake in what was typed, or in a file of the user's; names the value and the remedy."""


class MissingFileError(UserError, FileNotFoundError):
    """A path that does not exist."""


class UnusableImportError(UserError, ImportError):
    """A Python file of the user's that fails, or a package that is not installed."""


class WriteError(UserError, OSError):
    """A file that could not be written: no room, or no permission."""

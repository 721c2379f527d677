"""Errors that the caller can mend: in a setting, a network or a folder."""

__all__ = ["NotFiniteError", "SynthError"]


class SynthError(ValueError):
    """A setting, network or folder can't be used. The message names the value and the remedy."""


class NotFiniteError(SynthError, FloatingPointError):
    """The objective became infinite or not a number."""

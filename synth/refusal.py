"""What is meant for whoever called the library: a mistake in a setting, a network, a folder."""

__all__ = ["NotFiniteError", "SynthError"]


class SynthError(ValueError):
    """A setting, network or folder that can't be used; names the value and the remedy."""


class NotFiniteError(SynthError, FloatingPointError):
    """An objective that is no longer a finite number."""

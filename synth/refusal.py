"""Errors that the caller can mend: in a setting, a network or a folder."""

import math

__all__ = ["NotFiniteError", "SynthError", "at_least", "at_most"]


class SynthError(ValueError):
    """A setting, network or folder can't be used. The message names the value and the remedy."""


class NotFiniteError(SynthError, FloatingPointError):
    """The objective became infinite or not a number."""


def at_least(name: str, value: float, floor: float) -> None:
    """Refuse a setting that is below its floor, or not finite."""
    if not value >= floor:
        raise SynthError(f"{name} must be at least {floor:g}, got {value}")
    if value == math.inf:
        raise SynthError(f"{name} must be finite, got {value}")


def at_most(name: str, value: float, bound: float) -> None:
    """Refuse a setting that is above its bound."""
    if value > bound:
        raise SynthError(f"{name} must be at most {bound}, got {value}")

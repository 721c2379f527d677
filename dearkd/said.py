"""Numbers and names as a person says them."""

from pathlib import Path

__all__ = ["data_name", "delta_text", "number", "seconds_text"]


def delta_text(delta: tuple[float, float] | None) -> str:
    """``+5.28 +- 1.00``, or nothing."""
    return "" if delta is None else f"{delta[0]:+.2f} +- {delta[1]:.2f}"


def number(value: float | None, form: str) -> str:
    """A number in a format; nothing where there is none."""
    return "" if value is None else format(value, form)


def seconds_text(seconds: float | None) -> str:
    """A duration as a person says it: ``40 min``."""
    if seconds is None:
        return ""
    if seconds < 90:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"


def data_name(evaluation: str | None) -> str:
    """The last part of a data set's path or name."""
    return "data that is not known" if evaluation is None else Path(evaluation).name

"""Numbers, names and commands as a person says them. Everyone may import this; it is light."""

import shlex
from collections.abc import Sequence
from pathlib import Path

__all__ = [
    "command",
    "counted",
    "data_name",
    "delta_text",
    "listed",
    "number",
    "seconds_text",
    "size_text",
]


def counted(count: int, noun: str, plural: str | None = None) -> str:
    """``1 image``, ``1,200 images``, ``2 classes``; ``plural`` where an s does not make it."""
    word = noun if count == 1 else plural or f"{noun}s"
    return f"{count:,} {word}"


def listed(names: Sequence[str]) -> str:
    """``a``, ``a and b``, ``a, b and c``."""
    return " and ".join(filter(None, (", ".join(names[:-1]), *names[-1:])))


def command(*words: object) -> str:
    """A command line that a shell takes apart into these words again."""
    return shlex.join(map(str, words))


def number(value: float | None, form: str) -> str:
    """A number in a format; nothing where there is none."""
    return "" if value is None else format(value, form)


def delta_text(delta: tuple[float, float] | None) -> str:
    """``+5.28 +- 1.00``, or nothing."""
    return "" if delta is None else f"{delta[0]:+.2f} +- {delta[1]:.2f}"


def seconds_text(seconds: float | None) -> str:
    """A duration as a person says it: ``40 min``."""
    if seconds is None:
        return ""
    if seconds < 90:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"


def size_text(size: float | None) -> str:
    """Bytes of memory or disk: ``3.2 MiB``, and from a tenth of a GiB on ``0.51 GiB``."""
    if size is None:
        return ""
    gib = size / 2**30
    return f"{gib:.2f} GiB" if gib >= 0.1 else f"{size / 2**20:.1f} MiB"


def data_name(evaluation: str | None) -> str:
    """The last part of a data set's path or name."""
    return "data that is not known" if evaluation is None else Path(evaluation).name

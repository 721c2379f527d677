"""Numbers, names and commands as text for people; every room may import this light module."""

import shlex
from collections.abc import Sequence
from pathlib import Path

__all__ = [
    "PLAIN_SECONDS",
    "command",
    "counted",
    "data_name",
    "delta_text",
    "listed",
    "markdown_table",
    "number",
    "seconds_text",
    "size_text",
]

PLAIN_SECONDS = 20.0
"""Without a terminal: least time between two lines of progress."""


def counted(count: int, noun: str, plural: str | None = None) -> str:
    """A number with its noun, such as ``1 image`` or ``1,200 images``.

    ``plural`` is the noun's plural where an added s does not make it (``classes``).
    """
    word = noun if count == 1 else plural or f"{noun}s"
    return f"{count:,} {word}"


def listed(names: Sequence[str]) -> str:
    """The names in a sentence: ``a``, ``a and b``, ``a, b and c``; empty without names."""
    return " and ".join(filter(None, (", ".join(names[:-1]), *names[-1:])))


def markdown_table(titles: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A table in Markdown, without an end of line."""
    lines = [titles, ["---"] * len(titles), *rows]
    return "\n".join(
        "| " + " | ".join(cell.replace("|", "\\|") for cell in row) + " |" for row in lines
    )


def command(*words: object) -> str:
    """The words as a command line, quoted so that a shell splits it into the same words."""
    return shlex.join(map(str, words))


def number(value: float | None, form: str) -> str:
    """The number in the format ``form``, or an empty text for None."""
    return "" if value is None else format(value, form)


def delta_text(delta: tuple[float, float] | None) -> str:
    """A difference and its error as ``+5.28 +- 1.00``, or an empty text for None."""
    return "" if delta is None else f"{delta[0]:+.2f} +- {delta[1]:.2f}"


def seconds_text(seconds: float | None) -> str:
    """A duration in s, min or h, whichever suits it (``40 min``); empty for None."""
    if seconds is None:
        return ""
    if seconds < 90:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"


def size_text(size: float | None) -> str:
    """A size in bytes as ``3.2 MiB``, or from a tenth of a GiB on ``0.51 GiB``; empty for None."""
    if size is None:
        return ""
    if size < 2**20:
        return f"{size / 2**10:.1f} KiB"
    gib = size / 2**30
    return f"{gib:.2f} GiB" if gib >= 0.1 else f"{size / 2**20:.1f} MiB"


def data_name(evaluation: str | None) -> str:
    """The last part of a data set's path or name; says that it is unknown for None."""
    return "data that is not known" if evaluation is None else Path(evaluation).name

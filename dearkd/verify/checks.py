"""One thing that is verified, and what was found."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Literal

from dearkd.errors import UserError

__all__ = ["Check", "found", "gathered"]

Verdict = Literal["holds", "fails", "open"]
"""``open``: it can't be said here, for a reason that is told."""


@dataclass(frozen=True)
class Check:
    """One thing that was verified."""

    name: str
    verdict: Verdict
    told: str
    """What was found, in a sentence without its full stop."""


def found(name: str, faults: list[str], holds: str) -> Check:
    """A check that fails with its first faults, and holds without any."""
    if not faults:
        return Check(name, "holds", holds)
    more = f" (and {len(faults) - 1} more)" if len(faults) > 1 else ""
    return Check(name, "fails", faults[0] + more)


def gathered(name: str, check: Callable[[], Check]) -> Iterator[Check]:
    """The check, failing with what a damaged or missing file is told by."""
    try:
        yield check()
    except (UserError, OSError, KeyError, TypeError, ValueError, AttributeError) as error:
        told = f"no {error}" if isinstance(error, KeyError) else " ".join(str(error).split())
        yield Check(name, "fails", told or repr(error))

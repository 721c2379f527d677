"""Where a value that was read from a file differs from what it should be made of.

A shape is a type, a tuple of shapes of which one must fit, a list of one shape for all elements, or
a mapping: a key with ``?`` may be missing, and ``...`` stands for all other keys.
"""

from collections.abc import Callable
from typing import Any

__all__ = ["NONE", "Shape", "matrix", "misfit", "number", "row", "table", "whole"]

MOST = 1e300
"""Numbers from here on can't be drawn or added up."""
SHOWN = 40
"""Characters of a value that are shown."""
Shape = Any
NONE = type(None)


def number(value: Any) -> bool:
    """Whether it is a number that can be shown; a flag is none."""
    return isinstance(value, int | float) and not isinstance(value, bool) and abs(value) < MOST


def whole(value: Any) -> bool:
    """Whether it is a whole number."""
    return isinstance(value, int) and number(value)


def row(value: Any) -> bool:
    """Whether it is a list of numbers, at least one."""
    return isinstance(value, list) and bool(value) and all(map(number, value))


def matrix(value: Any) -> bool:
    """Whether it is a list of lists of numbers of one length, at least one."""
    return table(value) and all(map(row, value))


def table(value: Any) -> bool:
    """Whether it is a list of numbers, or of lists of numbers of one length."""
    if not isinstance(value, list) or not value:
        return False
    if all(map(number, value)):
        return True
    lengths = {len(row) if isinstance(row, list) else -1 for row in value}
    return len(lengths) == 1 and all(isinstance(row, list) and table(row) for row in value)


def misfit(value: Any, shape: Shape, name: str = "") -> str | None:
    """Where a value differs from a shape, in words; None where it fits."""
    match shape:
        case type():
            return None if isinstance(value, shape) else f"{name or 'it'} is {_told(value)}"
        case tuple():
            faults = [misfit(value, one, name) for one in shape]
            within = [fault for fault in faults if fault != f"{name or 'it'} is {_told(value)}"]
            return None if None in faults else (within or faults)[0]
        case list():
            return _misfit_of_list(value, shape[0], name)
        case dict():
            return _misfit_of_mapping(value, shape, name)
    check: Callable[[Any], bool] = shape
    return None if check(value) else f"{name or 'it'} is {_told(value)}"


def _misfit_of_list(value: Any, shape: Shape, name: str) -> str | None:
    if not isinstance(value, list):
        return f"{name or 'it'} is {_told(value)}"
    faults = (misfit(item, shape, f"{name}[{place}]") for place, item in enumerate(value))
    return next((fault for fault in faults if fault is not None), None)


def _misfit_of_mapping(value: Any, shape: dict[Any, Shape], name: str) -> str | None:
    if not isinstance(value, dict):
        return f"{name or 'it'} is {_told(value)}"
    prefix = f"{name}." if name else ""
    if not shape and value:
        return f"{name or 'it'} is a mapping"
    known = {key.rstrip("?"): key for key in shape if key is not ...}
    for key, named in known.items():
        if key not in value and not named.endswith("?"):
            return f"{prefix}{key} is missing"
    for key, item in value.items():
        wanted = shape.get(known.get(key, ...), object)
        if (fault := misfit(item, wanted, f"{prefix}{key}")) is not None:
            return fault
    return None


def _told(value: Any) -> str:
    if isinstance(value, dict):
        return "a mapping"
    if isinstance(value, list):
        return "a list"
    text = repr(value)
    return text if len(text) <= SHOWN else f"{text[:SHOWN]}..."

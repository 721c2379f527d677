"""Faster loading of large packages."""

import gc
from collections.abc import Iterator
from contextlib import contextmanager

__all__ = ["without_collection"]


@contextmanager
def without_collection() -> Iterator[None]:
    """Switches Python's garbage collector off inside the block.

    Loading torch and timm makes a million objects that stay, and Python goes through them again and
    again: a quarter of the time.
    """
    was_on = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was_on:
            gc.enable()

"""JSON that may be a stranger's; every room may import this light module."""

import json
from typing import Any

__all__ = ["parsed"]


def parsed(text: str | bytes) -> Any:
    """What a JSON text holds.

    Raises:
        ValueError: If it is no JSON, or nested deeper than Python reads it.
    """
    try:
        return json.loads(text)
    except RecursionError as error:
        raise ValueError("its lists or mappings are nested too deeply") from error

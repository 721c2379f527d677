"""The methods by the names that are typed, and what tables and sentences call them.

The command line reads this file before torch is loaded, so it loads nothing.
"""

from typing import NamedTuple

__all__ = ["METHOD_NAMES", "MethodName", "explanation_of", "label_of"]


class MethodName(NamedTuple):
    """What a method is called."""

    label: str
    """In tables and sentences of a report."""
    explanation: str
    """What it trains with, for readers who don't know it."""


METHOD_NAMES = {
    "dearkd": MethodName(
        "DearKD, two stages",
        "DearKD (a CNN teacher's labels and hidden features first, then labels alone)",
    ),
    "deit-hard": MethodName(
        "DeiT, hard distillation", "DeiT's hard distillation from a CNN teacher"
    ),
    "deit-soft": MethodName(
        "DeiT, soft distillation", "DeiT's soft distillation from a CNN teacher"
    ),
    "deit": MethodName("DeiT distillation", "DeiT's distillation from a CNN teacher"),
    "ce": MethodName("labels alone", "cross-entropy with the labels, without a teacher"),
}


def label_of(method: str) -> str:
    """The label of a method; for one that ``--import`` added, its name."""
    return METHOD_NAMES[method].label if method in METHOD_NAMES else method


def explanation_of(method: str) -> str:
    """What a method trains with; for one that ``--import`` added, its name."""
    return METHOD_NAMES[method].explanation if method in METHOD_NAMES else method

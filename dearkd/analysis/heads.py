"""Accuracy and calibration of each head as the cells of a table."""

from collections.abc import Mapping
from typing import Any

__all__ = ["HEAD_TITLES", "head_rows"]

HEAD_TITLES = ("head", "top-1 %", "confidence %", "calibration error", "agrees with teacher %")


def head_rows(heads: Mapping[str, Mapping[str, Any]]) -> list[list[str]]:
    """A row for each head in ``analysis.json``, in the order of ``HEAD_TITLES``."""
    return [
        [
            name,
            f"{head['top1']:.2f}",
            f"{100 * head['confidence']:.2f}",
            f"{head['ece']:.4f}",
            "" if head["agreement_teacher"] is None else f"{head['agreement_teacher']:.2f}",
        ]
        for name, head in heads.items()
    ]

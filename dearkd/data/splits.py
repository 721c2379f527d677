"""The names by which folders and files are known as training or evaluation data."""

from collections.abc import Iterable
from pathlib import Path

__all__ = ["EVALUATION_NAMES", "TRAIN_NAMES", "split_of"]

TRAIN_NAMES = ("train", "training")
# In order of preference: a test split may come without labels, or be kept for the end.
EVALUATION_NAMES = ("val", "validation", "valid", "eval", "test")


def split_of(file: Path, root: Path) -> str | None:
    """The split a file belongs to: a word of its name, or of a folder between it and ``root``."""
    parts: Iterable[str] = (file.stem, *reversed(file.relative_to(root).parts[:-1]))
    words = "-".join(parts).lower().replace("_", "-").replace(".", "-").split("-")
    return next((word for word in words if word in TRAIN_NAMES + EVALUATION_NAMES), None)

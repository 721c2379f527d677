"""The names by which folders and files are known as training or evaluation data."""

import glob
import math
import os
import re
from collections.abc import Iterable, Sequence
from pathlib import Path

from dearkd.errors import UserError

__all__ = [
    "EVALUATION_NAMES",
    "TRAIN_NAMES",
    "by_split",
    "from_home",
    "is_pattern",
    "matching_files",
    "split_of",
]

TRAIN_NAMES = ("train", "training")
# In order of preference: a test split may come without labels, or be kept for the end.
EVALUATION_NAMES = ("val", "validation", "valid", "eval", "test")
_RANGE = re.compile(r"\{(\d+)\.\.(\d+)\}")
_WILDCARDS = "*?["
MOST_FILES = 100_000
"""Files that ranges count at most: a stranger's may count to the end of memory."""


def from_home(path: str | Path) -> Path:
    """A path in which ``~`` is the user's home; ``~NAME`` of nobody is a path like any other."""
    return Path(os.path.expanduser(path))  # noqa: PTH111 - Path.expanduser fails for nobody's


def split_of(file: Path, root: Path) -> str | None:
    """The split a file belongs to: a word of its name, or of a folder between it and ``root``."""
    parts: Iterable[str] = (file.stem, *reversed(file.relative_to(root).parts[:-1]))
    words = "-".join(parts).lower().replace("_", "-").replace(".", "-").split("-")
    return next((word for word in words if word in TRAIN_NAMES + EVALUATION_NAMES), None)


def by_split(files: Sequence[Path], root: Path) -> tuple[list[Path], list[Path]]:
    """The files for training, and those of the first split that is there to evaluate on."""
    splits = {file: split_of(file, root) for file in files}
    train = [file for file in files if splits[file] in TRAIN_NAMES]
    evaluations = ([file for file in files if splits[file] == name] for name in EVALUATION_NAMES)
    return train, next((found for found in evaluations if found), [])


def is_pattern(text: str) -> bool:
    """Whether a text names several files at once, as ``matching_files`` reads it."""
    return bool(_RANGE.search(text)) or any(letter in text for letter in _WILDCARDS)


def matching_files(pattern: str) -> list[Path]:
    """The files of a pattern: ``{000..146}`` counts; ``*``, ``?`` and ``[]`` as in a shell.

    What is counted is not looked for: it may name a file that is missing.

    Raises:
        UserError: If it counts too many.
    """
    ranges = [(int(first), int(last)) for first, last in _RANGE.findall(pattern)]
    count = math.prod(max(1, last - first + 1) for first, last in ranges)
    if count > MOST_FILES:
        raise UserError(
            f"{pattern} stands for {count:,} files, at most {MOST_FILES:,} are allowed; shorten "
            "its ranges"
        )
    return _matching(pattern)


def _matching(pattern: str) -> list[Path]:
    found = _RANGE.search(pattern)
    if found is None:
        some = any(letter in pattern for letter in _WILDCARDS)
        return [Path(name) for name in sorted(glob.glob(pattern))] if some else [Path(pattern)]  # noqa: PTH207
    first, last = found.groups()
    numbers = [f"{number:0{len(first)}}" for number in range(int(first), int(last) + 1)]
    before, after = pattern[: found.start()], pattern[found.end() :]
    return [file for number in numbers for file in _matching(before + number + after)]

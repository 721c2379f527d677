"""Sources of images: what one is, the digits, and parts of other sources.

A source decodes one image at a time to upright 8-bit RGB and can be pickled for data-loader
workers.
"""

import hashlib
import importlib.metadata
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol, TypeVar, runtime_checkable

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from dearkd.data.order import Shards, stratified_rows
from dearkd.errors import UserError

__all__ = [
    "NO_LABEL",
    "UNLABELLED",
    "Classes",
    "DigitsSource",
    "ImageSource",
    "SubsetSource",
    "digest",
    "encoded_labels",
    "natural_order",
    "shards_of",
]

T = TypeVar("T", str, Path)


@dataclass(frozen=True)
class Classes:
    """The classes that the labels 0 to count - 1 of a source stand for."""

    count: int
    names: tuple[str, ...] | None = None
    indices: tuple[int, ...] | None = None
    """The teacher's index of each class, where the data was synthesised from a teacher."""
    total: int | None = None
    """How many classes that teacher has."""

    @property
    def known(self) -> bool:
        """Whether the images have labels at all."""
        return self.count > 0


NO_LABEL = -1
"""The label of every image of a source without labels."""
UNLABELLED = Classes(0)
"""Its classes: none are known."""
MOST_CLASSES = 1_000_000
"""That numbers without names stand for: larger ones are IDs, and a head of so many has no room."""


@runtime_checkable
class ImageSource(Protocol):
    """Images with random access, and their labels.

    Where ``classes`` is ``UNLABELLED``, every label is ``NO_LABEL``.
    A source whose images lie in few large files may have ``shards`` too, as ``shards_of`` says.
    """

    @property
    def labels(self) -> NDArray[np.int64]:
        """The class of every image, from 0; ``NO_LABEL`` where none are known."""
        ...

    @property
    def classes(self) -> Classes:
        """What the labels stand for."""
        ...

    def __len__(self) -> int: ...

    def image(self, index: int) -> Image.Image:
        """The decoded image, upright 8-bit RGB of any size.

        Raises:
            BadImageError: If its content is damaged or it is no image.
        """
        ...

    def name(self, index: int) -> str:
        """The name under which a user finds the image: a file, or a row of a file."""
        ...

    def fingerprint(self) -> str:
        """A short hash of which images these are and in what order, whatever folder they are in.

        Must be quick: no image is decoded.
        """
        ...


class DigitsSource:
    """scikit-learn's 1,797 handwritten digits (8x8, 10 classes), split 80/20 class by class.

    Source:
        Alpaydin and Kaynak 1998, Optical recognition of handwritten digits (test part),
        https://doi.org/10.24432/C50P49.
    """

    def __init__(self, split: str) -> None:
        images, labels = _digits()
        train = stratified_rows(labels, 0.8, seed=0)
        test = np.setdiff1d(np.arange(len(labels)), train)
        self._rows: NDArray[np.int64] = train if split == "train" else test
        # 17 grey levels, 0..16, to the full 8-bit range.
        self._pixels = np.round(images[self._rows] * (255 / 16)).astype(np.uint8)
        self.labels: NDArray[np.int64] = labels[self._rows]
        self.classes = Classes(10, tuple(str(digit) for digit in range(10)))

    def __len__(self) -> int:
        return len(self.labels)

    def image(self, index: int) -> Image.Image:
        """The digit, white on black, 8x8."""
        return Image.fromarray(self._pixels[index]).convert("RGB")

    def name(self, index: int) -> str:
        """The row in scikit-learn's table."""
        return f"digit {self._rows[index]}"

    def fingerprint(self) -> str:
        """Hash of the pixels."""
        return digest([self._pixels.tobytes()])


class SubsetSource:
    """Some images of another source, with all its classes, or with its labels renumbered."""

    def __init__(
        self,
        source: ImageSource,
        rows: NDArray[np.int64],
        *,
        new_labels: Sequence[int] | None = None,
        classes: Classes | None = None,
    ) -> None:
        self.source = source
        self.rows = rows
        labels = source.labels[rows]
        self.labels: NDArray[np.int64] = (
            labels if new_labels is None else np.asarray(new_labels, dtype=np.int64)[labels]
        )
        self.classes = classes or source.classes

    def __len__(self) -> int:
        return len(self.rows)

    def image(self, index: int) -> Image.Image:
        """The decoded image."""
        return self.source.image(int(self.rows[index]))

    def name(self, index: int) -> str:
        """Its name in the whole source."""
        return self.source.name(int(self.rows[index]))

    def fingerprint(self) -> str:
        """Hash of the whole source and the rows; with every row in place, the source's own."""
        if np.array_equal(self.rows, np.arange(len(self.source))):
            return self.source.fingerprint()
        return digest([self.source.fingerprint(), self.rows.astype("<i8").tobytes()])


def digest(parts: Iterable[str | int | bytes]) -> str:
    """SHA-256 of the parts and where they end, the first 16 of its hexadecimal digits."""
    state = hashlib.sha256()
    for part in parts:
        content = part if isinstance(part, bytes) else str(part).encode(errors="surrogateescape")
        state.update(b"%d:" % len(content) + content)
    return state.hexdigest()[:16]


def shards_of(source: ImageSource) -> Shards | None:
    """The files, or parts of files, that the images lie in; None: each has its own."""
    if isinstance(source, SubsetSource):
        whole = shards_of(source.source)
        return None if whole is None else whole.of_rows(source.rows)
    return getattr(source, "shards", None)


def encoded_labels(
    place: Path, labels: NDArray[Any], names: tuple[str, ...] | None
) -> tuple[NDArray[np.int64], Classes]:
    """Labels as numbers, and what they stand for; class names are numbered in natural order.

    Raises:
        UserError: If one is no class, or too large; ``place`` is where it was found.
    """
    if labels.dtype.kind in "OU" and any(isinstance(label, str) for label in labels.tolist()):
        found = list(map(str, labels.tolist()))
        names = names or tuple(natural_order(set(found)))
        index = {name: number for number, name in enumerate(names)}
        numbers = np.asarray([index.get(name, -1) for name in found])
    else:
        numbers = labels
    count = len(names) if names else int(numbers.max()) + 1
    if not names and count > MOST_CLASSES:
        raise UserError(
            f"{place} has label {count - 1}, of at most {MOST_CLASSES - 1}: labels count the "
            "classes from 0; number these, or train without labels: --unlabelled"
        )
    unknown = labels[(numbers < 0) | (numbers >= count)]
    if len(unknown):
        raise UserError(
            f"{place} has label {unknown[0]}, outside 0..{count - 1} (a split without labels?); "
            "choose a split with labels, or train without: --unlabelled"
        )
    return numbers.astype(np.int64), Classes(count, names)


def natural_order(items: Iterable[T]) -> list[T]:
    """The items sorted by name, numbers by value as timm does: img2 comes before img10."""
    return sorted(items, key=lambda item: _natural_key(str(item)))


def _natural_key(name: str) -> tuple[list[str | int], str]:
    """What names are sorted by; between ``A`` and ``a``, or ``1`` and ``01``, the name decides."""
    # Not timm's natural_key, which takes a name like "x²" for one with a number.
    parts = re.split(r"(\d+)", name.lower())
    return [int(part) if place % 2 else part for place, part in enumerate(parts)], name


def _digits() -> tuple[NDArray[np.float64], NDArray[np.int64]]:
    """Images (0 to 16) and labels as in ``sklearn.datasets.load_digits``.

    The file is read without importing scikit-learn, which takes seconds.
    """
    package = importlib.metadata.distribution("scikit-learn")
    file = Path(str(package.locate_file("sklearn/datasets/data/digits.csv.gz")))
    table = np.loadtxt(file, delimiter=",")
    return table[:, :-1].reshape(-1, 8, 8), table[:, -1].astype(np.int64)

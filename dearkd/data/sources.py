"""Labelled images at rest: digits, image folders, and parts of other sources.

A source decodes one image at a time to upright 8-bit RGB and can be pickled for data-loader
workers.
"""

import json
import os
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol, TypeVar, runtime_checkable

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from timm.utils.misc import natural_key

from dearkd.data.decode import open_image
from dearkd.data.order import stratified_rows

__all__ = [
    "Classes",
    "DigitsSource",
    "FolderSource",
    "ImageSource",
    "SubsetSource",
    "natural_order",
]

T = TypeVar("T", str, Path)

IMAGE_SUFFIXES = frozenset(
    {".bmp", ".gif", ".jpeg", ".jpg", ".jpe", ".pgm", ".png", ".ppm", ".tif", ".tiff", ".webp"}
)


@dataclass(frozen=True)
class Classes:
    """The classes that labels 0..count-1 of a source stand for."""

    count: int
    names: tuple[str, ...] | None = None
    indices: tuple[int, ...] | None = None
    """The teacher's index of each class, where the data was synthesised from a teacher."""
    total: int | None = None
    """How many classes that teacher has."""


@runtime_checkable
class ImageSource(Protocol):
    """Labelled images with random access."""

    @property
    def labels(self) -> NDArray[np.int64]:
        """The class of every image, from 0."""
        ...

    @property
    def classes(self) -> Classes:
        """What the labels stand for."""
        ...

    def __len__(self) -> int: ...

    def image(self, index: int) -> Image.Image:
        """The decoded image, upright RGB.

        Raises:
            BadImageError: If its content is damaged or it is no image.
        """
        ...

    def name(self, index: int) -> str:
        """What a user would look for: a file, or a row of a file."""
        ...


class DigitsSource:
    """scikit-learn's 1,797 handwritten digits (8x8, 10 classes), split 80/20 class by class.

    Source:
        Alpaydin and Kaynak 1998, Optical recognition of handwritten digits (test part),
        https://doi.org/10.24432/C50P49.
    """

    def __init__(self, split: str) -> None:
        from sklearn.datasets import load_digits

        digits = load_digits()
        train = stratified_rows(digits.target, 0.8, seed=0)
        test = np.setdiff1d(np.arange(len(digits.target)), train)
        self._rows: NDArray[np.int64] = train if split == "train" else test
        # 17 grey levels, 0..16, to the full 8-bit range.
        self._pixels = np.round(digits.images[self._rows] * (255 / 16)).astype(np.uint8)
        self.labels: NDArray[np.int64] = digits.target[self._rows].astype(np.int64)
        self.classes = Classes(10, tuple(str(digit) for digit in range(10)))

    def __len__(self) -> int:
        return len(self.labels)

    def image(self, index: int) -> Image.Image:
        """The digit, white on black, 8x8."""
        return Image.fromarray(self._pixels[index]).convert("RGB")

    def name(self, index: int) -> str:
        """The row in scikit-learn's table."""
        return f"digit {self._rows[index]}"


class FolderSource:
    """One folder a class; images at any depth below it.

    A ``manifest.json`` beside the class folders (written by ``dearkd synthesize``) gives the
    teacher's class indices, which models trained on the images keep; a folder it does not list is
    no class.

    Raises:
        ValueError: If there is no class folder, a class has no image, or a class is not among
        ``names``.
    """

    def __init__(self, root: Path, names: Sequence[str] | None = None) -> None:
        manifest = _read_manifest(root)
        folders = natural_order(_class_folders(root))
        if manifest is not None:
            folders = [folder for folder in folders if folder.name in manifest.indices]
        if not folders and (root / "synthesize.yaml").is_file():
            raise ValueError(
                f"{root} is an unfinished synthetic set without an image; finish it: "
                f"dearkd synthesize --resume --out {root}"
            )
        if not folders:
            raise ValueError(
                f"{root} holds no class folders; put each class's images into a folder of its own"
            )
        known = tuple(names) if names is not None else tuple(folder.name for folder in folders)
        unknown = [folder.name for folder in folders if folder.name not in known]
        if unknown:
            raise ValueError(
                f"{root} has class {unknown[0]!r}, not among the {len(known)} classes "
                "of the training data; remove or rename the folder"
            )
        self.root = root
        self._files: list[str] = []
        labels: list[int] = []
        for folder in folders:
            files = _image_files(folder)
            if not files:
                raise ValueError(
                    f"class {folder.name!r} of {root} has no image "
                    f"({', '.join(sorted(IMAGE_SUFFIXES))}); add images or remove the folder"
                )
            self._files += [str(file.relative_to(root)) for file in files]
            labels += [known.index(folder.name)] * len(files)
        self.labels: NDArray[np.int64] = np.asarray(labels, dtype=np.int64)
        self.classes = Classes(len(known), known)
        if manifest is not None:
            self.classes = manifest.classes_of(known)

    def __len__(self) -> int:
        return len(self._files)

    def image(self, index: int) -> Image.Image:
        """The decoded image."""
        return open_image(self.root / self._files[index], self.name(index))

    def name(self, index: int) -> str:
        """The file's path."""
        return str(self.root / self._files[index])


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


def natural_order(items: Iterable[T]) -> list[T]:
    """Sorted by name with numbers by value, as timm sorts classes: img2 before img10."""
    return sorted(items, key=lambda item: natural_key(str(item)))  # type: ignore[no-untyped-call]


def _class_folders(root: Path) -> list[Path]:
    return [entry for entry in root.iterdir() if entry.is_dir() and not entry.name.startswith(".")]


def _image_files(folder: Path) -> list[Path]:
    found = [
        Path(parent) / file
        for parent, _, files in os.walk(folder, followlinks=True)
        for file in files
        if Path(file).suffix.lower() in IMAGE_SUFFIXES and not file.startswith(".")
    ]
    return natural_order(found)


@dataclass(frozen=True)
class _Manifest:
    """What ``dearkd synthesize`` says about its class folders."""

    indices: dict[str, int]
    """The teacher's index of each folder."""
    total: int
    """How many classes the teacher has."""
    names: list[str] | None
    """The teacher's names of all its classes: not every name makes a folder."""

    def classes_of(self, folders: Sequence[str]) -> Classes:
        indices = tuple(self.indices[folder] for folder in folders)
        names = folders if self.names is None else [self.names[index] for index in indices]
        return Classes(len(folders), tuple(names), indices, self.total)


def _read_manifest(root: Path) -> _Manifest | None:
    file = root / "manifest.json"
    if not file.is_file():
        return None
    try:
        content = json.loads(file.read_text(encoding="utf-8"))
        table, names = content["classes"], content.get("class_names")
        indices = [int(index) for index in table["indices"]]
        total = int(table["total"])
        if names is not None and len(names) != total:
            raise ValueError(f"{len(names)} class_names, total {total}")
        return _Manifest(dict(zip(table["names"], indices, strict=True)), total, names)
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise ValueError(
            f"{file} does not list the class names, indices and total ({error!r}); "
            "synthesize again, or remove it to use the folders alone"
        ) from error

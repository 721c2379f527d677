"""Labelled images at rest: digits, image folders, and parts of other sources.

A source decodes one image at a time to upright 8-bit RGB and can be pickled for data-loader
workers.
"""

import io
import json
import os
import struct
import zlib
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol, TypeVar

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageOps, UnidentifiedImageError
from timm.utils.misc import natural_key

from dearkd.order import stratified_rows

__all__ = [
    "BadImageError",
    "Classes",
    "DigitsSource",
    "FolderSource",
    "ImageSource",
    "SubsetSource",
    "natural_order",
    "open_image",
    "to_rgb",
]

T = TypeVar("T", str, Path)

IMAGE_SUFFIXES = frozenset(
    {".bmp", ".gif", ".jpeg", ".jpg", ".jpe", ".pgm", ".png", ".ppm", ".tif", ".tiff", ".webp"}
)

# What Pillow's decoders raise on damaged content; errors of the machine are not among them.
_DECODE_ERRORS = (
    Image.DecompressionBombError,
    EOFError,
    IndexError,
    NotImplementedError,
    SyntaxError,
    TypeError,
    ValueError,
    struct.error,
    zlib.error,
)


class BadImageError(ValueError):
    """One image cannot be decoded; ``name`` and ``reason`` say which and why."""

    def __init__(self, name: str, reason: str) -> None:
        super().__init__(name, reason)
        self.name = name
        self.reason = reason

    def __str__(self) -> str:
        return f"cannot decode {self.name} ({self.reason})"


@dataclass(frozen=True)
class Classes:
    """The classes that labels 0..count-1 of a source stand for."""

    count: int
    names: tuple[str, ...] | None = None
    indices: tuple[int, ...] | None = None
    """The teacher's index of each class, where the data was synthesised from a teacher."""
    total: int | None = None
    """How many classes that teacher has."""


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
    teacher's class indices, which models trained on the images keep.

    Raises:
        ValueError: If there is no class folder, a class has no image, or a class is not among
        ``names``.
    """

    def __init__(self, root: Path, names: Sequence[str] | None = None) -> None:
        folders = natural_order(_visible_folders(root))
        if not folders:
            raise ValueError(
                f"{root} holds no class folders; put the images of each class into a folder of its own"
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
        self.classes = _manifest_classes(root, known)

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


def open_image(file: Path | bytes | Callable[[], Any], name: str) -> Image.Image:
    """The image in a file, in encoded bytes, or returned by a callable, upright and RGB.

    Raises:
        BadImageError: If the content is damaged, no image, or the file has gone or may not be read.
        OSError: If the machine fails (disk, network, too many open files).
    """
    try:
        if callable(file):
            return to_rgb(file())
        with Image.open(io.BytesIO(file) if isinstance(file, bytes) else file) as image:
            return to_rgb(image)
    except _DECODE_ERRORS as error:
        raise BadImageError(name, _one_line(error)) from error
    except OSError as error:
        # Pillow's own OSErrors carry no errno; the system's do, and most are no fault of the image.
        if error.errno is None or isinstance(error, FileNotFoundError | PermissionError):
            raise BadImageError(name, _one_line(error)) from error
        raise


def to_rgb(image: Image.Image) -> Image.Image:
    """The image upright (EXIF orientation applied), 8-bit RGB.

    Departure:
        Transparent pixels show white; dropping the alpha channel, as timm does, shows whatever
        colour the encoder left under it. 16-bit grey is scaled by 1/257, where Pillow would clip
        it.
    """
    image = ImageOps.exif_transpose(image)
    if image.mode == "RGB" and "transparency" not in image.info:
        image.load()
        return image
    if image.mode.startswith("I"):
        levels = np.clip(np.asarray(image).astype(np.int64), 0, 65535)
        return Image.fromarray(((levels + 128) // 257).astype(np.uint8)).convert("RGB")
    if image.mode in ("RGBA", "LA", "PA", "La", "RGBa") or "transparency" in image.info:
        image = image.convert("RGBA")
        white = Image.new("RGBA", image.size, "white")
        return Image.alpha_composite(white, image).convert("RGB")
    return image.convert("RGB")


def natural_order(items: Iterable[T]) -> list[T]:
    """Sorted by name with numbers by value, as timm sorts classes: img2 before img10."""
    return sorted(items, key=lambda item: natural_key(str(item)))  # type: ignore[no-untyped-call]


def _one_line(error: BaseException) -> str:
    if isinstance(error, UnidentifiedImageError):
        return "not an image"
    if isinstance(error, OSError) and error.errno is not None:
        return str(error.strerror)
    return " ".join(str(error).split()) or type(error).__name__


def _visible_folders(root: Path) -> list[Path]:
    return [entry for entry in root.iterdir() if entry.is_dir() and not entry.name.startswith(".")]


def _image_files(folder: Path) -> list[Path]:
    found = [
        Path(parent) / file
        for parent, _, files in os.walk(folder, followlinks=True)
        for file in files
        if Path(file).suffix.lower() in IMAGE_SUFFIXES and not file.startswith(".")
    ]
    return natural_order(found)


def _manifest_classes(root: Path, names: tuple[str, ...]) -> Classes:
    """The classes of the folders, with the teacher's indices where a manifest names them."""
    file = root / "manifest.json"
    if not file.is_file():
        return Classes(len(names), names)
    try:
        table = json.loads(file.read_text(encoding="utf-8"))["classes"]
        by_name = dict(zip(table["names"], table["indices"], strict=True))
        indices = tuple(int(by_name[name]) for name in names)
        return Classes(len(names), names, indices, int(table["total"]))
    except (KeyError, TypeError, ValueError) as error:
        raise ValueError(
            f"{file} does not describe the class folders beside it ({_one_line(error)}); "
            "synthesize again, or remove it to use the folders alone"
        ) from error

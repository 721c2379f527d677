"""A folder of pictures without labels, and labelled images with their labels left out."""

from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from dearkd.data.decode import open_image
from dearkd.data.sources import (
    IMAGE_SUFFIXES,
    NO_LABEL,
    UNLABELLED,
    ImageSource,
    SubsetSource,
    class_folders,
    folder_fingerprint,
    image_files,
)
from dearkd.errors import UserError

__all__ = ["PictureFolder", "holds_plain_pictures", "without_labels"]


class PictureFolder:
    """The images of a folder at any depth, without labels; hidden files and folders are left out.

    Raises:
        UserError: If there is no image.
    """

    def __init__(self, root: Path) -> None:
        files = [file.relative_to(root) for file in image_files(root)]
        self.root = root
        self._files = [
            str(file) for file in files if not any(part.startswith(".") for part in file.parts)
        ]
        if not self._files:
            suffixes = ", ".join(sorted(IMAGE_SUFFIXES))
            raise UserError(f"{root} holds no image ({suffixes}); pass the folder of the images")
        self.labels: NDArray[np.int64] = np.full(len(self._files), NO_LABEL, dtype=np.int64)
        self.classes = UNLABELLED

    def __len__(self) -> int:
        return len(self._files)

    def image(self, index: int) -> Image.Image:
        """The decoded image."""
        return open_image(self.root / self._files[index], self.name(index))

    def name(self, index: int) -> str:
        """The file's path."""
        return str(self.root / self._files[index])

    def fingerprint(self) -> str:
        """Of all paths within the folder, and of some files' sizes."""
        return folder_fingerprint(self.root, self._files)


def holds_plain_pictures(root: Path) -> bool:
    """Whether images lie in the folder itself, and none in folders that could be their classes."""
    own = any(
        entry.suffix.lower() in IMAGE_SUFFIXES and not entry.name.startswith(".")
        for entry in root.iterdir()
    )
    return own and not any(image_files(folder) for folder in class_folders(root))


def without_labels(source: ImageSource) -> ImageSource:
    """The same images, of which nobody knows the class any more."""
    rows, gone = np.arange(len(source)), [NO_LABEL] * source.classes.count
    return SubsetSource(source, rows, new_labels=gone, classes=UNLABELLED)

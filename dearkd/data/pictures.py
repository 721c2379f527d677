"""A folder of pictures without labels, and labelled images with their labels left out."""

from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from dearkd.data.folders import IMAGE_SUFFIXES, ImageFiles, class_folders, image_files
from dearkd.data.sources import NO_LABEL, UNLABELLED, ImageSource, SubsetSource
from dearkd.errors import UserError

__all__ = ["PictureFolder", "holds_plain_pictures", "without_labels"]


class PictureFolder(ImageFiles):
    """The images of a folder at any depth, without labels; hidden files and folders are left out.

    Raises:
        UserError: If there is no image.
    """

    def __init__(self, root: Path) -> None:
        files = image_files(root)
        if not files:
            suffixes = ", ".join(sorted(IMAGE_SUFFIXES))
            raise UserError(f"{root} holds no image ({suffixes}); pass the folder of the images")
        super().__init__(root, files)
        self.labels: NDArray[np.int64] = np.full(len(files), NO_LABEL, dtype=np.int64)
        self.classes = UNLABELLED


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

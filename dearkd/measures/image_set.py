"""A set of labelled images to be measured: opened, limited for each class, resized to one size."""

from collections import OrderedDict
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
from torch import Tensor

from dearkd.data.augment import eval_augment
from dearkd.data.class_matching import class_keys
from dearkd.data.datasets import open_evaluation
from dearkd.data.decode import BadImageError
from dearkd.data.loaders import BadImages
from dearkd.data.order import SUBSET_STREAM, ViewKey, ranked
from dearkd.data.sources import ImageSource, SubsetSource
from dearkd.data.synthetic_set import finished_sets
from dearkd.data.views import Views
from dearkd.errors import UserError
from dearkd.measures.lpips_embedding import MIN_SIZE
from dearkd.run_folder.folder import RunFolder
from dearkd.said import command

__all__ = ["ImageSet", "Remembered", "Rows", "choose_size", "newest_set", "open_set"]

SMALL_SIZE = 64
"""Pixels a side that too small images are enlarged to: LPIPS was tuned on patches of this size."""
MIXED_SIZE = 224
"""Pixels a side for images of different sizes, as ImageNet is evaluated."""
EMBEDDING_BYTES = 2 << 30
"""Memory for embeddings that are kept, at most."""

Rows = tuple[int, ...]


class ImageSet:
    """Images of a source, in [0, 1] and ``img_size`` pixels a side, in batches of one class.

    Images of that size are not resampled; of others the shorter side is resized (bicubic) and the
    centre is cropped. Unreadable images are left out, and ``bad_images`` says whether that is an
    error.
    """

    def __init__(self, source: ImageSource, img_size: int, bad_images: BadImages) -> None:
        augment = eval_augment(img_size, mean=(0.0,) * 3, std=(1.0,) * 3, crop_pct=1.0)
        self.source = source
        self.img_size = img_size
        self._views = Views(source, augment, substitute=False)
        self._bad_images = bad_images

    def batches(self, batch_size: int) -> dict[str, list[Rows]]:
        """Rows of the source, at most ``batch_size`` together, by the key of their class."""
        result = {}
        labels = np.unique(self.source.labels).tolist()
        for label, key in class_keys(labels, self.source.classes.names).items():
            rows = np.flatnonzero(self.source.labels == label).tolist()
            starts = range(0, len(rows), batch_size)
            parts = [tuple(rows[start : start + batch_size]) for start in starts]
            result[key] = parts
        return result

    def pixels(self, rows: Rows) -> Tensor:
        """The readable images among ``rows``: (images, 3, img_size, img_size) in [0, 1].

        Raises:
            UserError: If one can't be read and ``bad_images`` makes that an error, or the data
                can't be read at all.
        """
        batch = self._views[[ViewKey(0, row, 0) for row in rows]]
        self._bad_images.note(batch["errors"])
        if batch["failure"] is not None:
            raise batch["failure"]
        return batch["image"]


class Remembered:
    """A function of rows that keeps its latest results, as many as fit into ``limit`` bytes."""

    def __init__(self, call: Callable[[Rows], Tensor], limit: int = EMBEDDING_BYTES) -> None:
        self._call = call
        self._limit = limit
        self._kept: OrderedDict[Rows, Tensor] = OrderedDict()
        self._bytes = 0

    def __call__(self, rows: Rows) -> Tensor:
        """The result for ``rows``, computed again if it was dropped."""
        if rows not in self._kept:
            self._kept[rows] = self._call(rows)
            self._bytes += self._kept[rows].nbytes
        result = self._kept[rows]
        while self._bytes > self._limit:
            self._bytes -= self._kept.popitem(last=False)[1].nbytes
        return result


def open_set(target: str, limit: int | None, seed: int) -> ImageSource:
    """The images that ``target`` names (see ``open_evaluation``), at most ``limit`` of each class.

    The choice depends on ``seed`` alone, and a larger limit includes the images of a smaller one.

    Raises:
        FileNotFoundError: If there is no such path.
        UserError: If it holds no images, or is the folder of a run.
    """
    if RunFolder(Path(target)).config_file.is_file():
        raise UserError(
            f"{target} is a run folder and holds no images; name a set of images, "
            f"or leave the measures of sets out: {command('dearkd', 'eval', target)}"
        )
    source = open_evaluation(target)
    if limit is None:
        return source
    kept = []
    for label in np.unique(source.labels).tolist():
        rows = np.flatnonzero(source.labels == label)
        kept.append(np.sort(rows[ranked(len(rows), seed, SUBSET_STREAM, label)[:limit]]))
    return SubsetSource(source, np.concatenate(kept))


def newest_set(root: Path = Path("runs")) -> str:
    """The synthetic set under ``root`` that was finished last.

    Raises:
        UserError: If there is none.
    """
    found = finished_sets(root)
    if not found:
        raise UserError(
            f"no finished synthetic set under {root}/; name the images: dearkd eval IMAGES --lpips"
        )
    return str(found[0])


def choose_size(
    source: ImageSource, asked: int | None, advance: Callable[[int], None]
) -> tuple[int, str]:
    """The size in pixels that images are measured at, and a sentence that says so.

    It is their own size if they are square, all of one size, and large enough for every network.
    ``advance`` is called for every image that is read to find out.

    Raises:
        UserError: If the size asked for is below what the networks take, or no image is readable.
    """
    if asked is not None:
        if asked < MIN_SIZE:
            raise UserError(f"--img-size must be at least {MIN_SIZE} for LPIPS, got {asked}")
        return asked, f"shorter side resized to {asked} px, centre cut out"
    found = _sizes(source, advance)
    if len(found) > 1 or found[0][0] != found[0][1]:
        example = ", ".join(f"{width} x {height}" for width, height in found)
        kind = "have different sizes" if len(found) > 1 else "are not square"
        return MIXED_SIZE, (
            f"images {kind} ({example}): shorter side resized to {MIXED_SIZE} px, "
            "centre cut out; --img-size N for another size"
        )
    own = found[0][0]
    if own < MIN_SIZE:
        return SMALL_SIZE, f"images of {own} px enlarged to {SMALL_SIZE}; --img-size N for another"
    return own, f"images as they are, {own} px"


def _sizes(source: ImageSource, advance: Callable[[int], None]) -> Sequence[tuple[int, int]]:
    """Width and height in pixels: one pair if all images agree, else the first two that differ."""
    found: list[tuple[int, int]] = []
    for index in range(len(source)):
        advance(1)
        try:
            size = source.image(index).size
        except BadImageError:  # named when its turn to be measured comes
            continue
        if size not in found:
            found.append(size)
        if len(found) == 2:
            break
    if not found:
        raise UserError(f"no readable image, the first is {source.name(0)}; check the data")
    return found

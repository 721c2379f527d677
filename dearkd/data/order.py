"""Which view comes when, and the hash that every random draw of a view starts from.

A view is one augmented copy of one image. Its draws depend on (seed, epoch, index, repeat) alone,
and the order of an epoch on (seed, epoch) alone: not on workers, processes, batch size or
interruptions. So its number in this order names a view, its mixing partner included.
"""

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

from dearkd.errors import UserError

__all__ = [
    "MIX_STREAM",
    "SUBSET_STREAM",
    "SUBSTITUTE_STREAM",
    "VIEW_STREAM",
    "WORTH_SAYING",
    "EpochOrder",
    "Shards",
    "ViewKey",
    "hash64",
    "left_out",
    "ranked",
    "spread_rows",
    "stratified_rows",
    "uniforms",
    "validation_rows",
]

# One stream per purpose, so that no two kinds of draws are correlated.
ORDER_STREAM, VIEW_STREAM, MIX_STREAM, SUBSET_STREAM, SUBSTITUTE_STREAM = range(1, 6)
VALIDATION_STREAM = 6
SHARD_STREAM = 7

_GOLDEN = np.uint64(0x9E3779B97F4A7C15)
_BLOCK = 16  # images whose repeats are shuffled together: 48 views with three repeats
WORTH_SAYING = 0.05  # share of an epoch that is left out


class ViewKey(NamedTuple):
    """The name of one view; ``repeat`` counts the copies of an image within an epoch."""

    epoch: int
    index: int  # type: ignore[assignment]
    repeat: int
    number: int = -1
    """Its place in the run's order: epoch * views an epoch + position; -1 where there is none."""


def hash64(*parts: ArrayLike) -> NDArray[np.uint64]:
    """A 64-bit hash of integers, broadcast over arrays; at least one-dimensional.

    Source:
        Steele et al. 2014, Fast splittable pseudorandom number generators (SplitMix64's finaliser),
        https://doi.org/10.1145/2660193.2660195, chained over the parts.
    """
    state = np.zeros(1, dtype=np.uint64)
    for part in parts:
        state = _finalise((state ^ np.asarray(part).astype(np.uint64)) + _GOLDEN)
    return state


def uniforms(seeds: NDArray[np.uint64], count: int) -> NDArray[np.float64]:
    """SplitMix64 draws in [0, 1), shape (seeds, count): row i depends on ``seeds[i]`` alone."""
    steps = np.arange(1, count + 1, dtype=np.uint64) * _GOLDEN
    bits = _finalise(seeds[:, None] + steps) >> np.uint64(11)
    return bits.astype(np.float64) * 2.0**-53


def ranked(count: int, *parts: int) -> NDArray[np.int64]:
    """A permutation of ``range(count)`` that depends on ``parts`` alone, in any numpy."""
    return np.argsort(hash64(*parts, np.arange(count)), kind="stable")


def spread_rows(count: int, wanted: int) -> list[int]:
    """At most ``wanted`` of ``count`` rows at even steps: of sorted data they cover all classes."""
    return np.linspace(0, count - 1, min(wanted, count)).round().astype(int).tolist()


def stratified_rows(labels: NDArray[np.int64], fraction: float, seed: int) -> NDArray[np.int64]:
    """The rows of a fixed subset that has ``fraction`` of each class, and at least one row.

    The subset is a function of ``seed`` and the labels, and a smaller fraction's rows are among a
    larger one's.
    """
    kept = []
    for label in np.unique(labels):
        rows = np.flatnonzero(labels == label)
        count = max(1, round(fraction * len(rows)))
        kept.append(rows[ranked(len(rows), seed, SUBSET_STREAM, int(label))[:count]])
    return np.sort(np.concatenate(kept))


def validation_rows(labels: NDArray[np.int64], count: int) -> NDArray[np.int64]:
    """The rows of a fixed split of ``count`` images with the classes in their own proportions.

    It is a function of the labels alone, and a smaller split's rows are among a larger one's. Each
    class is shuffled and laid out evenly over [0, 1); the split is what lies lowest.
    """
    height = np.empty(len(labels))
    for label in np.unique(labels):
        rows = np.flatnonzero(labels == label)
        shuffled = rows[ranked(len(rows), VALIDATION_STREAM, int(label))]
        height[shuffled] = (np.arange(len(rows)) + 0.5) / len(rows)
    return np.sort(np.argsort(height, kind="stable")[:count])


@dataclass(frozen=True)
class Shards:
    """The consecutive parts, files or pieces of files, that a source's images lie in."""

    starts: NDArray[np.int64]
    """The first image of each."""
    together: int
    """How many of them are read in the same stretch of an epoch."""
    needed: bool = False
    """Whether reading one image loads its whole shard, so that few shards must be open at a
    time."""

    def ranked(self, count: int, *parts: int) -> NDArray[np.int64]:
        """A permutation of the images that shows few shards at a time.

        The shards come in an order drawn from ``parts``; the images of every ``together`` of them
        are shuffled.
        """
        images = np.arange(count)
        place = np.argsort(ranked(len(self.starts), *parts, SHARD_STREAM))
        shard = np.searchsorted(self.starts, images, side="right") - 1
        return np.lexsort((hash64(*parts, images), place[shard] // self.together))

    def of_rows(self, rows: NDArray[np.int64]) -> "Shards":
        """Those of some of the images, in rising order; shards that lose all theirs are gone."""
        starts = np.searchsorted(rows, self.starts)
        return Shards(np.unique(starts[starts < len(rows)]), self.together, self.needed)


@dataclass(frozen=True, kw_only=True)
class EpochOrder:
    """The views of each epoch, cut into global batches and these into one slice a process.

    An epoch has ``views`` views (default: as many as ``images``), rounded down to whole batches.
    The images beyond the last whole batch sit out. Which ones they are is drawn anew in each epoch,
    so that every image is seen equally often in the long run, and ``left_out`` says how many.
    Positions p and p ^ 1 are mixing partners and always stand in the same slice. With ``repeats`` =
    r an epoch holds 1/r of the images r times; with more views than images, further permutations
    follow.

    Source:
        Repeated augmentation: Hoffer et al. 2020, https://arxiv.org/abs/1901.09335; r = 3 in DeiT.

    Departure:
        The copies of an image stand within 48 views of each other and meet another partner each
        time; DeiT spreads them over the processes, which ties the order to their number. Where
        permutations are concatenated an odd image count loses one image a pass, so that without
        ``repeats`` none becomes its own partner; with them a block of 16 that spans two passes may
        hold an image twice, and pair it with itself. The rest of an epoch is dropped, as in DeiT:
        a smaller last batch would be a step of the same size with a noisier gradient, and odd
        where views are mixed.

    Raises:
        UserError: If the batch cannot be cut into even slices or exceeds the views of an epoch.
    """

    images: int
    batch_size: int
    """Views in one step over all processes."""
    seed: int
    repeats: int = 1
    views: int | None = None
    shards: Shards | None = None
    """Where given, an epoch goes through few of them at a time."""
    rank: int = 0
    world: int = 1

    def __post_init__(self) -> None:
        if self.repeats < 1:
            raise UserError(f"repeats must be at least 1, got {self.repeats}")
        unit = 2 * self.world
        if self.batch_size < unit or self.batch_size % unit:
            nearest = max(unit, self.batch_size // unit * unit)
            raise UserError(
                f"batch size must be a multiple of {unit} (two mixing partners for each process), "
                f"got {self.batch_size}; set data.batch_size to {nearest}"
            )
        if self.steps_per_epoch < 1:
            if self.images < 2:
                raise UserError(
                    "training needs at least 2 images, as views are mixed in pairs, got "
                    f"{self.images}; add images"
                )
            largest = self.views_per_epoch // unit * unit
            remedy = f"set data.batch_size to at most {largest}" if largest else "add images"
            raise UserError(
                f"batch size {self.batch_size} exceeds the {self.views_per_epoch} images "
                f"of an epoch; {remedy}"
            )

    @property
    def views_per_epoch(self) -> int:
        """Views asked for, before rounding down to whole batches."""
        return self.images if self.views is None else self.views

    @property
    def steps_per_epoch(self) -> int:
        """Whole global batches in an epoch."""
        return self.views_per_epoch // self.batch_size if self.images > 1 else 0

    def sequence(self, epoch: int) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """Image index and repeat of the epoch's views, over all processes, shape (views,).

        It is made for all ``views_per_epoch`` but an odd last one. Batches are cut from its
        beginning, so that whatever their size, a position holds the same view.
        """
        total = self.views_per_epoch // 2 * 2
        needed = math.ceil(total / self.repeats)
        needed += needed % 2
        usable = self.images - self.images % 2
        shuffled = ranked if self.shards is None else self.shards.ranked
        passes = [
            shuffled(self.images, self.seed, ORDER_STREAM, epoch, number)[:usable]
            for number in range(math.ceil(needed / usable))
        ]
        index = np.concatenate(passes)[:needed]
        repeat = np.arange(len(index)) // usable * self.repeats
        if self.repeats > 1:
            index, repeat = _repeat_in_blocks(index, repeat, self.repeats)
        return index[:total], repeat[:total]

    def batches(self, epoch: int, start_step: int = 0) -> Iterator[list[ViewKey]]:
        """This process's views of each step of the epoch, from ``start_step`` on."""
        index, repeat = self.sequence(epoch)
        number = epoch * self.views_per_epoch + np.arange(len(index))
        share = self.batch_size // self.world
        for step in range(start_step, self.steps_per_epoch):
            start = step * self.batch_size + self.rank * share
            part = slice(start, start + share)
            views = zip(*(row[part].tolist() for row in (index, repeat, number)), strict=True)
            yield [ViewKey(epoch, *view) for view in views]


def left_out(order: EpochOrder, accumulate: int = 1) -> str | None:
    """One line on the share of each epoch that is not trained on; None if it is below 5 %.

    ``accumulate`` batches of ``order`` make one step, and a step that is not whole is left out.
    """
    batch, total = order.batch_size * accumulate, order.views_per_epoch
    left = total % batch
    if left < WORTH_SAYING * total:
        return None
    every_view_an_image = order.views is None and order.repeats == 1
    what = "images" if every_view_an_image else "views"
    anew = ", drawn anew every time" if every_view_an_image else ""
    unit = 2 * order.world if accumulate == 1 else order.batch_size
    others = range(batch // 2 // unit * unit or unit, batch, unit)
    best = min(others, key=lambda other: (total % other, -other), default=batch)
    remedy = f"; data.batch_size={best} would leave out {total % best}"
    return (
        f"each epoch leaves out {left} of the {total} {what} ({100 * left / total:.0f} %){anew}, "
        f"as it has {total // batch} x {batch}{remedy if total % best < left else ''}"
    )


def _finalise(bits: NDArray[np.uint64]) -> NDArray[np.uint64]:
    bits = (bits ^ (bits >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    bits = (bits ^ (bits >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return bits ^ (bits >> np.uint64(31))


def _repeat_in_blocks(
    index: NDArray[np.int64], repeat: NDArray[np.int64], repeats: int
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """The sequence with each block of images repeated, its second half rotated by one each time."""
    places, copies = [], []
    for start in range(0, len(index), _BLOCK):
        half = min(_BLOCK, len(index) - start) // 2
        lane = np.arange(half)
        for copy in range(repeats):
            pairs = np.stack([start + lane, start + half + (lane + copy) % half], axis=1)
            places.append(pairs.ravel())
            copies.append(np.full(2 * half, copy))
    place = np.concatenate(places)
    return index[place], repeat[place] + np.concatenate(copies)

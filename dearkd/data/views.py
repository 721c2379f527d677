"""A data set of views that are the same in every worker, process and resumed run."""

from collections.abc import Sequence
from contextlib import suppress
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch.utils.data import Dataset

from dearkd.data.augment import Augment
from dearkd.data.decode import BadImageError
from dearkd.data.device_augment import DeviceAugment
from dearkd.data.mixing import Mixing
from dearkd.data.order import MIX_STREAM, SUBSTITUTE_STREAM, VIEW_STREAM, ViewKey, hash64
from dearkd.data.sources import ImageSource
from dearkd.errors import UserError

__all__ = ["CACHE_BYTES", "Views"]

CACHE_BYTES = 2 << 30
_SUBSTITUTES = 16  # images tried in place of a bad one: the first half from its class


class Views(Dataset[dict[str, Any]]):
    """Batches of views: ``views[keys]`` makes those of some `ViewKey`, in a worker or in place.

    A bad image is replaced by another of its class (then of any class), chosen by the view's hash.
    A worker never raises for bad data, because torch would wrap the error together with its
    traceback. The batch carries it instead: ``errors`` has the bad images, and ``failure`` the
    error, meant for the user, that ends the run. ``class_map`` renumbers the labels, where there
    are any, and comes from ``match_classes``. Small prepared images are cached where all of them
    fit into ``cache_bytes``; ``rows`` are those that will be asked for (default: all).
    """

    def __init__(
        self,
        source: ImageSource,
        augment: Augment | DeviceAugment,
        *,
        seed: int = 0,
        mixing: Mixing | None = None,
        class_map: Sequence[int] | None = None,
        substitute: bool = True,
        rows: NDArray[np.int64] | None = None,
        cache_bytes: int = CACHE_BYTES,
    ) -> None:
        self.source = source
        self.augment = augment
        self.seed = seed
        self.mixing = mixing
        self.substitute = substitute
        self.labels = source.labels
        if class_map is not None and source.classes.known:
            self.labels = np.asarray(class_map)[source.labels]
        self.cache: NDArray[np.uint8] | None = None
        self.bad: dict[int, BadImageError] = {}
        size = len(source) * augment.img_size**2 * 3
        if augment.cacheable and size <= cache_bytes:
            self._fill_cache(np.arange(len(source)) if rows is None else rows)

    def __len__(self) -> int:
        return len(self.source)

    def __getitem__(self, keys: Sequence[ViewKey]) -> dict[str, Any]:
        """The batch of these views, or one that carries a ``failure``."""
        errors: list[BadImageError] = []
        try:
            picked = [self._pick(key, errors) for key in keys]
        except UserError as error:
            return {"failure": error, "errors": errors}
        except OSError as error:
            return {"failure": _unreadable(error), "errors": errors}
        if self.substitute and None in picked:
            last = errors[-1].name
            reason = f"{_SUBSTITUTES} images in a row are bad, the last is {last}; check the data"
            return {"failure": UserError(reason), "errors": errors}
        kept = [(key, *found) for key, found in zip(keys, picked, strict=True) if found is not None]
        return {"failure": None, "errors": errors, **self._batch(kept)}

    def _batch(self, views: Sequence[tuple[ViewKey, int, Any]]) -> dict[str, Any]:
        """The batch of (key, row, prepared image): where an image was replaced, key and row differ.

        Random draws belong to the key, pixels and label to the row that is shown.
        """
        size = self.augment.img_size
        named = np.asarray([key for key, *_ in views], np.int64).reshape(-1, 4)
        epoch, index, repeat, number = named.T
        found = np.asarray([index for _, index, _ in views], dtype=np.int64)
        seeds = hash64(self.seed, VIEW_STREAM, epoch, index, repeat)
        prepared = [pixels for *_, pixels in views]
        batch: dict[str, Any] = {
            "label": torch.from_numpy(self.labels[found]),
            "index": torch.from_numpy(found),
            "view": torch.from_numpy(self._numbers(number, index == found)),
        }
        if isinstance(self.augment, DeviceAugment):
            batch["image"], batch["drawn"] = self.augment.crops(prepared, seeds)
        else:
            empty = torch.zeros(0, 3, size, size)
            batch["image"] = self.augment(prepared, seeds) if views else empty
        if self.mixing is not None:
            seeds = hash64(self.seed, MIX_STREAM, epoch, index, repeat)
            weight, box = self.mixing.draw(seeds, size, size)
            batch |= {"weight": torch.from_numpy(weight), "box": torch.from_numpy(box)}
        return batch

    def _numbers(self, number: NDArray[np.int64], own: NDArray[np.bool_]) -> NDArray[np.int64]:
        """The number of each view, -1 where another image is shown, or mixed in from the partner.

        A substitute depends on which images are bad today: what is remembered of it may be wrong
        tomorrow.
        """
        if self.mixing is not None and self.mixing.mixes and not own.all():
            own = np.repeat(own.reshape(-1, 2).all(axis=1), 2)
        return np.where(own, number, -1)

    def _pick(self, key: ViewKey, errors: list[BadImageError]) -> tuple[int, Any] | None:
        """The view's image or its substitute, as (index, prepared image); None if all are bad."""
        index = key.index
        for attempt in range(_SUBSTITUTES + 1):
            try:
                return index, self._prepared(index)
            except BadImageError:
                errors.append(self.bad[index])
            if not self.substitute:
                break
            rows = self._substitutes(key.index, attempt)
            name = (key.epoch, key.index, key.repeat)
            draw = hash64(self.seed, SUBSTITUTE_STREAM, *name, attempt)[0]
            index = int(rows[int(draw) % len(rows)])
        return None

    def _substitutes(self, index: int, attempt: int) -> NDArray[np.int64]:
        if attempt < _SUBSTITUTES // 2:
            return np.flatnonzero(self.labels == self.labels[index])
        return np.arange(len(self.labels))

    def _prepared(self, index: int) -> Any:
        if index in self.bad:
            raise _anew(self.bad[index])
        if self.cache is not None:
            return self.cache[index]
        try:
            image = self.source.image(index)
        except BadImageError as error:
            self.bad[index] = _anew(error)
            raise
        return self.augment.prepare(image)

    def _fill_cache(self, rows: NDArray[np.int64]) -> None:
        """Decodes ``rows`` once, before any worker is forked: they share the memory."""
        size = self.augment.img_size
        cache = np.zeros((len(self.source), size, size, 3), dtype=np.uint8)
        for index in rows.tolist():
            try:
                with suppress(BadImageError):  # remembered, and met again when a view asks for it
                    cache[index] = self._prepared(index)
            except OSError as error:
                raise _unreadable(error) from error
        self.cache = cache


def _unreadable(error: OSError) -> UserError:
    return UserError(f"cannot read the data ({error}); check the disk, then resume")


def _anew(error: BadImageError) -> BadImageError:
    """The same error without a traceback, which would grow every time that it is raised again."""
    return BadImageError(error.name, error.reason)

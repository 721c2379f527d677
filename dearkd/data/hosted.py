"""Data sets that timm opens by name.

The names are ``torch/NAME`` (torchvision), ``hfds/NAME`` and ``hfids/NAME`` (Hugging Face), and
``wds/FOLDER`` (webdataset shards on this machine).
"""

import io
import json
import tarfile
from collections.abc import Callable
from pathlib import Path
from typing import Any
from urllib.error import URLError

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from timm.data.dataset_factory import create_dataset

from dearkd.data.decode import open_image
from dearkd.data.sources import Classes, ImageSource, digest, natural_order
from dearkd.data.splits import EVALUATION_NAMES, TRAIN_NAMES, split_of
from dearkd.errors import UserError, one_line

__all__ = ["PREFIXES", "OutOfReachError", "TarSource", "TimmSource", "open_hosted"]

PREFIXES = ("torch/", "hfds/", "hfids/", "wds/")
_EVALUATION_SPLITS = ("validation", "test")


class TimmSource:
    """A map-style data set made by ``timm.data.create_dataset``."""

    def __init__(self, name: str, dataset: Any) -> None:
        self._name = name
        # timm's own __getitem__ silently returns the next image for a broken one: read below it.
        self._reader = getattr(dataset, "reader", None)
        self._dataset = dataset
        labels = _labels(dataset, self._reader)
        names = _names(dataset, self._reader)
        if not len(labels) or labels.min() < 0:
            raise UserError(f"data {name!r} has no labels; choose a data set and split with labels")
        self.labels: NDArray[np.int64] = labels
        self.classes = Classes(len(names) if names else int(labels.max()) + 1, names)

    def __len__(self) -> int:
        return len(self.labels)

    def image(self, index: int) -> Image.Image:
        """The decoded image."""
        return open_image(lambda: self._opened(index), self.name(index))

    def name(self, index: int) -> str:
        """The image's number in the data set."""
        return f"image {index} of {self._name}"

    def fingerprint(self) -> str:
        """Of the name: what stands under one does not change."""
        return digest([self._name])

    def _opened(self, index: int) -> Image.Image:
        if self._reader is None:
            image: Image.Image = self._dataset[index][0]
            return image
        with self._reader[index][0] as file:
            return Image.open(io.BytesIO(file.read()))


class TarSource:
    """webdataset shards on local disk, indexed once and read at random.

    A sample is a file with an image suffix and, under the same key, ``.cls`` (an integer) or
    ``.json`` (its ``label``). Class names come from ``classes`` in the folder's ``info.json``, if
    any.

    Raises:
        UserError: If a shard is no tar file, or a sample has no label.
    """

    def __init__(self, shards: list[Path], names: tuple[str, ...] | None = None) -> None:
        self.shards = shards
        self._samples: list[tuple[int, int, int, str]] = []
        labels: list[int] = []
        for number, shard in enumerate(shards):
            samples = _scan_shard(shard)
            self._samples += [(number, start, size, name) for start, size, name, _ in samples]
            labels += [label for _, _, _, label in samples]
        if not labels:
            raise UserError(f"{shards[0].parent} has shards without images; check the folder")
        if min(labels) < 0:
            raise UserError(f"{shards[0].parent} has label {min(labels)}, labels start at 0")
        self.labels: NDArray[np.int64] = np.asarray(labels, dtype=np.int64)
        self.classes = Classes(len(names) if names else max(labels) + 1, names)

    def __len__(self) -> int:
        return len(self.labels)

    def image(self, index: int) -> Image.Image:
        """The decoded image."""
        shard, start, size, _ = self._samples[index]
        with self.shards[shard].open("rb") as file:
            file.seek(start)
            content = file.read(size)
        return open_image(content, self.name(index))

    def name(self, index: int) -> str:
        """The names of the member and of its shard."""
        shard, _, _, name = self._samples[index]
        return f"{name} in {self.shards[shard]}"

    def fingerprint(self) -> str:
        """Of every member's place, size and name, and of the shards' names."""
        return digest([*(shard.name for shard in self.shards), *map(str, self._samples)])


def open_hosted(
    name: str, root: Path, evaluation_only: bool = False
) -> tuple[ImageSource | None, ImageSource | None]:
    """The training and the evaluation source of a timm name; downloads go to ``root``.

    Departure:
        ``hfids/`` streams cannot be read by index, on which every view depends here: the data set
        is downloaded and read like ``hfds/``. ``wds/`` shards are indexed once instead of streamed.

    Raises:
        UserError: If the name is unknown, has no labels, or an extra package is missing.
        OutOfReachError: If it cannot be fetched.
    """
    prefix, _, rest = name.partition("/")
    if prefix.lower() == "wds":
        folder = Path(rest)
        train = None if evaluation_only else _open_shards(folder, TRAIN_NAMES)
        return train, _open_shards(folder, EVALUATION_NAMES)
    name = f"hfds/{rest}" if prefix.lower() == "hfids" else name
    source = None if evaluation_only else _open_split(name, root, "train")
    for split in _EVALUATION_SPLITS:
        try:
            return source, _open_split(name, root, split)
        except _NoSplitError:
            continue
    return source, None


class OutOfReachError(UserError, OSError):
    """The data set has to be downloaded and cannot be."""


class _NoSplitError(UserError):
    """The data set exists, but has no such split."""


def _open_split(name: str, root: Path, split: str) -> TimmSource:
    is_hub = name.lower().startswith("hfds/")
    try:
        dataset = create_dataset(
            name,
            root=None if is_hub else str(root),
            split=split,
            download=not is_hub,
        )
    except ImportError as error:
        raise UserError(
            f"data {name!r} needs the package 'datasets': pip install 'dearkd[hub]'"
        ) from error
    except AssertionError as error:
        if not str(error):  # a bug, not an answer
            raise
        unknown = str(error).startswith("Unknown")
        raise UserError(
            f"data {name!r} is unknown to timm ({one_line(error)}); try torch/cifar10"
            if unknown
            else f"data {name!r} cannot be opened ({one_line(error)}); pass another data set"
        ) from error
    except (ConnectionError, URLError) as error:
        raise OutOfReachError(
            f"data {name!r} cannot be fetched ({one_line(error)}); "
            "download it elsewhere and pass its folder"
        ) from error
    except ValueError as error:
        if "split" in str(error).lower():
            raise _NoSplitError(
                f"data {name!r} has no split {split!r}; pass another data set"
            ) from error
        raise UserError(
            f"data {name!r} cannot be opened ({one_line(error)}); check its name"
        ) from error
    except (OSError, RuntimeError) as error:
        raise UserError(
            f"data {name!r} cannot be opened ({one_line(error)}); check its name"
        ) from error
    return TimmSource(f"{name} ({split})", dataset)


def _labels(dataset: Any, reader: Any) -> NDArray[np.int64]:
    if reader is not None:
        return np.asarray(list(reader.iter_targets()), dtype=np.int64)
    if hasattr(dataset, "targets"):
        return np.asarray(dataset.targets, dtype=np.int64)
    return np.asarray([dataset[index][1] for index in range(len(dataset))], dtype=np.int64)


def _names(dataset: Any, reader: Any) -> tuple[str, ...] | None:
    if reader is not None:
        return tuple(sorted(reader.class_to_idx, key=reader.class_to_idx.get)) or None
    # torchvision's ImageNet lists several synonyms a class.
    names = getattr(dataset, "classes", None)
    return tuple(n if isinstance(n, str) else ", ".join(n) for n in names) if names else None


def _open_shards(folder: Path, splits: tuple[str, ...]) -> TarSource | None:
    """The shards whose name has one of the splits; if none has any, all are for training."""
    if not folder.is_dir():
        raise UserError(
            f"data 'wds/{folder}' is no folder here; fetch the .tar shards first, or use hfds/NAME"
        )
    shards = natural_order(folder.rglob("*.tar"))
    if not shards:
        raise UserError(
            f"data 'wds/{folder}' holds no .tar shards; pass the folder with the shards"
        )
    info = next((f for f in (folder / "_info.json", folder / "info.json") if f.is_file()), None)
    names = None if info is None else _listed_names(info)
    chosen = [s for s in shards if split_of(s, folder) in splits]
    if not chosen and "train" in splits and not any(split_of(s, folder) for s in shards):
        chosen = shards
    if not chosen and "train" in splits:
        raise UserError(f"data 'wds/{folder}' has no train shards; name them train-*.tar")
    return TarSource(chosen, names) if chosen else None


def _listed_names(info: Path) -> tuple[str, ...] | None:
    """The class names that the file beside the shards lists, if it does."""
    try:
        names = json.loads(info.read_text(encoding="utf-8")).get("classes")
        return tuple(names) if names else None
    except (AttributeError, TypeError, ValueError) as error:
        raise UserError(f"{info} is damaged ({one_line(error)}); repair or remove it") from error


def _scan_shard(shard: Path) -> list[tuple[int, int, str, int]]:
    """Offset, size, member name and label of each sample, in the shard's order."""
    images: dict[str, tuple[int, int, str]] = {}
    labels: dict[str, int] = {}
    readers: dict[str, Callable[[bytes], int]] = {
        "cls": int,
        "json": lambda text: int(json.loads(text)["label"]),
    }
    try:
        with tarfile.open(shard, "r:") as archive:
            for member in archive:
                folder, _, file = member.name.rpartition("/")
                key, _, suffix = file.partition(".")
                key = f"{folder}/{key}"
                if suffix.lower() in ("jpg", "jpeg", "png", "webp"):
                    images[key] = (member.offset_data, member.size, member.name)
                elif suffix in readers and key not in labels:
                    content = archive.extractfile(member)
                    if content is None:
                        raise tarfile.ReadError(f"{member.name} is no file")
                    labels[key] = readers[suffix](content.read())
    except (tarfile.TarError, OSError, KeyError, TypeError, ValueError) as error:
        raise UserError(
            f"{shard} is no webdataset shard ({one_line(error)}); fetch it again"
        ) from error
    missing = next((name for key, (_, _, name) in images.items() if key not in labels), None)
    if missing:
        raise UserError(f"{missing} in {shard} has no .cls or .json label; add one")
    return [(*place, labels[key]) for key, place in images.items()]

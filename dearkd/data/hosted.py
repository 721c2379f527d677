"""Data sets that timm opens by name.

The names are ``torch/NAME`` (torchvision), ``hfds/NAME`` and ``hfids/NAME`` (Hugging Face).
"""

import io
from pathlib import Path
from typing import Any, Literal
from urllib.error import URLError

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from timm.data.dataset_factory import create_dataset

from dearkd.data.decode import open_image
from dearkd.data.sources import Classes, ImageSource, digest
from dearkd.errors import UserError, one_line

__all__ = ["PREFIXES", "OutOfReachError", "TimmSource", "Wanted", "open_hosted"]

Wanted = Literal["both", "training", "evaluation"]
"""Which images of a place are asked for."""
PREFIXES = ("torch/", "hfds/", "hfids/")
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
        """Hash of the name: what stands under one does not change."""
        return digest([self._name])

    def _opened(self, index: int) -> Image.Image:
        if self._reader is None:
            image: Image.Image = self._dataset[index][0]
            return image
        with self._reader[index][0] as file:
            return Image.open(io.BytesIO(file.read()))


def open_hosted(name: str, wanted: Wanted) -> tuple[ImageSource | None, ImageSource | None]:
    """The training and the evaluation source of a timm name, as far as they are ``wanted``.

    Downloads go beside those of torch, so that a run finds them from any folder.

    Departure:
        ``hfids/`` streams cannot be read by index, on which every view depends here: the data set
        is downloaded and read like ``hfds/``.

    Raises:
        UserError: If the name is unknown, has no labels, or an extra package is missing.
        OutOfReachError: If it cannot be fetched.
    """
    prefix, _, rest = name.partition("/")
    if not rest.strip("/"):
        raise UserError(f"data {name!r} names no data set; name one, as in torch/cifar10")
    name = f"hfds/{rest}" if prefix.lower() == "hfids" else name
    source = None if wanted == "evaluation" else _open_split(name, "train")
    if wanted == "training":
        return source, None
    for split in _EVALUATION_SPLITS:
        try:
            return source, _open_split(name, split)
        except _NoSplitError:
            continue
    return source, None


class OutOfReachError(UserError, OSError):
    """The data set has to be downloaded and cannot be."""


class _NoSplitError(UserError):
    """The data set exists, but has no such split."""


def _downloads() -> Path:
    """Beside torch's own downloads: ``~/.cache/torch/datasets``, or where TORCH_HOME says."""
    return Path(torch.hub.get_dir()).with_name("datasets")


def _open_split(name: str, split: str) -> TimmSource:
    is_hub = name.lower().startswith("hfds/")
    try:
        dataset = create_dataset(
            name,
            root=None if is_hub else str(_downloads()),
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

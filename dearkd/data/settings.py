"""The configuration of the images: where they come from, and how a view of one is drawn."""

from dataclasses import dataclass
from typing import Literal

from dearkd.config_file import check_range
from dearkd.errors import UserError

__all__ = ["DIGITS", "DataConfig", "Labels", "Place", "Shuffle"]

Labels = Literal["auto", "none"]
Shuffle = Literal["auto", "images", "shards"]
Place = Literal["auto", "cpu", "device"]

DIGITS = "digits"
"""Name of the embedded data."""
MOST_PIXELS = 8192
"""A side of an image at most: a student's positions alone take gigabytes above it."""


@dataclass(frozen=True, kw_only=True)
class DataConfig:
    """Images to train on and how a view of one is drawn."""

    train: str = DIGITS
    """Image folder (class folders, or pictures without labels), several synthetic sets (a pattern
    such as ``runs/x/round-*/set``), parquet files, WebDataset tars (file, folder, or a pattern such
    as ``train-{000..146}.tar``), timm data set name, or ``digits`` (embedded)."""
    labels: Labels = "auto"
    """none: the images are trained on without labels, whatever lies beside them; they are not even
    read. auto: those that are there; pictures that lie in a folder, none of them in a class folder,
    have none."""
    evaluation: str | None = None
    """Where to evaluate; None: the training set's own val/test split, if it has one."""
    validation: float | None = None
    """Evaluate on images cut from the training set, which no run with this setting trains on: so
    many, or that share of all if below 1; classes in proportion, the same ones whatever the seed.
    None: no such split."""
    fraction: float = 1.0
    """Share of each class that is kept: the same images whatever the seed, for paired runs. Of a
    set with a validation split, of what that leaves."""
    keep_steps: bool = False
    """With ``fraction`` < 1: as many steps an epoch as the whole set would give."""
    img_size: int | None = None
    """Pixels a side. None: the student's own size; where none is named, the one that ``init`` or
    else a teacher from a run folder was trained at, else 32 or 224 as the images are (16 for the
    8 x 8 digits)."""
    batch_size: int | None = None
    """Views an optimizer step, over all processes; even. None: 1024 for large images, 128 for
    small ones, 32 for digits; for few images less, so that an epoch has about ten steps, or fewer
    of up to 16 views."""
    micro_batch: int | Literal["auto"] | None = None
    """Views a forward pass on one process; None: the batch in one pass. auto: so too, and half as
    many each time that memory is out (one process)."""
    augment: Literal["auto", "deit", "light", "crops", "digits", "none"] = "auto"
    """Views (`dearkd.data.augment.train_augment`). auto: ``deit`` above 64 px; below, ``light``,
    or ``crops`` of pictures without labels whose longer side is twice ``img_size`` or more;
    ``digits`` for the digits."""
    flip: bool | None = None
    """Mirror every other view (``deit``, ``light`` and ``crops``): not for digits, text
    and the like. None: yes, but for a synthetic set that was made without."""
    mixup: float | None = None
    """Beta parameter of mixup, 0 = off. None: 0.8 with ``deit``, else 0."""
    cutmix: float | None = None
    """Beta parameter of cutmix, 0 = off. None: 1.0 with ``deit``, else 0."""
    smoothing: float = 0.1
    """Label smoothing in [0, 1); the teacher's labels are not smoothed."""
    repeats: int | None = None
    """Repeated augmentation: views of one image an epoch. None: 3 with ``deit``, else 1."""
    shuffle: Shuffle = "auto"
    """Order of an epoch: all images at random, or few tar files or parquet row groups at a time,
    as suits slow disks and networks. auto: ``shards`` for parquet files of more than 256 MiB,
    where each image would cost a row group, else ``images``."""
    views: Place = "auto"
    """Where views that begin with a random crop are made: by the loader processes, or by these and
    kornia on the device. auto: on a CUDA device, else on the CPU."""
    workers: int | None = None
    """Loader processes. None: one a core on a GPU machine, 0 for small images on a CPU."""
    on_bad_image: Literal["skip", "fail"] = "skip"
    """An image that can't be read: name it and take another, or stop."""

    @property
    def views_a_pass(self) -> int | None:
        """``micro_batch`` where it is a number; None: the batch in one pass, to begin with."""
        return None if self.micro_batch == "auto" else self.micro_batch

    def __post_init__(self) -> None:
        check_range("data.fraction", self.fraction, 0, 1, open_low=True)
        check_range("data.smoothing", self.smoothing, 0, 0.999)
        if self.validation is not None:
            check_range("data.validation", self.validation, 0, 1e9, open_low=True)
            if self.validation >= 1 and self.validation % 1:
                raise UserError(
                    "data.validation must be a share below 1 or a whole number of images, got "
                    f"{self.validation}"
                )
        for name in ("img_size", "batch_size", "micro_batch", "repeats"):
            if (value := getattr(self, name)) not in (None, "auto"):
                most = MOST_PIXELS if name == "img_size" else 100_000
                check_range(f"data.{name}", value, 1, most)
        for name in ("mixup", "cutmix", "workers"):
            if (value := getattr(self, name)) is not None:
                check_range(f"data.{name}", value, 0, 1000)

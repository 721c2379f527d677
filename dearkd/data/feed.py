"""The batches of training, which are mixed on the device, and those of evaluation."""

from collections.abc import Iterator
from typing import Any

import torch
from accelerate import Accelerator, PartialState
from torch import Tensor

from dearkd.data.augment import crops_at_random, view_augment
from dearkd.data.device_augment import DeviceAugment
from dearkd.data.loaders import Loader, OnBadImage, eval_loader
from dearkd.data.mixing import mix, smooth
from dearkd.data.settings import DataConfig, Shuffle
from dearkd.data.sizes import is_small
from dearkd.data.sources import ImageSource, shards_of
from dearkd.errors import UserError
from dearkd.run_folder.processes import local_processes
from synth.cores import usable_cores

__all__ = [
    "EVALUATION_BATCH",
    "DeviceBatches",
    "chosen_shuffle",
    "evaluation_loader",
    "faster_data",
    "worker_count",
]

EVALUATION_BATCH = 128
"""Images of a forward pass in evaluation."""
MOST_WORKERS = 16
"""Loader processes of one training process, where their number is chosen."""


class DeviceBatches:
    """Training batches, moved to the device, finished there if their views are, and mixed."""

    def __init__(
        self,
        loader: Loader,
        config: DataConfig,
        num_classes: int,
        device: torch.device,
        memory_format: torch.memory_format = torch.contiguous_format,
        numbered: bool = False,
    ) -> None:
        self.steps = len(loader)
        self._loader = loader
        self._labelled = loader.views.source.classes.known
        self._smoothing = config.smoothing if self._labelled else 1.0
        self._mixes = bool(config.mixup or config.cutmix)
        self._num_classes = num_classes
        self._device = device
        self._memory_format = memory_format
        self._numbered = numbered

    @property
    def waited(self) -> float:
        """Seconds for which the loaders have kept the training waiting, over all epochs."""
        return self._loader.waited

    def __call__(self, epoch: int, start: int) -> Iterator[tuple[Tensor, ...]]:
        """(images, soft targets) of an epoch from forward pass ``start`` on.

        They are float tensors on the device, (batch, 3, height, width) and (batch, classes).
        Targets of images without labels say nothing: every class has the same share of them.
        ``numbered`` batches have the number of each view besides, (batch,) on the CPU.
        """
        augment = self._loader.views.augment
        for batch in self._loader.epoch(epoch, start):
            images = batch["image"].to(self._device, non_blocking=True)
            if isinstance(augment, DeviceAugment):
                images = augment.finished(images, batch["drawn"])
            images = images.contiguous(memory_format=self._memory_format)
            labels = batch["label"].to(self._device, non_blocking=True)
            if not self._labelled:
                labels = torch.zeros_like(labels)  # with nothing left of it by the smoothing
            if self._mixes:
                weight = batch["weight"].to(self._device, non_blocking=True)
                box = batch["box"].to(self._device, non_blocking=True)
                made = mix(images, labels, weight, box, self._num_classes, self._smoothing)
            else:
                made = images, smooth(labels, self._num_classes, self._smoothing)
            yield (*made, batch["view"]) if self._numbered else made


def evaluation_loader(
    source: ImageSource,
    view: Any,
    img_size: int,
    class_map: tuple[int, ...],
    accelerator: Accelerator | PartialState,
    *,
    batch_size: int = EVALUATION_BATCH,
    on_bad_image: OnBadImage = "skip",
    workers: int | None = None,
) -> Loader:
    """A loader that shows every image once over all processes, as the model wants to see it.

    ``view`` has the model's mean, std, crop_pct, crop_mode and interpolation. With ``workers`` None
    their number is chosen by ``worker_count``.
    """
    augment = view_augment(view, img_size)
    device = accelerator.device
    return eval_loader(
        source,
        augment,
        batch_size,
        class_map=class_map,
        on_bad_image=on_bad_image,
        rank=accelerator.process_index,
        world=accelerator.num_processes,
        workers=worker_count(workers, img_size, device, accelerator.num_processes),
        pin_memory=device.type == "cuda",
    )


def worker_count(asked: int | None, img_size: int, device: torch.device, processes: int = 1) -> int:
    """How many processes load the data of one training process.

    It is the number asked for, or else the usable cores divided among the training processes of
    this machine. Small images on a CPU are loaded in place (0), which is cheaper.
    """
    if asked is not None:
        return asked
    if device.type == "cpu" and is_small(img_size):
        return 0
    return max(1, min(MOST_WORKERS, usable_cores() // local_processes(processes)))


def faster_data(data: DataConfig, device: torch.device, processes: int = 1) -> str:
    """What a user can change where training waits for its data."""
    assert data.img_size is not None
    workers = worker_count(data.workers, data.img_size, device, processes)
    most = max(1, usable_cores() // local_processes(processes))
    if workers < most:
        return f"--set data.workers={most} has more processes load it (now {workers})"
    may_move = device.type != "cpu" and crops_at_random(data.augment, data.img_size)
    if data.views == "cpu" and may_move:
        return "--set data.views=device leaves the loaders less to do"
    return (
        f"all {workers} cores of this process load it already: fewer or smaller images, a faster "
        "disk or more cores"
    )


def chosen_shuffle(data: DataConfig, source: ImageSource) -> tuple[Shuffle, list[str]]:
    """In which order images are read, and a note where that is not one shuffle of all of them.

    Raises:
        UserError: If an order by shards is asked for that would be no other.
    """
    shards = shards_of(source)
    several = shards is not None and len(shards.starts) > shards.together
    if data.shuffle == "shards" and not several:
        few = f"more than {shards.together}" if shards else "many"
        raise UserError(
            f"data.shuffle=shards has no effect on {data.train}, whose images do not lie in {few} "
            "tar files or parquet row groups; leave it out"
        )
    if data.shuffle != "auto" or shards is None or not (shards.needed and several):
        return ("images" if data.shuffle == "auto" else data.shuffle), []
    note = f"shuffled within {shards.together} of {len(shards.starts)} row groups at a time"
    return "shards", [f"{note} (--set data.shuffle=images reads a row group for every image)"]

"""The batches of a run: training views in the run's order, evaluation images once each."""

import dataclasses
from typing import TypeAlias

from accelerate import Accelerator, PartialState

from dearkd.data.augment import Augment, TimmAugment, train_augment
from dearkd.data.device_augment import DeviceAugment
from dearkd.data.feed import DeviceBatches, evaluation_loader, worker_count
from dearkd.data.loaders import Loader, train_loader
from dearkd.data.mixing import Mixing
from dearkd.data.order import EpochOrder
from dearkd.data.sources import shards_of
from dearkd.data.views import CACHE_BYTES
from dearkd.errors import UserError
from dearkd.models.cost import LAYOUTS
from dearkd.training.build import Parts
from dearkd.training.passes import Cut

__all__ = [
    "epoch_order",
    "evaluation_images",
    "sample_batches",
    "smaller_batches",
    "training_batches",
]

Processes: TypeAlias = Accelerator | PartialState


def training_batches(parts: Parts, processes: Processes) -> tuple[DeviceBatches, int]:
    """Batches of one process's forward passes, and how many of them make a step.

    They are numbered where the teacher has a memory.
    """
    data = parts.config.data
    assert data.img_size is not None
    order, accumulate = epoch_order(parts, processes.process_index, processes.num_processes)
    workers = worker_count(data.workers, data.img_size, processes.device, processes.num_processes)
    return _batches(parts, processes, order, workers, CACHE_BYTES), accumulate


def smaller_batches(parts: Parts, processes: Processes) -> Cut | None:
    """What cuts the batch smaller where memory is out; None unless ``data.micro_batch`` is auto."""
    data = parts.config.data
    if data.micro_batch != "auto":
        return None

    def cut(micro: int) -> tuple[DeviceBatches, int]:
        config = dataclasses.replace(
            parts.config, data=dataclasses.replace(data, micro_batch=micro)
        )
        return training_batches(dataclasses.replace(parts, config=config), processes)

    return cut


def sample_batches(parts: Parts, processes: Processes, size: int) -> DeviceBatches:
    """The run's views in its order, numbered, in batches of ``size``: for a look at a few."""
    order = dataclasses.replace(epoch_order(parts, 0, 1)[0], batch_size=size)
    return _batches(parts, processes, order, workers=0, cache_bytes=0, numbered=True)


def _batches(
    parts: Parts,
    processes: Processes,
    order: EpochOrder,
    workers: int,
    cache_bytes: int,
    numbered: bool | None = None,
) -> DeviceBatches:
    data = parts.config.data
    assert data.img_size is not None
    loader = train_loader(
        parts.train,
        _augment(parts),
        order,
        mixing=Mixing(mixup=data.mixup or 0.0, cutmix=data.cutmix or 0.0),
        class_map=parts.class_map,
        on_bad_image=data.on_bad_image,
        workers=workers,
        pin_memory=processes.device.type == "cuda",
        cache_bytes=cache_bytes,
    )
    layout = LAYOUTS[parts.config.memory_format]
    classes = parts.student.num_classes
    if numbered is None:
        numbered = parts.teacher is not None and parts.teacher.memory is not None
    return DeviceBatches(loader, data, classes, processes.device, layout, numbered)


def epoch_order(parts: Parts, rank: int, world: int) -> tuple[EpochOrder, int]:
    """The views of each forward pass of one process, and how many of these make a step.

    Raises:
        UserError: If the batch can't be cut up that way, or exceeds an epoch.
    """
    data = parts.config.data
    assert data.batch_size is not None
    if data.micro_batch == "auto" and world > 1:
        raise UserError(
            f"data.micro_batch=auto is for one process, and there are {world}, which would have to "
            "agree on every size; give a number of views a pass"
        )
    if data.views_a_pass and data.views_a_pass % 2:
        raise UserError(
            f"data.micro_batch must be even (views are mixed in pairs), got {data.views_a_pass}; "
            "use an even number that data.batch_size is a multiple of"
        )
    micro = data.views_a_pass or data.batch_size // world
    if micro == 0 or data.batch_size % (micro * world):
        raise UserError(
            f"data.batch_size {data.batch_size} is not a multiple of data.micro_batch {micro} x "
            f"{world} processes; change one of them"
        )
    order = EpochOrder(
        images=len(parts.train),
        batch_size=micro * world,
        seed=parts.config.seed,
        repeats=data.repeats or 1,
        views=parts.full_size if data.keep_steps else None,
        shards=shards_of(parts.train) if data.shuffle == "shards" else None,
        rank=rank,
        world=world,
    )
    accumulate = data.batch_size // (micro * world)
    if order.steps_per_epoch < accumulate:
        raise UserError(
            f"data.batch_size {data.batch_size} exceeds the {order.views_per_epoch} images of an "
            f"epoch; use at most {order.views_per_epoch // 2 * 2}"
        )
    return order, accumulate


def _augment(parts: Parts) -> Augment | DeviceAugment:
    """How views are made, and where; an older version, whose run goes on, knew the CPU alone."""
    data, look = parts.config.data, parts.student.pretrained_cfg
    assert data.img_size is not None
    assert data.augment != "auto"
    augment = train_augment(
        data.augment,
        data.img_size,
        mean=look["mean"],
        std=look["std"],
        flip=bool(data.flip),
        interpolation=look["interpolation"],
    )
    if data.views != "device":
        return augment
    assert isinstance(augment, TimmAugment)
    return DeviceAugment(augment)


def evaluation_images(parts: Parts, processes: Processes) -> Loader | None:
    """The evaluation images of one process, seen as the student sees them; None: there are none."""
    if parts.evaluation is None:
        return None
    data, trained = parts.config.data, parts.trained()
    return evaluation_loader(
        parts.evaluation,
        trained.view,
        trained.img_size,
        parts.class_map,
        processes,
        on_bad_image=data.on_bad_image,
        workers=data.workers,
    )

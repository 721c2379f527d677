"""Data loaders: training views in the order of an `EpochOrder`, evaluation images once each."""

import logging
import signal
import time
import weakref
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, NotRequired, TypedDict

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Sampler
from torch.utils.data.dataloader import _MultiProcessingDataLoaderIter

from dearkd.data.augment import Augment
from dearkd.data.decode import BadImageError
from dearkd.data.device_augment import DeviceAugment, Drawn
from dearkd.data.mixing import Mixing
from dearkd.data.order import EpochOrder, ViewKey
from dearkd.data.sources import ImageSource
from dearkd.data.views import CACHE_BYTES, Views
from dearkd.errors import UserError, one_line
from dearkd.run_folder.stop import SCHEDULER

__all__ = ["BadImages", "Batch", "Loader", "OnBadImage", "eval_loader", "train_loader"]

OnBadImage = Literal["skip", "fail"]

_log = logging.getLogger("dearkd")


class Batch(TypedDict):
    """Views on the CPU; ``weight`` and ``box`` are in training batches, for ``mixing.mix``."""

    image: Tensor
    """(B, 3, H, W), normalised; uint8 where ``drawn`` says what the device has still to do."""
    label: Tensor
    """(B,)."""
    index: Tensor
    """(B,), the row of each image in the source."""
    view: Tensor
    """(B,), the number of each view in the run's order (`ViewKey.number`); -1: it has none."""
    weight: Tensor
    """(B,), how much of each view's own image is left after mixing."""
    box: Tensor
    """(B, 4): top, bottom, left and right of the box that the partner fills."""
    drawn: NotRequired[Drawn]
    """For `DeviceAugment.finished`."""


@dataclass
class BadImages:
    """What to do with images that cannot be decoded, and why those met so far could not be.

    ``found`` has the reasons by the images' names.
    """

    policy: OnBadImage = "skip"
    found: dict[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if self.policy not in ("skip", "fail"):
            raise UserError(f"on_bad_image must be skip or fail, got {self.policy!r}")

    def note(self, errors: Sequence[BadImageError]) -> None:
        """Logs each image once.

        Raises:
            UserError: If the policy is ``fail``.
        """
        for error in errors:
            if self.policy == "fail":
                raise UserError(
                    f"{error}; repair or remove it, "
                    "or go on without such images by --on-bad-image skip"
                )
            if error.name not in self.found:
                self.found[error.name] = error.reason
                _log.warning("%s: skipped", error)


class Loader:
    """Batches of an epoch in order, made by worker processes or in place.

    Not to be given to ``accelerator.prepare``: each process already gets its own share.
    """

    def __init__(
        self,
        views: Views,
        batches: Callable[[int, int], Iterator[list[ViewKey]]],
        steps: int,
        bad_images: BadImages,
        *,
        workers: int = 0,
        pin_memory: bool = False,
    ) -> None:
        self.views = views
        self.bad_images = bad_images
        self.waited = 0.0
        """Seconds for which batches have kept their reader waiting, over all epochs."""
        bad_images.note(list(views.bad.values()))
        self._steps = steps
        self._sampler = _Sampler(batches)
        self._loader = DataLoader(
            views,
            batch_size=None,
            sampler=self._sampler,
            num_workers=workers,
            collate_fn=_unchanged,
            pin_memory=pin_memory,
            persistent_workers=workers > 0,
            worker_init_fn=_leave_signals_to_parent,
            # Its own generator: the global one is part of a checkpoint and belongs to the model.
            generator=torch.Generator(),
        )
        self.close = weakref.finalize(self, _stop_workers, self._loader)
        """Ends the workers; also called when the loader is no longer used, and at exit."""

    def __len__(self) -> int:
        """Steps in a whole epoch."""
        return self._steps

    def __iter__(self) -> Iterator[Batch]:
        return self.epoch(0)

    def epoch(self, epoch: int, start_step: int = 0) -> Iterator[Batch]:
        """The batches of an epoch from ``start_step`` on; one whose images are all bad is left out.

        Raises:
            UserError: If an image is bad and the policy is ``fail``, too many are, or the data
                cannot be read; whether here or in a worker, it is the same error.
        """
        self._sampler.position = (epoch, start_step)
        for batch in self._timed():
            self.bad_images.note(batch.pop("errors"))
            failure = batch.pop("failure")
            if failure is not None:
                raise failure
            if len(batch["label"]):
                yield batch

    def _timed(self) -> Iterator[Any]:
        batches = iter(self._loader)
        while True:
            started = time.perf_counter()
            try:
                batch = next(batches)
            except StopIteration:
                return
            except (RuntimeError, ConnectionError, EOFError) as error:
                if not self._has_died(error):
                    raise
                raise UserError(
                    f"a loader process died ({one_line(error)}): for want of memory, as a rule; "
                    "go on with --resume, with fewer of them by data.workers if it happens again"
                ) from error
            self.waited += time.perf_counter() - started
            yield batch

    def _has_died(self, error: Exception) -> bool:
        """Whether an error says that a loader process is gone, and not what went wrong in it.

        One that dies while it hands over a batch breaks the connection.
        """
        if self._loader.num_workers == 0 or str(error).startswith("Caught "):
            return False
        return not isinstance(error, RuntimeError) or "DataLoader worker (pid" in str(error)


def train_loader(
    source: ImageSource,
    augment: Augment | DeviceAugment,
    order: EpochOrder,
    *,
    mixing: Mixing | None = None,
    class_map: Sequence[int] | None = None,
    on_bad_image: OnBadImage = "skip",
    workers: int = 0,
    pin_memory: bool = False,
    cache_bytes: int = CACHE_BYTES,
) -> Loader:
    """A loader of training views in ``order``, with the draws that `mixing.mix` needs.

    Raises:
        UserError: If ``on_bad_image`` is unknown, or is ``fail`` and a cached image is bad.
    """
    bad_images = BadImages(on_bad_image)
    views = Views(
        source,
        augment,
        seed=order.seed,
        mixing=mixing or Mixing(mixup=0.0, cutmix=0.0),
        class_map=class_map,
        cache_bytes=cache_bytes,
    )
    return Loader(
        views,
        order.batches,
        order.steps_per_epoch,
        bad_images,
        workers=workers,
        pin_memory=pin_memory,
    )


def eval_loader(
    source: ImageSource,
    augment: Augment,
    batch_size: int,
    *,
    class_map: Sequence[int] | None = None,
    on_bad_image: OnBadImage = "skip",
    rank: int = 0,
    world: int = 1,
    workers: int = 0,
    pin_memory: bool = False,
) -> Loader:
    """A loader that shows every image once over all processes and leaves out those that are bad.

    Raises:
        UserError: If ``batch_size`` is below 1, or as for ``train_loader``.
    """
    if batch_size < 1:
        raise UserError(f"evaluation batch size must be at least 1, got {batch_size}")
    share = np.array_split(np.arange(len(source)), world)[rank].tolist()
    keys = [ViewKey(0, index, 0) for index in share]
    steps = -(-len(keys) // batch_size)

    def batches(_: int, start_step: int) -> Iterator[list[ViewKey]]:
        for step in range(start_step, steps):
            yield keys[step * batch_size : (step + 1) * batch_size]

    rows = np.asarray(share, dtype=np.int64)
    views = Views(source, augment, class_map=class_map, substitute=False, rows=rows)
    return Loader(
        views, batches, steps, BadImages(on_bad_image), workers=workers, pin_memory=pin_memory
    )


class _Sampler(Sampler[list[ViewKey]]):
    """The batches from ``position`` on; persistent workers need one object for all epochs."""

    def __init__(self, batches: Callable[[int, int], Iterator[list[ViewKey]]]) -> None:
        self.batches = batches
        self.position = (0, 0)

    def __iter__(self) -> Iterator[list[ViewKey]]:
        return self.batches(*self.position)


def _stop_workers(loader: DataLoader[Any]) -> None:
    # Left to the interpreter's exit, torch waits five seconds for persistent workers.
    iterator = loader._iterator
    if isinstance(iterator, _MultiProcessingDataLoaderIter):
        iterator._shutdown_workers()
        for worker in iterator._workers:
            if worker.is_alive():  # past torch's patience, and deaf to its SIGTERM
                worker.kill()


def _unchanged(batch: Any) -> Any:
    return batch


def _leave_signals_to_parent(_: int) -> None:
    """Ctrl-C and a scheduler's signals reach the whole process group: only the parent saves.

    It ends the workers itself, and they end by themselves when it is gone.
    """
    for kind in (signal.SIGINT, *SCHEDULER):
        signal.signal(kind, signal.SIG_IGN)

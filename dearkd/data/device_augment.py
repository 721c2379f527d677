"""Views made in two halves: the loaders cut the crops, the device does the rest by kornia.

A loader process decodes an image, cuts out its random box, resizes it to the view's size and
mirrors it, by the transforms that the CPU path has. It also lets timm's RandAugment and random
erasing draw what they would do, in their own order, from generators seeded with the view's hash;
only the doing is left to the device. So a view has the same box and the same operations of the same
strength wherever it is made, and the two differ by rounding and by kernels alone (`rand_augment`).

The box is resized on the CPU because a batch needs one size: an antialiased resize of boxes of all
sizes is no batch operation, and the crop of a view (uint8) is a fifth of a usual photo's pixels.
"""

from collections.abc import Sequence
from functools import partial
from typing import Any, TypedDict

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from timm.data.auto_augment import RandAugment
from timm.data.random_erasing import RandomErasing
from timm.data.transforms import RandomResizedCropAndInterpolation
from torch import Tensor
from torchvision import transforms

from dearkd.data.augment import TimmAugment, own_generators, seed_generators

__all__ = ["DeviceAugment", "Drawn"]

_BEFORE = (RandomResizedCropAndInterpolation, transforms.RandomHorizontalFlip)
"""Steps of a timm transform that loaders make."""
_NOTHING = -1
"""In place of an operation."""


class Drawn(TypedDict):
    """What is left to do for each view of a batch, on the CPU."""

    operations: Tensor
    """(B, layers): places in RandAugment's list, or -1."""
    amounts: Tensor
    """(B, layers): what timm gives each operation."""
    erased: Tensor
    """(B, 4): top, bottom, left and right of the box that noise fills; empty where none does."""
    seed: Tensor
    """(B,): of that noise."""


class DeviceAugment:
    """The two halves of DeiT's views, or of lighter ones, for one timm transform."""

    cacheable = False

    def __init__(self, augment: TimmAugment) -> None:
        self.img_size = augment.img_size
        steps = augment.transform.transforms
        self._before = [step for step in steps if isinstance(step, _BEFORE)]
        self._policy = _only(RandAugment, steps)
        self._erasing = _only(RandomErasing, steps)
        look = _only(transforms.Normalize, steps)
        self._mean, self._std = torch.as_tensor(look.mean), torch.as_tensor(look.std)
        own = [] if self._policy is None else self._policy.ops
        self._names = [operation.name for operation in own]
        self._fill: Sequence[int] = own[0].kwargs["fillcolor"] if own else ()
        for place, operation in enumerate(own):
            operation.aug_fn = partial(_noted, place)

    def prepare(self, image: Image.Image) -> Image.Image:
        """The image itself."""
        return image

    def crops(
        self, prepared: Sequence[Image.Image], seeds: NDArray[np.uint64]
    ) -> tuple[Tensor, Drawn]:
        """The loader's half: mirrored crops, (B, 3, size, size) uint8, and what else was drawn."""
        crops, noted, boxes = [], [], []
        with own_generators():
            for image, seed in zip(prepared, seeds.tolist(), strict=True):
                seed_generators(seed)
                for step in self._before:
                    image = step(image)
                crops.append(np.asarray(image))
                noted.append(() if self._policy is None else self._policy(()))
                boxes.append(self._box())
        operations, amounts = _as_tensors(noted)
        drawn = Drawn(
            operations=operations,
            amounts=amounts,
            erased=torch.tensor(boxes),
            seed=torch.from_numpy(seeds.view(np.int64)),
        )
        return torch.from_numpy(np.stack(crops).transpose(0, 3, 1, 2)), drawn

    def finished(self, crops: Tensor, drawn: Drawn) -> Tensor:
        """The device's half: normalised views of crops that are on the device already."""
        # Not at the top: only runs that make views on the device pay for the import.
        from kornia.enhance import normalize

        from dearkd.data.rand_augment import apply_operations

        images = crops.contiguous().float() / 255
        images = apply_operations(
            images, self._names, drawn["operations"], drawn["amounts"], self._fill
        )
        return _with_noise(normalize(images, self._mean, self._std), drawn)

    def __call__(self, prepared: Sequence[Image.Image], seeds: NDArray[np.uint64]) -> Tensor:
        """Both halves on the CPU: one view of each image."""
        return self.finished(*self.crops(prepared, seeds))

    def _box(self) -> tuple[int, int, int, int]:
        """The box that random erasing draws, empty if it leaves the view alone."""
        canvas = _Canvas(self.img_size)
        if self._erasing is not None:
            self._erasing(canvas)
        return canvas.box


class _Canvas:
    """Stands in for an image and remembers which box of it was filled."""

    dtype = torch.float32

    def __init__(self, img_size: int) -> None:
        self._shape = (3, img_size, img_size)
        self.box = (0, 0, 0, 0)

    def size(self) -> tuple[int, ...]:
        return self._shape

    def __setitem__(self, where: tuple[slice, slice, slice], noise: Tensor) -> None:
        _, rows, columns = where
        self.box = (rows.start, rows.stop, columns.start, columns.stop)


def _only(kind: type, steps: Sequence[Any]) -> Any:
    """The step of that kind, or None."""
    return next((step for step in steps if isinstance(step, kind)), None)


def _noted(place: int, before: tuple[Any, ...], *arguments: float, **_: Any) -> tuple[Any, ...]:
    """What stands in for an operation of RandAugment: it is added to those ``before``."""
    return (*before, (place, arguments[0] if arguments else 0.0))


def _as_tensors(noted: Sequence[Sequence[tuple[int, float]]]) -> tuple[Tensor, Tensor]:
    """(operations, amounts) of each view, as `Drawn` has them."""
    layers = max(map(len, noted))
    operations = torch.full((len(noted), layers), _NOTHING)
    amounts = torch.zeros(len(noted), layers, dtype=torch.float64)
    for row, own in enumerate(noted):
        for layer, (place, amount) in enumerate(own):
            operations[row, layer], amounts[row, layer] = place, amount
    return operations, amounts


def _with_noise(images: Tensor, drawn: Drawn) -> Tensor:
    """The views with their boxes filled by standard normal noise, in place."""
    generator = torch.Generator(images.device)
    boxes, seeds = drawn["erased"].tolist(), drawn["seed"].tolist()
    for image, (top, bottom, left, right), seed in zip(images, boxes, seeds, strict=True):
        if bottom > top:
            box = image[:, top:bottom, left:right]
            generator.manual_seed(seed)
            box.copy_(torch.randn(box.shape, generator=generator, device=images.device))
    return images

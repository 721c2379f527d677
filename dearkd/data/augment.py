"""Augmentations, from an image to a view in a batch: DeiT's recipe and lighter ones.

An augmentation first prepares an image (what is the same in every view, and may be cached), then
turns prepared images and one 64-bit seed each into a batch of normalised float tensors.
"""

import random
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Literal, Protocol, runtime_checkable

import numpy as np
import torch
from jaxtyping import Float
from numpy.typing import NDArray
from PIL import Image, ImageOps
from timm.data.transforms_factory import create_transform
from torch import Tensor
from torch.nn import functional as F

from dearkd.data.evaluation_transform import evaluation_transform
from dearkd.data.order import uniforms
from dearkd.data.sizes import is_small
from dearkd.errors import UserError

__all__ = [
    "ArrayAugment",
    "Augment",
    "AugmentName",
    "TimmAugment",
    "crops_at_random",
    "eval_augment",
    "own_generators",
    "seed_generators",
    "train_augment",
    "view_augment",
]

AugmentName = Literal["deit", "light", "crops", "digits", "none"]
_RESAMPLING = {"bicubic": Image.Resampling.BICUBIC, "bilinear": Image.Resampling.BILINEAR}


@runtime_checkable
class Augment(Protocol):
    """Turns images into normalised tensors."""

    @property
    def img_size(self) -> int:
        """Height and width of a view in pixels."""
        ...

    @property
    def cacheable(self) -> bool:
        """Whether ``prepare`` returns a small uint8 array of one fixed shape."""
        ...

    def prepare(self, image: Image.Image) -> Any:
        """The part of the augmentation that is the same in every view of the image."""
        ...

    def __call__(
        self, prepared: Sequence[Any], seeds: NDArray[np.uint64]
    ) -> Float[Tensor, "batch 3 size size"]:
        """One view of each prepared image, a function of that image and its seed alone."""
        ...


@dataclass(frozen=True, kw_only=True)
class ArrayAugment:
    """Shift, flip, rotation and zoom of small images, vectorised over the batch.

    ``prepare`` resizes the shorter side to ``img_size`` and cuts out the centre.
    """

    img_size: int
    mean: tuple[float, ...]
    std: tuple[float, ...]
    shift: int = 0
    """Largest shift in pixels, either way; ``fill`` says what is seen beyond the edge."""
    fill: Literal["reflect", "edge"] = "reflect"
    flip: bool = False
    rotate: float = 0.0
    """Largest rotation in degrees, either way."""
    zoom: float = 0.0
    """Largest change of scale, either way: 0.1 gives 0.9 to 1.1."""
    interpolation: str = "bicubic"
    cacheable: bool = True

    def prepare(self, image: Image.Image) -> NDArray[np.uint8]:
        """Square pixels, shape (img_size, img_size, 3)."""
        side = (self.img_size, self.img_size)
        if image.size != side:
            image = ImageOps.fit(image, side, _RESAMPLING[self.interpolation])
        return np.asarray(image)

    def __call__(
        self, prepared: Sequence[NDArray[np.uint8]] | NDArray[np.uint8], seeds: NDArray[np.uint64]
    ) -> Float[Tensor, "batch 3 size size"]:
        """One view of each prepared image."""
        from kornia.enhance import normalize  # not at the top: `import dearkd` needs no kornia

        draws = uniforms(seeds, 5)
        pixels = np.asarray(prepared)
        if self.shift:
            pixels = _shifted(pixels, draws[:, :2], self.shift, self.fill)
        else:
            pixels = pixels.transpose(0, 3, 1, 2)
        if self.flip:
            chosen = (draws[:, 2] < 0.5)[:, None, None, None]
            pixels = np.where(chosen, pixels[..., ::-1], pixels)
        mean, std = 255 * torch.tensor(self.mean), 255 * torch.tensor(self.std)
        images = normalize(torch.from_numpy(pixels), mean, std)
        return self._turned(images, draws[:, 3:]) if self.rotate or self.zoom else images

    def _turned(self, images: Tensor, draws: NDArray[np.float64]) -> Tensor:
        spread = 2 * torch.from_numpy(draws).float() - 1
        angle = torch.deg2rad(self.rotate * spread[:, 0])
        zoom = 1 + self.zoom * spread[:, 1]
        cos, sin = (
            (torch.cos(angle) / zoom)[:, None, None],
            (torch.sin(angle) / zoom)[:, None, None],
        )
        axis = (torch.arange(self.img_size) + 0.5) * (2 / self.img_size) - 1
        y, x = axis[:, None], axis[None, :]
        # Written out: a batched matrix product may round differently with the batch size.
        grid = torch.stack([cos * x - sin * y, sin * x + cos * y], dim=-1)
        return F.grid_sample(images, grid, padding_mode="border", align_corners=False)


class TimmAugment:
    """A timm transform, which draws from global generators, made a function of the view's seed."""

    cacheable = False

    def __init__(self, img_size: int, transform: Any) -> None:
        self.img_size = img_size
        self.transform = transform

    def prepare(self, image: Image.Image) -> Image.Image:
        """The image itself."""
        return image

    def __call__(
        self, prepared: Sequence[Image.Image], seeds: NDArray[np.uint64]
    ) -> Float[Tensor, "batch 3 size size"]:
        """One view of each image; the callers' generators are left as they were."""
        views = []
        with own_generators():
            for image, seed in zip(prepared, seeds.tolist(), strict=True):
                seed_generators(seed)
                views.append(self.transform(image))
        return torch.stack(views)


def train_augment(
    name: AugmentName,
    img_size: int,
    *,
    mean: tuple[float, ...],
    std: tuple[float, ...],
    flip: bool = True,
    interpolation: str = "bicubic",
) -> Augment:
    """The augmentation of that name.

    ``deit``: random resized crop, flip, rand-m9-mstd0.5-inc1, erasing 0.25 with noise; colour
    jitter 0.3 is stated in the recipe but has no effect beside RandAugment in timm, so it is not
    passed. ``light``: up to 64 px reflected shifts of an eighth of the image (4 at 32) and flip;
    above, random resized crops of at least half the image and flip. ``crops``: random resized crops
    of 8 % of the image and more, and flip, at any size. ``digits``: shifts of a tenth,
    rotation up to 10 degrees, zoom up to 10 %, never a flip. ``none``: as in evaluation.

    Source:
        Touvron et al. 2021, https://arxiv.org/abs/2012.12877, table 9 (``deit``); He et al. 2016,
        https://arxiv.org/abs/1512.03385, section 4.2 (``light`` at 32, zeros there); Szegedy et al.
        2015, https://arxiv.org/abs/1409.4842, section 6 (``crops``).

    Raises:
        UserError: If the name or interpolation is unknown.
    """
    _check_interpolation(interpolation)
    look: dict[str, Any] = {"mean": mean, "std": std, "interpolation": interpolation}
    shared: dict[str, Any] = {"img_size": img_size, **look}
    match name:
        case "deit":
            return _timm(
                img_size,
                flip,
                look,
                auto_augment="rand-m9-mstd0.5-inc1",
                re_prob=0.25,
                re_mode="pixel",
            )
        case "light" if is_small(img_size):
            return ArrayAugment(**shared, shift=max(1, img_size // 8), flip=flip)
        case "light":
            return _timm(img_size, flip, look, scale=(0.5, 1.0))
        case "crops":
            return _timm(img_size, flip, look, scale=(0.08, 1.0))
        case "digits":
            return ArrayAugment(
                **shared, shift=max(1, img_size // 10), fill="edge", rotate=10.0, zoom=0.1
            )
        case "none":
            return eval_augment(img_size, **look)
    raise UserError(f"augment must be deit, light, crops, digits or none, got {name!r}")


def crops_at_random(name: str, img_size: int) -> bool:
    """Whether its views begin with a random crop, after which a device may take over."""
    return name in ("deit", "crops") or (name == "light" and not is_small(img_size))


def eval_augment(
    img_size: int,
    *,
    mean: tuple[float, ...],
    std: tuple[float, ...],
    crop_pct: float | None = None,
    crop_mode: str = "center",
    interpolation: str = "bicubic",
) -> Augment:
    """The evaluation transform: resize, cut out the centre, normalise.

    By default ``crop_pct`` is 1 for a small image, which is seen whole, and else 0.875.

    Raises:
        UserError: If ``crop_pct`` is not in (0, 1], or ``crop_mode`` or interpolation is unknown.
    """
    _check_interpolation(interpolation)
    if crop_pct is not None and not 0 < crop_pct <= 1:
        raise UserError(f"crop_pct must be above 0 and at most 1, got {crop_pct}")
    look: dict[str, Any] = {"mean": mean, "std": std, "interpolation": interpolation}
    if is_small(img_size) and crop_pct in (None, 1.0) and crop_mode == "center":
        return ArrayAugment(img_size=img_size, **look)
    transform = evaluation_transform(img_size, crop_pct=crop_pct, crop_mode=crop_mode, **look)
    return TimmAugment(img_size, transform)


def view_augment(view: Mapping[str, Any], img_size: int) -> Augment:
    """The evaluation transform of a model whose ``view`` settings are given.

    ``view`` has mean, std, crop_pct, crop_mode and interpolation, as timm's ``pretrained_cfg``
    does; what was stored without crop_mode, by older versions, saw the centre.
    """
    return eval_augment(
        img_size,
        mean=tuple(view["mean"]),
        std=tuple(view["std"]),
        crop_pct=view["crop_pct"],
        crop_mode=view.get("crop_mode") or "center",
        interpolation=view["interpolation"],
    )


def _timm(img_size: int, flip: bool, look: dict[str, Any], **settings: Any) -> TimmAugment:
    transform = create_transform(
        img_size, is_training=True, hflip=0.5 * flip, color_jitter=0.0, **look, **settings
    )
    return TimmAugment(img_size, transform)


def _check_interpolation(interpolation: str) -> None:
    if interpolation not in _RESAMPLING:
        raise UserError(f"interpolation must be bicubic or bilinear, got {interpolation!r}")


def _shifted(
    pixels: NDArray[np.uint8],
    draws: NDArray[np.float64],
    shift: int,
    fill: Literal["reflect", "edge"],
) -> NDArray[np.uint8]:
    """One window of each padded image, channels first; all offsets are equally likely."""
    size = pixels.shape[1:3]
    padded = np.pad(pixels, ((0, 0), (shift, shift), (shift, shift), (0, 0)), mode=fill)
    windows = np.lib.stride_tricks.sliding_window_view(padded, size, axis=(1, 2))
    offset = (draws * (2 * shift + 1)).astype(np.int64)
    return windows[np.arange(len(pixels)), offset[:, 0], offset[:, 1]]


def seed_generators(seed: int) -> None:
    """Seeds all that timm and torchvision draw from."""
    random.seed(seed)
    np.random.seed([seed & 0xFFFFFFFF, seed >> 32])  # noqa: NPY002
    torch.default_generator.manual_seed(seed)


@contextmanager
def own_generators() -> Iterator[None]:
    """Gives the global generators their states back afterwards."""
    states = random.getstate(), np.random.get_state(), torch.default_generator.get_state()  # noqa: NPY002
    try:
        yield
    finally:
        random.setstate(states[0])
        np.random.set_state(states[1])  # noqa: NPY002
        torch.default_generator.set_state(states[2])

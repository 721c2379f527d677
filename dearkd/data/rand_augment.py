"""RandAugment's operations on batches of images on a device, by kornia.

They follow Pillow, on which timm's RandAugment rests: images have 256 levels before and after each
operation, and a result between two levels becomes the lower one. Images are RGB in [0, 1].
"""

from collections.abc import Callable, Sequence

import kornia.enhance as enhance
import torch
from jaxtyping import Float, Int
from kornia.geometry.transform import remap
from torch import Tensor

__all__ = ["OPERATIONS", "apply_operations"]

LEVELS = 255
TOLERANCE = 1e-3
"""Levels by which rounding may fall short of a whole level."""
SOLARIZE_ADD_BELOW = 128
"""Level from which SolarizeAdd leaves pixels as they are."""

Images = Float[Tensor, "batch 3 height width"]
Amounts = Float[Tensor, " batch"]
Affine = tuple[Tensor | float, ...]
"""(a, b, c, d, e, f): the pixel at (x, y) shows what was at (ax + by + c, dx + ey + f)."""


def apply_operations(
    images: Float[Tensor, "batch 3 height width"],
    names: Sequence[str],
    operations: Int[Tensor, "batch layers"],
    amounts: Float[Tensor, "batch layers"],
    fill: Sequence[int],
) -> Float[Tensor, "batch 3 height width"]:
    """The images after their own operations, layer by layer.

    ``operations`` has places in ``names`` or -1, and ``amounts`` what timm gives each of them. Both
    are on the CPU, so that no operation waits for the device. ``fill`` is the level of each channel
    beyond the edge.
    """
    images = images.clone()
    beyond = (torch.tensor(fill) / LEVELS).to(images, non_blocking=True)
    for layer in range(operations.shape[1]):
        order = operations[:, layer].argsort(stable=True)
        rows = order.to(images.device, non_blocking=True)
        values = amounts[order, layer].to(images, non_blocking=True)
        counts = torch.bincount(operations[:, layer] + 1, minlength=len(names) + 1).tolist()
        start = counts[0]
        for name, count in zip(names, counts[1:], strict=True):
            if count:
                part = slice(start, start + count)
                seen = images[rows[part]]
                images[rows[part]] = _floored(_operated(name, seen, values[part], beyond))
                start += count
    return images


def _operated(name: str, images: Images, amount: Amounts, fill: Tensor) -> Images:
    if name in _MOVES:
        affine = _MOVES[name](amount[:, None, None], images.shape[-2], images.shape[-1])
        return _moved(images, affine, fill)
    return _COLOURS[name](images, amount)


def _floored(images: Images) -> Images:
    return (images * LEVELS + TOLERANCE).floor() / LEVELS


def _moved(images: Images, affine: Affine, fill: Tensor) -> Images:
    """The images seen through an affine map, bicubically.

    Departure:
        The cubic kernel is torch's (a = -0.75), Pillow's is sharper (a = -1).
    """
    height, width = images.shape[-2:]
    x = torch.arange(width, device=images.device) + 0.5
    y = (torch.arange(height, device=images.device) + 0.5)[:, None]
    a, b, c, d, e, f = affine
    shape = (len(images), height, width)
    source_x, source_y = ((g * x + h * y + i).expand(shape) for g, h, i in ((a, b, c), (d, e, f)))
    moved = remap(
        images,
        2 * source_x / width - 1,
        2 * source_y / height - 1,
        mode="bicubic",
        padding_mode="border",
        align_corners=False,
        normalized_coordinates=True,  # kornia would wait for the device to normalise them
    )
    inside = (source_x >= 0) & (source_x < width) & (source_y >= 0) & (source_y < height)
    return torch.where(inside[:, None], moved.clamp(0, 1), fill[:, None, None])


def _rotation(degrees: Tensor, height: int, width: int) -> Affine:
    """Counterclockwise, around the centre."""
    angle = -torch.deg2rad(degrees)
    cos, sin = torch.cos(angle), torch.sin(angle)
    x, y = width / 2, height / 2
    return cos, sin, x - cos * x - sin * y, -sin, cos, y + sin * x - cos * y


def _autocontrast(images: Images, _: Amounts) -> Images:
    stretched = enhance.normalize_min_max(images, eps=1e-12)
    flat = images.amax((2, 3), keepdim=True) == images.amin((2, 3), keepdim=True)
    return torch.where(flat, images, stretched)


def _solarize_add(images: Images, amount: Amounts) -> Images:
    added = (images + amount[:, None, None, None] / LEVELS).clamp(max=1)
    return torch.where(images < (SOLARIZE_ADD_BELOW - 0.5) / LEVELS, added, images)


_MOVES: dict[str, Callable[[Tensor, int, int], Affine]] = {
    "Rotate": _rotation,
    "ShearX": lambda factor, *_: (1.0, factor, 0.0, 0.0, 1.0, 0.0),
    "ShearY": lambda factor, *_: (1.0, 0.0, 0.0, factor, 1.0, 0.0),
    "TranslateXRel": lambda share, _, width: (1.0, 0.0, share * width, 0.0, 1.0, 0.0),
    "TranslateYRel": lambda share, height, _: (1.0, 0.0, 0.0, 0.0, 1.0, share * height),
}
_COLOURS: dict[str, Callable[[Images, Amounts], Images]] = {
    "AutoContrast": _autocontrast,
    "Equalize": lambda images, _: enhance.equalize(images),
    "Invert": lambda images, _: 1 - images,
    "PosterizeIncreasing": lambda images, bits: enhance.posterize(images, bits.int()),
    # half a level lower, so that a pixel at the threshold is not left to rounding
    "SolarizeIncreasing": lambda images, level: enhance.solarize(images, (level - 0.5) / LEVELS),
    "SolarizeAdd": _solarize_add,
    "ColorIncreasing": enhance.adjust_saturation_with_gray_subtraction,
    "ContrastIncreasing": enhance.adjust_contrast_with_mean_subtraction,
    "BrightnessIncreasing": enhance.adjust_brightness_accumulative,
    "SharpnessIncreasing": enhance.sharpness,
}
OPERATIONS = (*_MOVES, *_COLOURS)
"""The names that timm gives them."""

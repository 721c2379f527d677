"""timm's evaluation transform, for images of any shape."""

import math
from functools import partial
from typing import Any, Literal, get_args

from PIL import Image
from timm.data.transforms_factory import create_transform
from torchvision.transforms import Compose

from dearkd.errors import UserError

__all__ = ["CropMode", "evaluation_transform"]

CropMode = Literal["center", "squash", "border"]
"""The centre is cut out of the image, of the image made square, or of the image in a frame."""
EXTREME = 8
"""Ratio of the sides above which an image is resized in the middle alone."""
SUPPORT = 2
"""Pixels of an image, on either side, that a magnified pixel depends on."""


def evaluation_transform(
    img_size: int, *, crop_mode: str, interpolation: str, **look: Any
) -> Compose:
    """From an upright RGB image to normalised pixels, as timm sees it in evaluation.

    timm resizes the whole image even where its centre alone is seen: 4 x 60000 pixels take 4 GB. Of
    extreme shapes what is seen, and a margin, is resized first, which gives the same pixels.

    Raises:
        UserError: If the ``crop_mode`` is unknown.
    """
    if crop_mode not in get_args(CropMode):
        raise UserError(f"crop_mode must be center, squash or border, got {crop_mode!r}")
    transform = create_transform(img_size, crop_mode=crop_mode, interpolation=interpolation, **look)
    resize = transform.transforms[0]
    resample = Image.Resampling[interpolation.upper()]
    match crop_mode:
        case "center":
            first = partial(_middle, side=img_size, shorter=resize.size, resample=resample)
        case "border":
            first = partial(_not_vanishing, longer=max(resize.size), resample=resample)
        case _:
            return transform
    return Compose([first, *transform.transforms])


def _middle(
    image: Image.Image, *, side: int, shorter: int, resample: Image.Resampling
) -> Image.Image:
    """The middle of an extreme image, resized to ``shorter`` pixels on its shorter side.

    The middle ``side`` x ``side`` of it are those of the whole image, resized.
    """
    short, long = sorted(image.size)
    if long <= EXTREME * short:
        return image
    longer = int(shorter * long / short)  # as torchvision's Resize rounds
    begin = round((longer - side) / 2) - shorter  # as its CenterCrop does, and a margin
    length = side + 2 * shorter
    first, last = begin * long / longer, (begin + length) * long / longer
    low, high = int(first) - SUPPORT, math.ceil(last) + SUPPORT
    # Cut before: of images 100 times as high as wide Pillow may swap its two passes.
    if image.height == long:
        part = image.crop((0, low, short, high))
        return part.resize((shorter, length), resample, (0, first - low, short, last - low))
    part = image.crop((low, 0, high, short))
    return part.resize((length, shorter), resample, (first - low, 0, last - low, short))


def _not_vanishing(image: Image.Image, *, longer: int, resample: Image.Resampling) -> Image.Image:
    """A line of one pixel for an image whose shorter side timm would round to none."""
    short, long = sorted(image.size)
    if round(short * longer / long) > 0:
        return image
    return image.resize((1, longer) if image.height == long else (longer, 1), resample)

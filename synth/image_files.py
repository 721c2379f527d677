"""Images as files: how one is encoded, read, and known by its pixels."""

import hashlib
import io
from pathlib import Path
from typing import Literal

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from synth.refusal import SynthError

__all__ = ["check_channels", "encoded", "pixel_hash", "read_image"]


def check_channels(name: str, channels: int, image_format: str) -> None:
    """Refuse a network ``name`` whose images a file of that format would not give back.

    Raises:
        SynthError: If they have neither 1 nor 3 channels, or are grey and WebP has colours alone.
    """
    if channels not in (1, 3):
        raise SynthError(
            f"{name} takes images of {channels} channels; image files have 1 (grey) or 3, so use a "
            "network that takes these"
        )
    if channels == 1 and image_format == "webp":
        raise SynthError(
            f"image_format=webp has no grey images, which {name} takes; use png or parquet"
        )


def read_image(file: Path | io.BytesIO) -> Tensor:
    """Pixels of an image file: uint8 of shape (channels, height, width)."""
    with Image.open(file) as picture:
        array = np.array(picture)
    return torch.from_numpy(array.reshape(*array.shape[:2], -1)).permute(2, 0, 1)


def pixel_hash(pixels: Tensor) -> str:
    """SHA-256 of the shape and bytes of uint8 pixels: equal images have it in any file format."""
    digest = hashlib.sha256(str(tuple(pixels.shape)).encode())
    digest.update(pixels.contiguous().numpy().tobytes())
    return digest.hexdigest()


def encoded(picture: Image.Image, image_format: Literal["png", "webp"]) -> bytes:
    """The bytes of a picture's file, lossless."""
    buffer = io.BytesIO()
    if image_format == "webp":
        picture.save(buffer, "WEBP", lossless=True, exact=True, quality=60, method=4)
    else:
        picture.save(buffer, "PNG", compress_level=6)
    return buffer.getvalue()

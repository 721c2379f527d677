"""Decodes one image: whatever Pillow reads becomes upright 8-bit RGB, or a named bad image."""

import errno
import io
import stat
import struct
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from PIL import ExifTags, Image, UnidentifiedImageError

from dearkd.errors import UserError, is_out_of_memory

__all__ = ["BadImageError", "open_image", "to_rgb"]

# What Pillow's decoders raise on damaged content; errors of the machine are not among them.
_DECODE_ERRORS = (
    Image.DecompressionBombError,
    EOFError,
    IndexError,
    RuntimeError,
    SyntaxError,
    TypeError,
    ValueError,
    struct.error,
    zlib.error,
)
_TURNS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
"""What puts an image of each EXIF orientation upright."""
# What the system says of a path that leads to no readable file; other errors are the machine's.
_PATH_ERRORS = {
    *(errno.EACCES, errno.EISDIR, errno.ELOOP, errno.ENAMETOOLONG),
    *(errno.ENOENT, errno.ENOTDIR, errno.EPERM),
}


class BadImageError(UserError):
    """One image cannot be decoded; ``name`` and ``reason`` say which and why."""

    def __init__(self, name: str, reason: str) -> None:
        super().__init__(name, reason)
        self.name = name
        self.reason = reason

    def __str__(self) -> str:
        name = "".join(c if c.isprintable() else repr(c)[1:-1] for c in self.name)
        return f"cannot decode {name} ({self.reason})"


def open_image(file: Path | bytes | Callable[[], Any], name: str) -> Image.Image:
    """The image in a file, in encoded bytes, or returned by a callable, upright and RGB.

    Raises:
        BadImageError: If the content is damaged or no image, or the path leads to no file that may
            be read: it has gone, or is a folder, a pipe or a device.
        OSError: If the machine fails (disk, network, too many open files).
    """
    try:
        if callable(file):
            return to_rgb(file())
        if isinstance(file, Path) and not stat.S_ISREG(file.stat().st_mode):
            # Before it is opened, which for a pipe would wait until somebody writes into it.
            raise ValueError("not a regular file")
        with Image.open(io.BytesIO(file) if isinstance(file, bytes) else file) as image:
            return to_rgb(image)
    except _DECODE_ERRORS as error:
        if is_out_of_memory(error):
            raise
        raise BadImageError(name, _one_line(error)) from error
    except OSError as error:
        # Pillow's own OSErrors carry no errno; the system's do, and most are no fault of the image.
        if error.errno is None or error.errno in _PATH_ERRORS:
            raise BadImageError(name, _one_line(error)) from error
        raise


def to_rgb(image: Image.Image) -> Image.Image:
    """The image upright (EXIF orientation applied), 8-bit RGB.

    Departure:
        Transparent pixels show white; dropping the alpha channel, as timm does, shows whatever
        colour the encoder left under it. 16-bit grey is scaled by 1/257, where Pillow would clip
        it.

    Raises:
        ValueError: If nobody knows which levels are black and white: of floats, and of whole
            numbers outside 0..65535.
    """
    image = _upright(image)
    if image.mode == "RGB" and "transparency" not in image.info:
        return image
    if image.mode == "F":
        raise ValueError("float pixels; save as 8 or 16 bits")
    if image.mode.startswith("I"):
        levels = np.asarray(image).astype(np.int64)
        if levels.min() < 0 or levels.max() > 65535:
            raise ValueError("pixels outside 0..65535; save as 8 or 16 bits")
        clear = levels == image.info.get("transparency")
        grey = np.where(clear, 255, (levels + 128) // 257)
        return Image.fromarray(grey.astype(np.uint8)).convert("RGB")
    if image.mode in ("RGBA", "LA", "PA", "La", "RGBa") or "transparency" in image.info:
        image = image.convert("RGBA")
        white = Image.new("RGBA", image.size, "white")
        return Image.alpha_composite(white, image).convert("RGB")
    return image.convert("RGB")


def _upright(image: Image.Image) -> Image.Image:
    """The image with its EXIF orientation applied.

    Pillow's own function also writes the other EXIF tags anew, which fails where one of them holds
    another type than its own, as those of some cameras do.
    """
    image.load()
    turn = _TURNS.get(image.getexif().get(ExifTags.Base.Orientation, 1))
    return image if turn is None else image.transpose(turn)


def _one_line(error: BaseException) -> str:
    if isinstance(error, UnidentifiedImageError):
        return "not an image"
    if isinstance(error, OSError) and error.errno is not None:
        return str(error.strerror)
    return " ".join(str(error).split()) or type(error).__name__

"""Pictures as data URIs, to be put into a page."""

import base64
import io

from PIL import Image

__all__ = ["picture_uri", "thumbnail_uri"]

QUALITY = 82  # of WEBP, 0-100
MOST_PIXELS = 16383
"""A side of a WEBP picture at most."""


def thumbnail_uri(image: Image.Image, side: int) -> str:
    """A thumbnail as a data URI: at most ``side`` pixels, by a whole factor if it is enlarged.

    A reduced image has up to twice as many pixels, for displays of high density.
    """
    picture = image.convert("RGB")
    longest = max(picture.size)
    if longest <= side:
        factor = side // longest
        size = (picture.width * factor, picture.height * factor)
        return _uri(picture.resize(size, Image.Resampling.NEAREST), "PNG")
    picture.thumbnail((2 * side, 2 * side), Image.Resampling.LANCZOS)  # sharp on a phone too
    return _uri(picture, "WEBP")


def picture_uri(picture: Image.Image) -> str:
    """A picture in its own size as a data URI."""
    kind = "WEBP" if max(picture.size) <= MOST_PIXELS else "PNG"
    return _uri(picture.convert("RGB"), kind)


def _uri(picture: Image.Image, kind: str) -> str:
    buffer = io.BytesIO()
    picture.save(buffer, kind, quality=QUALITY)
    return f"data:image/{kind.lower()};base64,{base64.b64encode(buffer.getvalue()).decode()}"

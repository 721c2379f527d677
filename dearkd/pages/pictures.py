"""Small pictures for a page: images as data URIs."""

import base64
import io

from PIL import Image

__all__ = ["picture_uri", "thumbnail_uri"]

QUALITY = 82


def thumbnail_uri(image: Image.Image, side: int) -> str:
    """The image within ``side`` pixels as a data URI: enlarged by whole pixels, or reduced."""
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
    return _uri(picture.convert("RGB"), "WEBP")


def _uri(picture: Image.Image, kind: str) -> str:
    buffer = io.BytesIO()
    picture.save(buffer, kind, quality=QUALITY)
    return f"data:image/{kind.lower()};base64,{base64.b64encode(buffer.getvalue()).decode()}"

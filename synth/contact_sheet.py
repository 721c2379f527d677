"""Pictures for people: a preview of the batch in the making, a contact sheet of the whole set."""

import math
from collections.abc import Mapping, Sequence

import torch
import torch.nn.functional as F
from PIL import Image, ImageDraw, ImageFont
from torch import Tensor

__all__ = ["contact_sheet", "preview_grid"]

LARGE, SMALL = 112, 96  # pixels a side: larger images are reduced, smaller ones enlarged
GAP = 2  # pixels
LABEL_WIDTH = 120  # pixels
PAPER = (255, 255, 255)
INK = (0, 0, 0)


def preview_grid(pixels: Tensor, columns: int) -> Image.Image:
    """A grid of thumbnails, row after row, of uint8 images (images, channels, height, width)."""
    thumbnails = [_thumbnail(image) for image in pixels.cpu()]
    side = thumbnails[0].width + GAP
    rows = math.ceil(len(thumbnails) / columns)
    sheet = Image.new("RGB", (columns * side, rows * side), PAPER)
    for index, thumbnail in enumerate(thumbnails):
        sheet.paste(thumbnail, (index % columns * side, index // columns * side))
    return sheet


def contact_sheet(images: Mapping[str, Sequence[Tensor]]) -> Image.Image:
    """A row of thumbnails for every label, with the label in front.

    The images are uint8 of shape (channels, height, width), all of one size.
    """
    rows = {label: [_thumbnail(image) for image in row] for label, row in images.items()}
    side = next(iter(rows.values()))[0].width + GAP
    width = LABEL_WIDTH + side * max(len(row) for row in rows.values())
    sheet = Image.new("RGB", (width, side * len(rows)), PAPER)
    draw, font = ImageDraw.Draw(sheet), ImageFont.load_default(13)
    for top, (label, row) in enumerate(rows.items()):
        draw.text((4, top * side + side // 2 - 8), label[:16], fill=INK, font=font)
        for column, thumbnail in enumerate(row):
            sheet.paste(thumbnail, (LABEL_WIDTH + column * side, top * side))
    return sheet


def _thumbnail(image: Tensor) -> Image.Image:
    """The image at thumbnail size: enlarged by a whole factor without blur, or reduced."""
    side = image.shape[-1]
    if side > LARGE:
        size = (LARGE, LARGE)
        image = F.interpolate(image[None].float(), size=size, mode="area")[0].to(torch.uint8)
    else:
        factor = math.ceil(SMALL / side)
        image = image.repeat_interleave(factor, 1).repeat_interleave(factor, 2)
    return Image.fromarray(image.expand(3, -1, -1).permute(1, 2, 0).contiguous().numpy())

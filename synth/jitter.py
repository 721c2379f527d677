"""Random shift, flip and zoom of each image.

Draws are tensors, so that a compiled step is not compiled anew and nothing waits for the device.
"""

from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor
from torch.autograd.function import once_differentiable

__all__ = ["draw_boxes", "draw_views", "jitter_flip", "shift_flip", "zoom_in"]


def draw_views(
    iterations: int,
    images: int,
    max_shift: int,
    flip_probability: float,
    generator: torch.Generator,
) -> Int[Tensor, "iterations images 3"]:
    """For each iteration and image: shift down, shift right (pixels, either sign), flip (0 or 1).

    Drawn at once for a whole stage, so that one copy to the device serves it.
    """
    size = (iterations, images)
    shifts = torch.randint(-max_shift, max_shift + 1, (*size, 2), generator=generator)
    flips = torch.rand(size, generator=generator) < flip_probability
    return torch.cat([shifts, flips.long()[..., None]], dim=-1)


def jitter_flip(
    images: Float[Tensor, "batch channels height width"], views: Int[Tensor, "batch 3"]
) -> Float[Tensor, "batch channels height width"]:
    """Each image rolled by its own shift (wrapping around), then mirrored where its flip is 1.

    Source:
        The public DeepInversion code rolls a whole batch by one shift and flips it as one.

    Departure:
        Drawn for each image, so that an image does not depend on its batch.
    """
    return _JitterFlip.apply(images, views)


def shift_flip(
    images: Float[Tensor, "batch channels height width"],
    views: Int[Tensor, "batch 3"],
    edge: Float[Tensor, "channels 1 1"],
) -> Float[Tensor, "batch channels height width"]:
    """Each image shifted and mirrored by its own view, with ``edge`` where it was shifted away.

    The same as a crop of the image's size out of the image with a border of that colour.
    """
    height, width = images.shape[2:]
    down, right, flip = views[:, :, None].unbind(dim=1)
    y, x = (torch.arange(n, device=images.device) for n in (height, width))
    columns = torch.where(flip == 1, width - 1 - x, x)  # before the mirror
    rows_in = (y >= down) & (y < height + down)
    columns_in = (columns >= right) & (columns < width + right)
    inside = (rows_in[:, :, None] & columns_in[:, None, :])[:, None]
    return torch.where(inside, jitter_flip(images, views), edge)


def draw_boxes(
    iterations: int, images: int, smallest: float, generator: torch.Generator
) -> Float[Tensor, "iterations images 3"]:
    """For each iteration and image: side, top and left of a square, in fractions of the image.

    The side is even in ``smallest``-1; the square lies inside the image.
    """
    draws = torch.rand((iterations, images, 3), generator=generator)
    side = 1 - (1 - smallest) * draws[..., :1]
    return torch.cat([side, (1 - side) * draws[..., 1:]], dim=-1)


def zoom_in(
    images: Float[Tensor, "batch channels height width"], boxes: Float[Tensor, "batch 3"]
) -> Float[Tensor, "batch channels height width"]:
    """Each image's own square, bilinearly enlarged to the whole view.

    Source:
        SRe2L (Yin et al. 2023, https://arxiv.org/abs/2306.13092) optimises random resized crops.

    Departure:
        The side is drawn evenly, not the area, and the aspect ratio is kept.
    """
    side, top, left = boxes.to(images).unbind(dim=1)
    zero = torch.zeros_like(side)
    across = torch.stack([side, zero, 2 * left + side - 1], dim=1)
    down = torch.stack([zero, side, 2 * top + side - 1], dim=1)
    grid = F.affine_grid(torch.stack([across, down], dim=1), list(images.shape), False)
    return F.grid_sample(images, grid, padding_mode="border", align_corners=False)


class _JitterFlip(torch.autograd.Function):
    """A permutation of pixels. Its gradient gathers too: gather's own, a scatter, is slower."""

    @staticmethod
    def forward(ctx: Any, images: Tensor, views: Tensor) -> Tensor:
        ctx.save_for_backward(views)
        return _permute(images, views, inverse=False)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, None]:
        (views,) = ctx.saved_tensors
        return _permute(grads[0], views, inverse=True), None


def _permute(images: Tensor, views: Tensor, *, inverse: bool) -> Tensor:
    """The images rolled and mirrored as ``views`` say, or back again."""
    batch, channels, height, width = images.shape
    down, right, flip = views.unbind(dim=1)
    sign = 1 if inverse else -1
    y, x = (torch.arange(n, device=images.device) for n in (height, width))
    rows = (y + sign * down[:, None]) % height
    straight = (x + sign * right[:, None]) % width
    mirrored = (width - 1 - x - right[:, None]) % width  # its own inverse
    columns = torch.where(flip[:, None] == 1, mirrored, straight)
    index = (rows[:, :, None] * width + columns[:, None, :]).flatten(1)
    pixels = images.flatten(2).gather(2, index[:, None].expand(-1, channels, -1))
    return pixels.view(batch, channels, height, width)

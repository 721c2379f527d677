"""Dead leaves: flat shapes of all sizes that hide one another, as the things in a photograph do.

Source:
    Lee, Mumford & Huang 2001, Occlusion Models for Natural Images, IJCV 41: of all sizes by r^-3,
    such images have natural images' spectrum 1 / f, and their edges and calm surfaces besides.
    Baradad et al. 2021, Learning to See by Looking at Noise, https://arxiv.org/abs/2106.05963,
    train networks on them.

Departure:
    Half of the leaves are ellipses, half are rectangles, of any direction. Each image has few
    leaves, and a smallest one of its own: some show a few large things, some many small ones. The
    numbers were set by eye once and not tuned.
"""

import math

import torch
from jaxtyping import Float
from torch import Tensor

__all__ = ["leaves_of_each"]

LEAVES = 60
"""Leaves of an image; where none lies, its ground is seen."""
SMALLEST, LARGEST = (0.08, 0.4), 0.8
"""Radius of an image's smallest leaf (between these, log-uniform) and of the largest one that there
may be, as shares of the image's side."""
STRETCH = 0.6
"""Largest log of a leaf's length over its mean diameter."""
MARGIN = 0.1
"""How far outside of the image a leaf's centre may lie, in sides."""
FLATTEST = 0.15
"""The least deviation within an image that is brought to 1: nearly empty ones stay calm."""


def leaves_of_each(
    count: int, channels: int, size: int, generator: torch.Generator
) -> Float[Tensor, "count channels size size"]:
    """Images of mean 0 and variance 1 each, their channels independent.

    The draws are the same at any size.
    """
    x, y, turn, stretch, large, kind = torch.rand(
        6, count, LEAVES, generator=generator, dtype=torch.float64
    )
    low, high = SMALLEST
    smallest = low * (high / low) ** torch.rand(count, 1, generator=generator, dtype=torch.float64)
    radius = (smallest**-2 + large * (LARGEST**-2 - smallest**-2)) ** -0.5  # density r^-3
    values = torch.randn(
        count, LEAVES + 1, channels, 1, 1, generator=generator, dtype=torch.float64
    )
    centres = (1 + 2 * MARGIN) * torch.stack([x, y]) - MARGIN
    wider, turned = (STRETCH * (2 * stretch - 1)).exp(), math.pi * turn
    shapes = torch.stack([*centres, radius, wider, turned.cos(), turned.sin()])
    places = (torch.arange(size, dtype=torch.float64) + 0.5) / size
    image = values[:, LEAVES].expand(-1, -1, size, size)
    for leaf in range(LEAVES):
        across, down, half, wide, cos, sin = shapes[:, :, leaf, None, None]
        right, below = places - across, places[:, None] - down
        along = (cos * right + sin * below) / wide
        beside = (cos * below - sin * right) * wide
        square = math.sqrt(math.pi / 4) * half  # half the side of as large a square
        ellipse = torch.hypot(along, beside) - half
        rectangle = torch.maximum(along.abs(), beside.abs()) - square
        outside = torch.where(kind[:, leaf, None, None] < 0.5, ellipse, rectangle)
        hidden = (0.5 - outside * size).clamp(0, 1)[:, None]  # edges are a pixel wide
        image = image + hidden * (values[:, leaf] - image)
    image = image - image.mean(dim=(-2, -1), keepdim=True)
    deviation = image.square().mean(dim=(-2, -1), keepdim=True).sqrt()
    return image / deviation.clamp(min=FLATTEST)

"""Which images count as small, and the patches, sizes and students chosen for them by default."""

__all__ = ["DIGITS_SIZE", "SMALL", "default_size", "default_student", "is_small", "patch_size"]

SMALL = 64
"""Pixels a side up to which an image is small: patches of 4 px, light views, no loader processes.

Departure:
    The papers know images of 224 px alone; everything for smaller ones is ours.
"""
DIGITS_SIZE = 16
"""Twice the digits' own 8 pixels: 4 x 4 patches of 4."""


def is_small(pixels: int) -> bool:
    """Whether an image of that many pixels a side is small."""
    return pixels <= SMALL


def patch_size(pixels: int) -> int:
    """Pixels a side of a patch of the student that is taken by default."""
    return 4 if is_small(pixels) else 16


def default_size(pixels: int) -> int:
    """Pixels a side to train at on images of that size: 32 or 224, which have a student each."""
    return 32 if is_small(pixels) else 224


def default_student(pixels: int) -> str:
    """Timm name of the student that is taken by default."""
    return "dearkd_mini_patch4_32" if is_small(pixels) else "dearkd_tiny_patch16_224"

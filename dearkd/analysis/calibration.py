"""Calibration: whether a classifier with a confidence of 80 % is right 80 % of the time."""

from typing import NamedTuple

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from dearkd.errors import UserError

__all__ = ["BINS", "Bin", "calibration_error", "reliability"]

BINS = 15
"""Bins of equal width in confidence."""


class Bin(NamedTuple):
    """Images of similar confidence: mean confidence and accuracy, in [0, 1], and their number."""

    confidence: float
    accuracy: float
    images: int


def reliability(
    confidence: Float[Tensor, " images"], right: Bool[Tensor, " images"], bins: int = BINS
) -> list[Bin]:
    """A reliability table: the images in bins ((k-1)/K, k/K] by confidence, the largest softmax.

    Empty bins are left out.

    Source:
        Guo et al. 2017, https://arxiv.org/abs/1706.04599, section 2 (reliability diagrams).

    Raises:
        UserError: If ``bins`` is not positive.
    """
    if bins < 1:
        raise UserError(f"bins must be positive, got {bins}")
    number = ((confidence * bins).ceil() - 1).clamp(0, bins - 1)
    return [_bin(confidence, right, number == k) for k in range(bins) if (number == k).any()]


def calibration_error(table: list[Bin]) -> float:
    """Expected calibration error in [0, 1]: the mean over the images of |acc - conf| of their bin.

    Source:
        Guo et al. 2017, https://arxiv.org/abs/1706.04599, eq. 3; 15 bins are theirs too.
    """
    images = sum(entry.images for entry in table)
    return sum(e.images * abs(e.accuracy - e.confidence) for e in table) / images


def _bin(
    confidence: Float[Tensor, " images"],
    right: Bool[Tensor, " images"],
    inside: Bool[Tensor, " images"],
) -> Bin:
    """The bin of the images that are ``inside``."""
    return Bin(
        confidence[inside].mean().item(),
        right[inside].double().mean().item(),
        int(torch.count_nonzero(inside)),
    )

"""Mixup and CutMix of a batch on its device, with random draws that belong to each view.

The view at position p is mixed with its neighbour p ^ 1, so no second image is loaded and the
images, the targets and the teacher's input stay one tensor.
"""

from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float, Int
from numpy.typing import NDArray
from scipy.special import betaincinv
from torch import Tensor

from dearkd.data.order import uniforms
from dearkd.errors import UserError

__all__ = ["Mixing", "mix", "smooth"]


@dataclass(frozen=True, kw_only=True)
class Mixing:
    """How views are mixed; the defaults are DeiT's.

    Source:
        Zhang et al. 2018, https://arxiv.org/abs/1710.09412; Yun et al. 2019,
        https://arxiv.org/abs/1905.04899; values from Touvron et al. 2021, table 9.

    Departure:
        Every view draws its own lambda and box (timm draws one a batch by default).

    Raises:
        UserError: If a value is negative or a probability exceeds 1.
    """

    mixup: float = 0.8
    """Both parameters of mixup's Beta distribution; 0 is off."""
    cutmix: float = 1.0
    """Both parameters of CutMix's Beta distribution; 0 is off."""
    switch: float = 0.5
    """Probability of CutMix where both are on."""
    prob: float = 1.0
    """Probability that a view is mixed at all."""

    def __post_init__(self) -> None:
        for name in ("mixup", "cutmix"):
            if getattr(self, name) < 0:
                raise UserError(f"{name} must be at least 0, got {getattr(self, name)}")
        for name in ("switch", "prob"):
            if not 0 <= getattr(self, name) <= 1:
                raise UserError(f"{name} must be between 0 and 1, got {getattr(self, name)}")

    @property
    def mixes(self) -> bool:
        """Whether any view may hold a part of its partner."""
        return bool(self.mixup or self.cutmix) and self.prob > 0

    def draw(
        self, seeds: NDArray[np.uint64], height: int, width: int
    ) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
        """Weight of each view's own image, and the box that its partner fills.

        Weights are in [0, 1], shape (views,). A box is (top, bottom, left, right) in pixels, shape
        (views, 4), and empty for mixup; for CutMix the weight is the share of pixels outside it.
        """
        choice, use, amount, center_y, center_x = uniforms(seeds, 5).T
        cut = choice < (self.switch if self.mixup else 1.0) if self.cutmix else choice < 0
        mixed = (use < self.prob) & bool(self.mixup or self.cutmix)
        alpha = np.where(cut, self.cutmix or 1.0, self.mixup or 1.0)
        weight = np.where(mixed, betaincinv(alpha, alpha, amount), 1.0)

        side = np.sqrt(1.0 - weight) * (cut & mixed)
        top, bottom = _span(center_y, side, height)
        left, right = _span(center_x, side, width)
        area = (bottom - top) * (right - left)
        weight = np.where(cut & mixed, 1.0 - area / (height * width), weight)
        box = np.stack([top, bottom, left, right], axis=1) * (area > 0)[:, None]
        return weight.astype(np.float32), box


def mix(
    images: Float[Tensor, "batch channels height width"],
    labels: Int[Tensor, " batch"],
    weight: Float[Tensor, " batch"],
    box: Int[Tensor, "batch 4"],
    num_classes: int,
    smoothing: float = 0.1,
) -> tuple[Float[Tensor, "batch channels height width"], Float[Tensor, "batch classes"]]:
    """Mixed images and their smoothed, mixed targets (rows sum to 1).

    As a loop: ``image[p] = w * image[p] + (1 - w) * image[p ^ 1]`` with w = ``weight[p]``
    everywhere for mixup, and w = 0 inside ``box[p]``, 1 outside for CutMix; targets always use
    ``weight[p]``.

    Source:
        Zhang et al. 2018, https://arxiv.org/abs/1710.09412; Yun et al. 2019,
        https://arxiv.org/abs/1905.04899.

    Raises:
        ValueError: If the batch is odd.
    """
    if len(images) % 2:
        raise ValueError(f"mixing pairs neighbours, so a batch must be even, got {len(images)}")
    pixel_weight = _weight_map(weight, box, images.shape[-2], images.shape[-1]).to(images.dtype)
    partners = _partners(images)
    # lerp(partner, own, 1) is exactly its own image, so unmixed pixels keep their bits.
    mixed = torch.lerp(partners, images, pixel_weight)
    targets = smooth(labels, num_classes, smoothing, weight.dtype)
    return mixed, torch.lerp(_partners(targets), targets, weight[:, None])


def smooth(
    labels: Int[Tensor, " batch"],
    num_classes: int,
    smoothing: float = 0.1,
    dtype: torch.dtype = torch.float32,
) -> Float[Tensor, "batch classes"]:
    """One-hot targets with ``smoothing`` of their mass spread over all classes; rows sum to 1.

    Source:
        Szegedy et al. 2016, https://arxiv.org/abs/1512.00567, section 7.
    """
    size = (len(labels), num_classes)
    targets = torch.full(size, smoothing / num_classes, dtype=dtype, device=labels.device)
    own = torch.full((len(labels), 1), 1.0 - smoothing, dtype=dtype, device=labels.device)
    return targets.scatter_add_(1, labels[:, None], own)


def _span(
    center: NDArray[np.float64], side: NDArray[np.float64], size: int
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    length = (size * side).astype(np.int64)
    middle = (center * size).astype(np.int64)
    low = np.clip(middle - length // 2, 0, size)
    high = np.clip(middle + (length + 1) // 2, 0, size)
    return low, high


def _weight_map(
    weight: Float[Tensor, " batch"], box: Int[Tensor, "batch 4"], height: int, width: int
) -> Float[Tensor, "batch 1 height width"]:
    top, bottom, left, right = box[:, :, None, None].unbind(1)
    y = torch.arange(height, device=box.device)[:, None]
    x = torch.arange(width, device=box.device)
    inside = (y >= top) & (y < bottom) & (x >= left) & (x < right)
    # A box marks CutMix: its weight counts pixels, it does not blend them.
    constant = torch.where((bottom > top) & (right > left), 1.0, weight[:, None, None])
    return (constant * ~inside)[:, None]


def _partners(values: Tensor) -> Tensor:
    return values.reshape(-1, 2, *values.shape[1:]).flip(1).reshape(values.shape)

"""The aligner of DearKD turns a map of student tokens into a prediction of a teacher's features."""

import torch.nn.functional as F
from jaxtyping import Float
from timm.layers.norm import LayerNorm2d
from torch import Tensor, nn

__all__ = ["Aligner"]


class Aligner(nn.Module):
    """Predicts the teacher's ``out_dim`` features from ``in_dim`` student features.

    The map is resampled to the teacher's grid and goes through a 1x1 convolution, a 3x3 depth-wise
    convolution, a LayerNorm over channels and, where the teacher's features are non-negative, a
    ReLU.

    Source:
        Chen et al. 2022, https://arxiv.org/abs/2204.12997: reshape, depth-wise convolution,
        LayerNorm, ReLU.

    Departure:
        The paper does not say where the width changes (1x1) and where the map is resampled. We
        resample first, so that the depth-wise convolution works in the teacher's pixels, and leave
        the ReLU out for stages with a linear end (EfficientNet, ConvNeXt), because a ReLU could not
        reach the negative half of their features.

    Raises:
        ValueError: If a width is not positive.
    """

    def __init__(self, in_dim: int, out_dim: int, nonnegative: bool) -> None:
        if min(in_dim, out_dim) < 1:
            raise ValueError(f"in_dim and out_dim must be at least 1, got {in_dim} and {out_dim}")
        super().__init__()
        self.proj = nn.Conv2d(in_dim, out_dim, kernel_size=1)
        self.depthwise = nn.Conv2d(out_dim, out_dim, kernel_size=3, padding=1, groups=out_dim)
        self.norm = LayerNorm2d(out_dim)
        self.act = nn.ReLU() if nonnegative else nn.Identity()

    def forward(
        self, student_map: Float[Tensor, "batch in_dim rows columns"], size: tuple[int, int]
    ) -> Float[Tensor, "batch out_dim height width"]:
        """The predicted teacher map, of ``size`` (height, width)."""
        maps = self.depthwise(self.proj(resample(student_map, size)))
        return self.act(self.norm(maps))


def resample(
    maps: Float[Tensor, "batch channels rows columns"], size: tuple[int, int]
) -> Float[Tensor, "batch channels height width"]:
    """The maps on a grid of ``size``: cell means where it shrinks, bilinear where it grows."""
    rows, columns = maps.shape[-2:]
    if size == (rows, columns):
        return maps
    if size[0] <= rows and size[1] <= columns:
        return F.adaptive_avg_pool2d(maps, size)
    return F.interpolate(maps, size, mode="bilinear", align_corners=False)

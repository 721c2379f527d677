"""The aligner turns a map of student tokens into a prediction of a teacher's features.

It also makes the target that the prediction is held against, since the two must fit: what scales
the target decides what the aligner can reach.

Source:
    Chen et al. 2022 (DearKD), https://arxiv.org/abs/2204.12997; Li et al. 2022 (Locality Guidance),
    https://arxiv.org/abs/2207.10026.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from typing import Any, Literal

import torch
import torch.nn.functional as F
from jaxtyping import Float
from timm.layers.norm import LayerNorm2d
from torch import Tensor, nn

from dearkd.errors import UserError
from dearkd.losses import scale_stage, scale_target

__all__ = ["Aligner", "AlignerForm", "AlignerKind", "TargetScale", "moments", "resample"]

AlignerKind = Literal["paper", "pointwise"]
TargetScale = Literal["position", "stage", "none"]


@dataclass(frozen=True)
class AlignerForm:
    """How features are predicted and what the prediction is held against, as ``distill`` has it."""

    aligner: AlignerKind = "paper"
    """``paper``: 1x1 and 3x3 depth-wise convolution on the teacher's grid. ``pointwise``: a 1x1
    convolution on the larger of the two grids."""
    target_scale: TargetScale = "position"
    """``position``: unit RMS over the channels of each position. ``stage``: the whole stage is
    divided by one number. ``none``: the teacher's features as they are."""
    aligner_norm: bool = True
    """A LayerNorm over channels."""
    aligner_relu: bool | None = None
    """A ReLU at the end; None: where the teacher's features are non-negative."""

    def changed(self, given: Mapping[str, Any]) -> "AlignerForm":
        """This form with what is given (not None) in its place.

        Other targets than those of one norm at each position lose the LayerNorm, unless it is asked
        for: it would give the prediction one norm everywhere, which such targets do not have.
        """
        form = replace(self, **{name: value for name, value in given.items() if value is not None})
        if given["aligner_norm"] is None and form.target_scale != "position":
            form = replace(form, aligner_norm=False)
        return form


Moments = tuple[Tensor, Tensor, int]
"""The sums of each channel and of its squares (float64, on the CPU), and how many of each."""


class Aligner(nn.Module):
    """Predicts the teacher's ``out_dim`` features from ``in_dim`` student features.

    The map is resampled to the teacher's grid and goes through a 1x1 convolution, a 3x3 depth-wise
    convolution, a LayerNorm over channels and, where the teacher's features are non-negative, a
    ReLU. ``form`` says what of it is left out. With ``target_scale="stage"`` the scale must be
    measured (``measure``) before the first forward pass; until then it is NaN.

    Source:
        Chen et al. 2022, https://arxiv.org/abs/2204.12997: reshape, depth-wise convolution,
        LayerNorm, ReLU. ``pointwise``: Li et al. 2022, https://arxiv.org/abs/2207.10026.

    Departure:
        The paper does not say where the width changes (1x1) and where the map is resampled. We
        resample first, so that the depth-wise convolution works in the teacher's pixels, and leave
        the ReLU out for stages with a linear end (EfficientNet, ConvNeXt), because a ReLU could not
        reach the negative half of their features.

    Raises:
        ValueError: If a width is not positive.
        UserError: If a ReLU is asked for whose output can't reach signed targets.
    """

    target_mean: Tensor
    target_rms: Tensor

    def __init__(
        self, in_dim: int, out_dim: int, nonnegative: bool, form: AlignerForm | None = None
    ) -> None:
        if min(in_dim, out_dim) < 1:
            raise ValueError(f"in_dim and out_dim must be at least 1, got {in_dim} and {out_dim}")
        super().__init__()
        self.form = form = form or AlignerForm()
        self.nonnegative = nonnegative
        if form.aligner_relu and not nonnegative:
            raise UserError(
                "distill.aligner_relu=true can't reach the negative features of a stage without a "
                "ReLU at its end; leave it out, or tap another stage"
            )
        self.proj = nn.Conv2d(in_dim, out_dim, kernel_size=1)
        if form.aligner == "paper":
            self.depthwise: nn.Module = nn.Conv2d(out_dim, out_dim, 3, padding=1, groups=out_dim)
        else:
            self.depthwise = nn.Identity()
        self.norm = LayerNorm2d(out_dim) if form.aligner_norm else nn.Identity()
        has_relu = nonnegative if form.aligner_relu is None else form.aligner_relu
        self.act = nn.ReLU() if has_relu else nn.Identity()
        if form.target_scale == "stage":
            self.register_buffer("target_mean", torch.zeros(out_dim))
            self.register_buffer("target_rms", torch.tensor(torch.nan))

    def forward(
        self, student_map: Float[Tensor, "batch in_dim rows columns"], size: tuple[int, int]
    ) -> Float[Tensor, "batch out_dim height width"]:
        """The prediction of a teacher map of ``size`` (height, width)."""
        maps = resample(student_map, self._grid(student_map, size))
        return self.act(self.norm(self.depthwise(self.proj(maps))))

    def target(
        self,
        teacher_map: Float[Tensor, "batch out_dim height width"],
        student_map: Float[Tensor, "batch in_dim rows columns"],
    ) -> Float[Tensor, "batch out_dim out_height out_width"]:
        """What the prediction from ``student_map`` is held against, on the grid of that."""
        size = (int(teacher_map.shape[-2]), int(teacher_map.shape[-1]))
        teacher_map = resample(teacher_map, self._grid(student_map, size))
        match self.form.target_scale:
            case "position":
                return scale_target(teacher_map, self.nonnegative)
            case "stage":
                return scale_stage(teacher_map, self.target_mean, self.target_rms)
            case "none":
                return teacher_map

    @torch.no_grad()
    def measure(self, found: Iterable[Moments]) -> None:
        """Stores the mean of each channel and the RMS of what is left, of a teacher's maps.

        ``found``: the ``moments`` of one batch of maps after the other.

        Departure:
            Features of a linear stage end are centred by the stored mean of their channel: it says
            nothing of an image, and the aligner's bias would have to learn it. Non-negative ones
            keep theirs, because a ReLU could not reach what lies below it.

        Raises:
            UserError: If the features are constant.
        """
        sums = [torch.zeros(len(self.target_mean), dtype=torch.float64) for _ in range(2)]
        count = 0
        for total, squares, positions in found:
            sums[0] += total
            sums[1] += squares
            count += positions
        mean, square = sums[0] / count, sums[1] / count
        if self.nonnegative:
            mean = torch.zeros_like(mean)
        rms = (square - mean.square()).mean().sqrt()
        if not rms > 0:
            raise UserError(
                "distill.target_scale=stage finds a stage whose features are constant on the "
                "training views; tap another one by distill.pairs"
            )
        self.target_mean.copy_(mean)
        self.target_rms.copy_(rms)

    def _grid(self, student_map: Tensor, size: tuple[int, int]) -> tuple[int, int]:
        """The grid that prediction and target meet on."""
        if self.form.aligner == "paper":
            return size
        rows, columns = student_map.shape[-2:]
        return max(rows, size[0]), max(columns, size[1])


def moments(maps: Float[Tensor, "batch channels height width"]) -> Moments:
    """What a stage's scale is made of, of one batch of its maps, which need not be kept."""
    exact = maps.double().cpu()
    return exact.sum(dim=(0, 2, 3)), exact.square().sum(dim=(0, 2, 3)), exact[:, 0].numel()


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

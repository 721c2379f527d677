"""A plain CNN for 32-px images that reaches its accuracy in few epochs; a teacher for CIFAR-10.

Three stages of two 3x3 convolutions, the first of each before a 2x2 max-pooling, so that the maps
of 32-px images are 16, 8 and 4 cells wide. A BatchNorm follows every convolution, because
DeepInversion needs it; the stages end in a GELU.

Source:
    Jordan 2024, "94% on CIFAR-10 in 3.29 seconds on a single GPU",
    https://arxiv.org/abs/2404.00498, sections 3.1 to 3.3: stages, widths, GELU, convolutions that
    start as the identity on their first channels, a first layer that whitens patches.

Departure:
    The first layer whitens without having seen the data: its filters start as the Haar wavelets
    of 2x2 pixels in opponent colours, either sign, and the BatchNorm after it divides each by its
    spread. For natural images these are close to the principal components. Every layer is trained.
    The second stage is half as wide, which doubles the speed on a CPU. Maps are padded to whole
    grids, and averaged before the classifier.
"""

from collections.abc import Sequence
from typing import Any

import torch
from jaxtyping import Float
from timm.layers.classifier import ClassifierHead
from timm.models import build_model_with_cfg, generate_default_cfgs, register_model
from timm.models._features import feature_take_indices
from torch import Tensor, nn

__all__ = ["FastCnn", "opponent_wavelets"]

STEM_WIDTH = 24
"""Twelve wavelets, either sign."""
HAAR = (((1, 1), (1, 1)), ((1, 1), (-1, -1)), ((1, -1), (1, -1)), ((1, -1), (-1, 1)))
"""The mean of 2x2 pixels and their differences: down, across and along the diagonal."""
OPPONENT = ((1, 1, 1), (1, 0, -1), (1, -2, 1))
"""Brightness, red against blue, and green against both."""


class FastCnn(nn.Module):
    """Stem, three stages and a classifier; its features are reduced by 2, 4 and 8."""

    def __init__(
        self,
        channels: Sequence[int],
        num_classes: int = 10,
        in_chans: int = 3,
        global_pool: str = "avg",
        drop_rate: float = 0.0,
        device: Any = None,
        dtype: Any = None,
    ) -> None:
        super().__init__()
        place = {"device": device, "dtype": dtype}
        self.num_classes = num_classes
        self.in_chans = in_chans
        self.conv1 = nn.Conv2d(in_chans, STEM_WIDTH, 3, padding=1, bias=False, **place)
        self.bn1 = nn.BatchNorm2d(STEM_WIDTH, **place)
        self.act1 = nn.GELU()
        widths = [STEM_WIDTH, *channels]
        self.stages = nn.ModuleList(
            _Stage(before, after, place) for before, after in zip(widths, channels, strict=False)
        )
        self.feature_info = [
            {"num_chs": width, "reduction": 2 ** (index + 1), "module": f"stages.{index}"}
            for index, width in enumerate(channels)
        ]
        self.num_features = self.head_hidden_size = channels[-1]
        self.head = ClassifierHead(
            self.num_features, num_classes, pool_type=global_pool, drop_rate=drop_rate, **place
        )
        self._initialise()

    def forward_features(
        self, x: Float[Tensor, "batch channels height width"]
    ) -> Float[Tensor, "batch features rows columns"]:
        """The map of the last stage."""
        x = self.act1(self.bn1(self.conv1(x)))
        for stage in self.stages:
            x = stage(x)
        return x

    def forward_head(
        self, x: Float[Tensor, "batch features rows columns"], pre_logits: bool = False
    ) -> Float[Tensor, "batch outputs *grid"]:
        """Logits of a map, or its pooled features; the map itself once the head is pruned."""
        return self.head(x, pre_logits=pre_logits)

    def forward(
        self, x: Float[Tensor, "batch channels height width"]
    ) -> Float[Tensor, "batch outputs *grid"]:
        """Logits of images."""
        return self.forward_head(self.forward_features(x))

    def forward_intermediates(
        self,
        x: Float[Tensor, "batch channels height width"],
        indices: int | Sequence[int] | None = None,
        norm: bool = False,
        stop_early: bool = False,
        output_fmt: str = "NCHW",
        intermediates_only: bool = False,
    ) -> Any:
        """The last map and those of the stages asked for (all by default), as timm's models give.

        There is no final norm, so ``norm`` changes nothing.
        """
        assert output_fmt == "NCHW", f"output_fmt must be NCHW, got {output_fmt}"
        wanted, last = feature_take_indices(len(self.stages), _list(indices))
        x = self.act1(self.bn1(self.conv1(x)))
        maps = []
        for index, stage in enumerate(self.stages):
            if stop_early and index > last:
                break
            x = stage(x)
            if index in wanted:
                maps.append(x)
        return maps if intermediates_only else (x, maps)

    def prune_intermediate_layers(
        self, indices: int | Sequence[int] = 1, prune_norm: bool = False, prune_head: bool = True
    ) -> list[int]:
        """Leaves out the stages after the last one asked for, and the classifier with them."""
        wanted, last = feature_take_indices(len(self.stages), _list(indices))
        shorter = last < len(self.stages) - 1
        self.stages = self.stages[: last + 1]
        if prune_head or shorter:
            self.num_features = self.head_hidden_size = self.feature_info[last]["num_chs"]
            self.head.reset(0, "", in_features=self.num_features)
            self.num_classes = 0
        return wanted

    def get_classifier(self) -> nn.Module:
        """The last layer."""
        return self.head.fc

    def reset_classifier(self, num_classes: int, global_pool: str | None = None) -> None:
        """Gives it a new last layer, or with 0 classes none."""
        self.num_classes = num_classes
        self.head.reset(num_classes, global_pool)
        self.head_hidden_size = self.head.num_features

    @torch.no_grad()
    def _initialise(self) -> None:
        """Identity on the first channels of every later convolution; wavelets in the first."""
        for module in self.stages.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.dirac_(module.weight[: module.in_channels])
        if self.in_chans == len(OPPONENT):
            wavelets = opponent_wavelets().to(self.conv1.weight)
            self.conv1.weight.zero_()[:, :, 1:, 1:] = torch.cat([wavelets, -wavelets])


class _Stage(nn.Module):
    """Two convolutions; the pooling stands between the first one and its BatchNorm."""

    def __init__(self, before: int, after: int, place: dict[str, Any]) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(before, after, 3, padding=1, bias=False, **place)
        self.pool = nn.MaxPool2d(2)
        self.bn1 = nn.BatchNorm2d(after, **place)
        self.act1 = nn.GELU()
        self.conv2 = nn.Conv2d(after, after, 3, padding=1, bias=False, **place)
        self.bn2 = nn.BatchNorm2d(after, **place)
        self.act2 = nn.GELU()

    def forward(self, x: Tensor) -> Tensor:
        x = self.act1(self.bn1(self.pool(self.conv1(x))))
        return self.act2(self.bn2(self.conv2(x)))


def opponent_wavelets() -> Float[Tensor, "12 3 2 2"]:
    """An orthonormal basis of all patches of 2x2 pixels in colour."""
    places = torch.tensor(HAAR, dtype=torch.float32) / 2
    colours = nn.functional.normalize(torch.tensor(OPPONENT, dtype=torch.float32))
    return torch.einsum("phw,kc->pkchw", places, colours).flatten(0, 1)


def _list(indices: int | Sequence[int] | None) -> int | list[int] | None:
    return indices if indices is None or isinstance(indices, int) else list(indices)


default_cfgs = generate_default_cfgs(
    {
        "dearkd_cnn8_32": {
            "num_classes": 10,
            "input_size": (3, 32, 32),
            "pool_size": (4, 4),
            "crop_pct": 1.0,
            "interpolation": "bicubic",
            "mean": (0.5, 0.5, 0.5),
            "std": (0.5, 0.5, 0.5),
            "first_conv": "conv1",
            "classifier": "head.fc",
            "license": "apache-2.0",
        }
    }
)


@register_model
def dearkd_cnn8_32(pretrained: bool = False, **kwargs: Any) -> nn.Module:
    """8 layers, 64 to 256 channels, 1.16 M parameters, 0.081 GMACs."""
    return build_model_with_cfg(
        FastCnn,
        "dearkd_cnn8_32",
        pretrained,
        feature_cfg={"out_indices": (0, 1, 2), "feature_cls": "getter"},
        **{"channels": (64, 128, 256), **kwargs},
    )

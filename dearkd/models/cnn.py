"""Small residual CNNs for 32-px images, which can be trained as teachers in minutes.

They are timm's ResNet with the stem of He et al.'s CIFAR networks: one 3x3 convolution of stride 1
and no pooling. Every stage ends in a ReLU. A BatchNorm follows every convolution, because
DeepInversion needs it. The plain CNN that learns fastest is in `dearkd.models.fast_cnn`.

Source:
    He et al. 2016, https://arxiv.org/abs/1512.03385, section 4.2.

Departure:
    They have four stages and widths of our own: ``t`` is the smallest network, under 1 MB on the
    disk, and ``w`` a wider one.
"""

from typing import Any

from timm.models import build_model_with_cfg, generate_default_cfgs, register_model
from timm.models.resnet import BasicBlock, ResNet
from torch import nn

__all__ = ["SmallResNet"]


class SmallResNet(ResNet):
    """timm's ResNet at full resolution; its features are reduced by 1 (stem), 1, 2, 4 and 8."""

    def __init__(self, **kwargs: Any) -> None:
        width = kwargs["channels"][0]
        block: Any = BasicBlock  # timm annotates the class as an instance
        # timm fixes the plain stem at 64 channels; the deep one's width can be chosen.
        super().__init__(
            block, stem_type="deep", stem_width=width // 2, zero_init_last=False, **kwargs
        )
        place: Any = {"device": kwargs.get("device"), "dtype": kwargs.get("dtype")}
        stem = nn.Conv2d(kwargs.get("in_chans", 3), width, 3, padding=1, bias=False, **place)
        nn.init.kaiming_normal_(stem.weight, mode="fan_out", nonlinearity="relu")
        self.add_module("conv1", stem)
        self.add_module("maxpool", nn.Identity())
        stages: Any = self.feature_info
        self.feature_info = [
            {**stage, "reduction": max(1, stage["reduction"] // 4)} for stage in stages
        ]


def _create(variant: str, pretrained: bool, kwargs: dict[str, Any], **architecture: Any) -> Any:
    return build_model_with_cfg(SmallResNet, variant, pretrained, **{**architecture, **kwargs})


_CFG = {
    "num_classes": 10,
    "input_size": (3, 32, 32),
    "pool_size": (4, 4),
    "crop_pct": 1.0,
    "interpolation": "bicubic",
    "mean": (0.5, 0.5, 0.5),
    "std": (0.5, 0.5, 0.5),
    "first_conv": "conv1",
    "classifier": "fc",
    "license": "apache-2.0",
}

default_cfgs = generate_default_cfgs(
    {
        "dearkd_resnet10t_32": _CFG,
        "dearkd_resnet10_32": _CFG,
        "dearkd_resnet10w_32": _CFG,
        "dearkd_resnet18_32": _CFG,
    }
)


@register_model
def dearkd_resnet10t_32(pretrained: bool = False, **kwargs: Any) -> nn.Module:
    """10 layers, 16 to 96 channels, 0.22 M parameters."""
    widths = (16, 32, 64, 96)
    return _create("dearkd_resnet10t_32", pretrained, kwargs, layers=(1, 1, 1, 1), channels=widths)


@register_model
def dearkd_resnet10_32(pretrained: bool = False, **kwargs: Any) -> nn.Module:
    """10 layers, 32 to 256 channels, 1.2 M parameters."""
    widths = (32, 64, 128, 256)
    return _create("dearkd_resnet10_32", pretrained, kwargs, layers=(1, 1, 1, 1), channels=widths)


@register_model
def dearkd_resnet10w_32(pretrained: bool = False, **kwargs: Any) -> nn.Module:
    """10 layers, 48 to 384 channels, 2.8 M parameters."""
    widths = (48, 96, 192, 384)
    return _create("dearkd_resnet10w_32", pretrained, kwargs, layers=(1, 1, 1, 1), channels=widths)


@register_model
def dearkd_resnet18_32(pretrained: bool = False, **kwargs: Any) -> nn.Module:
    """18 layers, 64 to 512 channels, 11 M parameters."""
    widths = (64, 128, 256, 512)
    return _create("dearkd_resnet18_32", pretrained, kwargs, layers=(2, 2, 2, 2), channels=widths)

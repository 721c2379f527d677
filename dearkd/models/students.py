"""The students by name and size; importing this module registers them with timm.

``dearkd_*`` have MHCA in the first two thirds of their blocks, 8 of 12 (mini: 5 of 7), and
``dearkd_*_mhsa_*`` are the same without the position term. DeiT's own head counts are in timm's
``deit_*_distilled_patch16_224`` and, for 32 px, in ``deit_*_distilled_patch4_32`` here.

Source:
    Chen et al. 2022 (DearKD), https://arxiv.org/abs/2204.12997; Touvron et al. 2020 (DeiT),
    https://arxiv.org/abs/2012.12877, table 1.
"""

from typing import Any

from timm.data.constants import IMAGENET_DEFAULT_MEAN, IMAGENET_DEFAULT_STD
from timm.models import build_model_with_cfg, generate_default_cfgs, register_model
from torch import nn

from dearkd.models.vit import DearKDVisionTransformer, filter_checkpoint

__all__: list[str] = []  # timm adds the name of every registered model


def _create(variant: str, pretrained: bool, kwargs: dict[str, Any], **architecture: Any) -> Any:
    return build_model_with_cfg(
        DearKDVisionTransformer,
        variant,
        pretrained,
        pretrained_filter_fn=filter_checkpoint,
        feature_cfg={"out_indices": 3, "feature_cls": "getter"},
        **{**architecture, **kwargs},
    )


def _cfg(size: int) -> dict[str, Any]:
    imagenet = size == 224
    return {
        "num_classes": 1000 if imagenet else 10,
        "input_size": (3, size, size),
        "fixed_input_size": True,
        "crop_pct": 0.9 if imagenet else 1.0,
        "interpolation": "bicubic",
        "mean": IMAGENET_DEFAULT_MEAN if imagenet else (0.5, 0.5, 0.5),
        "std": IMAGENET_DEFAULT_STD if imagenet else (0.5, 0.5, 0.5),
        "first_conv": "patch_embed.proj",
        "classifier": ("head", "head_dist"),
        "license": "apache-2.0",
    }


default_cfgs = generate_default_cfgs(
    {
        **{
            f"dearkd_{size}{twin}_patch16_224": _cfg(224)
            for size in ("tiny", "small", "base")
            for twin in ("", "_mhsa")
        },
        **{
            f"dearkd_{size}{twin}_patch4_32": _cfg(32)
            for size in ("micro", "mini", "tiny")
            for twin in ("", "_mhsa")
        },
        "deit_micro_distilled_patch4_32": _cfg(32),
        "deit_mini_distilled_patch4_32": _cfg(32),
        "deit_tiny_distilled_patch4_32": _cfg(32),
    }
)

_TINY = {"patch_size": 16, "embed_dim": 192, "num_heads": 12}
_SMALL = {"patch_size": 16, "embed_dim": 384, "num_heads": 12}
_BASE = {"patch_size": 16, "embed_dim": 768, "num_heads": 16}
# 9 heads are one 3x3 kernel, and 12 + 4 channels a head fill a CPU's vectors.
_MICRO_32 = {"patch_size": 4, "embed_dim": 108, "num_heads": 9}
# The same arithmetic in fewer blocks, of a width and head dim that are multiples of 16.
_MINI_32 = {"patch_size": 4, "embed_dim": 144, "num_heads": 9, "depth": 7}
_TINY_32 = {"patch_size": 4, "embed_dim": 192, "num_heads": 12}


@register_model
def dearkd_tiny_patch16_224(pretrained: bool = False, **kwargs: Any) -> nn.Module:
    """DearKD-Ti: 8 MHCA + 4 MHSA blocks, 12 heads, 5.9 M parameters."""
    return _create("dearkd_tiny_patch16_224", pretrained, kwargs, **_TINY)


@register_model
def dearkd_small_patch16_224(pretrained: bool = False, **kwargs: Any) -> nn.Module:
    """DearKD-S: 8 MHCA + 4 MHSA blocks, 12 heads, 22.4 M parameters."""
    return _create("dearkd_small_patch16_224", pretrained, kwargs, **_SMALL)


@register_model
def dearkd_base_patch16_224(pretrained: bool = False, **kwargs: Any) -> nn.Module:
    """DearKD-B: 8 MHCA + 4 MHSA blocks, 16 heads, 87.3 M parameters."""
    return _create("dearkd_base_patch16_224", pretrained, kwargs, **_BASE)


@register_model
def dearkd_micro_patch4_32(pretrained: bool = False, **kwargs: Any) -> nn.Module:
    """A DearKD student for 32 px and CPUs: 9 heads, 1.7 M parameters."""
    return _create("dearkd_micro_patch4_32", pretrained, kwargs, **_MICRO_32)


@register_model
def dearkd_mini_patch4_32(pretrained: bool = False, **kwargs: Any) -> nn.Module:
    """A DearKD student for 32 px and CPUs: 5 MHCA + 2 MHSA blocks, 9 heads, 1.8 M parameters."""
    return _create("dearkd_mini_patch4_32", pretrained, kwargs, mhca_depth=5, **_MINI_32)


@register_model
def dearkd_tiny_patch4_32(pretrained: bool = False, **kwargs: Any) -> nn.Module:
    """DearKD-Ti for 32 px: 12 heads, 5.4 M parameters."""
    return _create("dearkd_tiny_patch4_32", pretrained, kwargs, **_TINY_32)


@register_model
def dearkd_tiny_mhsa_patch16_224(pretrained: bool = False, **kwargs: Any) -> nn.Module:
    """DearKD-Ti without the position term: DeiT-Ti distilled with 12 heads."""
    return _create("dearkd_tiny_mhsa_patch16_224", pretrained, kwargs, mhca_depth=0, **_TINY)


@register_model
def dearkd_small_mhsa_patch16_224(pretrained: bool = False, **kwargs: Any) -> nn.Module:
    """DearKD-S without the position term: DeiT-S distilled with 12 heads."""
    return _create("dearkd_small_mhsa_patch16_224", pretrained, kwargs, mhca_depth=0, **_SMALL)


@register_model
def dearkd_base_mhsa_patch16_224(pretrained: bool = False, **kwargs: Any) -> nn.Module:
    """DearKD-B without the position term: DeiT-B distilled with 16 heads."""
    return _create("dearkd_base_mhsa_patch16_224", pretrained, kwargs, mhca_depth=0, **_BASE)


@register_model
def dearkd_micro_mhsa_patch4_32(pretrained: bool = False, **kwargs: Any) -> nn.Module:
    """The micro student without the position term, 9 heads."""
    return _create("dearkd_micro_mhsa_patch4_32", pretrained, kwargs, mhca_depth=0, **_MICRO_32)


@register_model
def dearkd_mini_mhsa_patch4_32(pretrained: bool = False, **kwargs: Any) -> nn.Module:
    """The mini student without the position term, 9 heads."""
    return _create("dearkd_mini_mhsa_patch4_32", pretrained, kwargs, mhca_depth=0, **_MINI_32)


@register_model
def dearkd_tiny_mhsa_patch4_32(pretrained: bool = False, **kwargs: Any) -> nn.Module:
    """DearKD-Ti for 32 px without the position term, 12 heads."""
    return _create("dearkd_tiny_mhsa_patch4_32", pretrained, kwargs, mhca_depth=0, **_TINY_32)


@register_model
def deit_micro_distilled_patch4_32(pretrained: bool = False, **kwargs: Any) -> nn.Module:
    """The micro student with DeiT-Ti's 3 heads and no position term."""
    stock = {**_MICRO_32, "num_heads": 3}
    return _create("deit_micro_distilled_patch4_32", pretrained, kwargs, mhca_depth=0, **stock)


@register_model
def deit_mini_distilled_patch4_32(pretrained: bool = False, **kwargs: Any) -> nn.Module:
    """The mini student with DeiT-Ti's 3 heads and no position term."""
    stock = {**_MINI_32, "num_heads": 3}
    return _create("deit_mini_distilled_patch4_32", pretrained, kwargs, mhca_depth=0, **stock)


@register_model
def deit_tiny_distilled_patch4_32(pretrained: bool = False, **kwargs: Any) -> nn.Module:
    """DeiT-Ti distilled for 32 px: 3 heads, no position term."""
    stock = {**_TINY_32, "num_heads": 3}
    return _create("deit_tiny_distilled_patch4_32", pretrained, kwargs, mhca_depth=0, **stock)

"""The students: timm's distilled vision transformer, its first blocks with MHCA.

Importing this module registers them with timm. ``dearkd_*`` have MHCA in the first 8 of 12 blocks;
``dearkd_*_mhsa_*`` are the same without the position term; the DeiT head counts are timm's own
``deit_*_distilled_patch16_224`` and, for 32 px, ``deit_*_distilled_patch4_32`` here.

Source:
    Chen et al. 2022 (DearKD), https://arxiv.org/abs/2204.12997; Touvron et al. 2020 (DeiT),
    https://arxiv.org/abs/2012.12877, table 1.
"""

import warnings
from typing import Any

import torch
from timm.data.constants import IMAGENET_DEFAULT_MEAN, IMAGENET_DEFAULT_STD
from timm.layers.attention import Attention
from timm.layers.pos_embed import resample_abs_pos_embed
from timm.models import build_model_with_cfg, generate_default_cfgs, register_model
from timm.models.deit import VisionTransformerDistilled
from timm.models.vision_transformer import Block, checkpoint_filter_fn
from torch import Tensor, nn

from dearkd.models.attention import GatedMultiHeadConvAttention, MultiHeadConvAttention

__all__ = ["DearKDVisionTransformer", "initialise_from"]

_ATTENTION: dict[str, type[MultiHeadConvAttention]] = {
    "additive": MultiHeadConvAttention,
    "gated": GatedMultiHeadConvAttention,
}
_DROPOUTS = (
    *("attn_drop_rate", "drop_path_rate", "drop_rate"),
    *("patch_drop_rate", "pos_drop_rate", "proj_drop_rate"),
)
_HEADS = ("head.weight", "head.bias", "head_dist.weight", "head_dist.bias")


class DearKDVisionTransformer(VisionTransformerDistilled):
    """DeiT's distilled transformer whose first ``mhca_depth`` blocks have MHCA.

    ``mhca_fusion`` says how the position term joins the attention: ``additive`` adds it inside the
    softmax, ``gated`` mixes two softmaxes. Everything else is timm's; ``attn_drop_rate`` and
    ``proj_drop_rate`` act in MHCA as they do in plain attention.

    Raises:
        ValueError: If ``mhca_depth`` exceeds the depth, ``mhca_fusion`` is unknown, a dropout rate
            is out of range, patches are to be dropped (MHCA needs the whole grid), or the class
            and distillation tokens are to have no position.
    """

    def __init__(
        self, *args: Any, mhca_depth: int = 8, mhca_fusion: str = "additive", **kwargs: Any
    ) -> None:
        depth = kwargs.get("depth", 12)
        if not 0 <= mhca_depth <= depth:
            raise ValueError(f"mhca_depth must be 0 to {depth} (the depth), got {mhca_depth}")
        if mhca_fusion not in _ATTENTION:
            raise ValueError(f"mhca_fusion must be additive or gated, got {mhca_fusion!r}")
        _check_options(kwargs, has_mhca=mhca_depth > 0)

        def block(*, depth: int, attn_layer: Any = Attention, **block_kwargs: Any) -> Block:
            layer = _ATTENTION[mhca_fusion] if depth < mhca_depth else attn_layer
            return Block(depth=depth, attn_layer=layer, **block_kwargs)

        super().__init__(  # type: ignore[no-untyped-call, unused-ignore]
            *args, block_fn=block, **kwargs
        )
        self._set_attention_grid(self.patch_embed.grid_size)

    def set_input_size(
        self,
        img_size: tuple[int, int] | None = None,
        patch_size: tuple[int, int] | None = None,
    ) -> None:
        """Change the input resolution: position embeddings are resampled, MHCA gets the new grid.

        Departure:
            MHCA's centres and widths stay as they are in patches, like a convolution's kernel.
        """
        super().set_input_size(img_size=img_size, patch_size=patch_size)
        self._set_attention_grid(self.patch_embed.grid_size)

    @torch.jit.ignore  # type: ignore[untyped-decorator, unused-ignore]
    def no_weight_decay(self) -> set[str]:
        """Names of the parameters that take no weight decay: timm's and the position term's."""
        positions = {name for name, _ in self.named_parameters() if _is_position(name)}
        return super().no_weight_decay() | positions

    def _pos_embed(self, x: Tensor) -> Tensor:
        # timm's, and the grid for MHCA. Not by super(), which TorchScript can't compile.
        cls_token, pos_embed = self.cls_token, self.pos_embed
        assert cls_token is not None
        assert pos_embed is not None
        if self.dynamic_img_size:  # the grid is this batch's, and only known here
            grid_size = (x.shape[1], x.shape[2])
            self._set_attention_grid(grid_size)
            pos_embed = resample_abs_pos_embed(
                pos_embed, grid_size, self.patch_embed.grid_size, self.num_prefix_tokens
            )
            x = x.flatten(1, 2)
        prefix = torch.cat((cls_token, self.dist_token), dim=1).expand(x.shape[0], -1, -1)
        return self.pos_drop(torch.cat((prefix, x), dim=1) + pos_embed)

    def _set_attention_grid(self, grid_size: tuple[int, int]) -> None:
        for block in self.blocks:
            if hasattr(block.attn, "set_grid_size"):  # TorchScript has no isinstance of modules
                block.attn.set_grid_size(grid_size)  # type: ignore[operator]


def initialise_from(
    student: VisionTransformerDistilled, source: VisionTransformerDistilled
) -> tuple[str, ...]:
    """Copy a trained transformer's weights; returns the names that kept their own initial values.

    Those are the position parameters where the source has none (DeiT) and the heads where the
    classes differ. Position embeddings are resampled to the student's grid.

    Raises:
        ValueError: If the two differ in more than heads, classes, resolution and position term.
    """
    heads, source_heads = _num_heads(student), _num_heads(source)
    if heads != source_heads:
        warnings.warn(
            f"the source has {source_heads} attention heads and the student {heads}: "
            "the weights load, but compute another function",
            stacklevel=2,
        )
    state, own = source.state_dict(), student.state_dict()
    if source.patch_embed.grid_size != student.patch_embed.grid_size:
        state["pos_embed"] = resample_abs_pos_embed(
            state["pos_embed"],
            new_size=list(student.patch_embed.grid_size),
            old_size=list(source.patch_embed.grid_size),
            num_prefix_tokens=source.num_prefix_tokens,
        )
    keeps = {name for name in own if _is_position(name) and name not in state}
    if student.num_classes != source.num_classes:
        keeps.update(name for name in _HEADS if name in own)
    for name in sorted((own.keys() | state.keys()) - keeps):
        ours, theirs = _shape(own, name), _shape(state, name)
        if ours != theirs and not (name in _HEADS and name not in own):
            raise ValueError(
                f"the source does not fit the student: {name} is {theirs} there and {ours} here; "
                "choose a source of the same depth, width and patch size"
            )
    student.load_state_dict({**own, **{k: v for k, v in state.items() if k in own.keys() - keeps}})
    return tuple(sorted(keeps))


def _check_options(kwargs: dict[str, Any], has_mhca: bool) -> None:
    """Refuses what timm would take, and what the two tokens or MHCA can't do.

    Raises:
        ValueError: If an option is out of range.
    """
    for name in _DROPOUTS:
        if not 0 <= kwargs.get(name, 0) < 1:
            raise ValueError(f"{name} must be at least 0 and less than 1, got {kwargs[name]}")
    if has_mhca and kwargs.get("patch_drop_rate"):
        raise ValueError(
            "patch_drop_rate must be 0 with MHCA (it needs the whole grid of patches), "
            f"got {kwargs['patch_drop_rate']}"
        )
    if kwargs.get("no_embed_class"):
        raise ValueError(
            "no_embed_class must be False for a distilled transformer (both of its tokens have a "
            f"position), got {kwargs['no_embed_class']}"
        )


def _num_heads(model: VisionTransformerDistilled) -> int:
    return next(m.num_heads for m in model.modules() if isinstance(m, Attention))


def _is_position(name: str) -> bool:
    return ".attn.position_" in name


def _shape(state: dict[str, Tensor], name: str) -> str:
    return str(tuple(state[name].shape)) if name in state else "absent"


def _filter_checkpoint(
    state_dict: dict[str, Tensor], model: DearKDVisionTransformer
) -> dict[str, Tensor]:
    """The output of timm's filter; position parameters it lacks stay as they are."""
    own = {name: value for name, value in model.state_dict().items() if _is_position(name)}
    return {**own, **checkpoint_filter_fn(state_dict, model)}


def _create(variant: str, pretrained: bool, kwargs: dict[str, Any], **architecture: Any) -> Any:
    return build_model_with_cfg(
        DearKDVisionTransformer,
        variant,
        pretrained,
        pretrained_filter_fn=_filter_checkpoint,
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
            for size in ("micro", "tiny")
            for twin in ("", "_mhsa")
        },
        "deit_micro_distilled_patch4_32": _cfg(32),
        "deit_tiny_distilled_patch4_32": _cfg(32),
    }
)

_TINY = {"patch_size": 16, "embed_dim": 192, "num_heads": 12}
_SMALL = {"patch_size": 16, "embed_dim": 384, "num_heads": 12}
_BASE = {"patch_size": 16, "embed_dim": 768, "num_heads": 16}
# 9 heads are one 3x3 kernel, and 12 + 4 channels a head fill a CPU's vectors.
_MICRO_32 = {"patch_size": 4, "embed_dim": 108, "num_heads": 9}
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
def dearkd_tiny_mhsa_patch4_32(pretrained: bool = False, **kwargs: Any) -> nn.Module:
    """DearKD-Ti for 32 px without the position term, 12 heads."""
    return _create("dearkd_tiny_mhsa_patch4_32", pretrained, kwargs, mhca_depth=0, **_TINY_32)


@register_model
def deit_micro_distilled_patch4_32(pretrained: bool = False, **kwargs: Any) -> nn.Module:
    """The micro student with DeiT-Ti's 3 heads and no position term."""
    stock = {**_MICRO_32, "num_heads": 3}
    return _create("deit_micro_distilled_patch4_32", pretrained, kwargs, mhca_depth=0, **stock)


@register_model
def deit_tiny_distilled_patch4_32(pretrained: bool = False, **kwargs: Any) -> nn.Module:
    """DeiT-Ti distilled for 32 px: 3 heads, no position term."""
    stock = {**_TINY_32, "num_heads": 3}
    return _create("deit_tiny_distilled_patch4_32", pretrained, kwargs, mhca_depth=0, **stock)

"""timm's distilled vision transformer with MHCA in its first blocks: the students' network.

Source:
    Chen et al. 2022 (DearKD), https://arxiv.org/abs/2204.12997; Touvron et al. 2020 (DeiT),
    https://arxiv.org/abs/2012.12877.
"""

import warnings
from typing import Any

import torch
from timm.layers.attention import Attention
from timm.layers.pos_embed import resample_abs_pos_embed
from timm.models.deit import VisionTransformerDistilled
from timm.models.vision_transformer import Block, checkpoint_filter_fn
from torch import Tensor, nn

from dearkd.errors import UserError
from dearkd.models.attention import GatedMultiHeadConvAttention, MultiHeadConvAttention

__all__ = ["DearKDVisionTransformer", "filter_checkpoint", "initialise_from", "patch_drop_rate"]

_ATTENTION: dict[str, type[MultiHeadConvAttention]] = {
    "additive": MultiHeadConvAttention,
    "gated": GatedMultiHeadConvAttention,
}
_DROPOUTS = (
    *("attn_drop_rate", "drop_path_rate", "drop_rate"),
    *("patch_drop_rate", "pos_drop_rate", "proj_drop_rate", "mhca_dropout"),
)
MOST_ALPHA = 100
"""Where a head may start at most: all weight is on one patch long before."""
_IDLE = {"reg_tokens": 0, "fc_norm": False, "pos_embed": "learn", "pool_include_prefix": False}
"""Options of timm's that its distilled class takes and goes without, as if they had these values:
it has positions of its own, adds no registers to them, and pools nothing."""
_HEADS = ("head.weight", "head.bias", "head_dist.weight", "head_dist.bias")


class DearKDVisionTransformer(VisionTransformerDistilled):
    """DeiT's distilled transformer whose first ``mhca_depth`` blocks have MHCA.

    ``mhca_fusion`` says how the position term joins the attention: ``additive`` adds it inside the
    softmax, ``gated`` mixes two softmaxes. ``mhca_alpha`` is where the heads' strength starts, and
    ``mhca_dropout`` the share of heads that go without the position term for an image in training
    (`MultiHeadConvAttention.set_positions`). Everything else is timm's; ``attn_drop_rate`` and
    ``proj_drop_rate`` act in MHCA as they do in plain attention.

    Raises:
        UserError: If ``mhca_depth`` exceeds the depth, ``mhca_fusion`` is unknown, a setting of
            MHCA has no effect without it, a dropout rate is out of range, patches are to be dropped
            (MHCA needs the whole grid), the class and distillation tokens are to have no position,
            or one of timm's options has no effect on a distilled transformer.
    """

    def __init__(
        self,
        *args: Any,
        mhca_depth: int = 8,
        mhca_fusion: str = "additive",
        mhca_alpha: float = 1.0,
        mhca_dropout: float = 0.0,
        **kwargs: Any,
    ) -> None:
        depth = kwargs.get("depth", 12)
        if not 0 <= mhca_depth <= depth:
            raise UserError(f"mhca_depth must be 0 to {depth} (the depth), got {mhca_depth}")
        if mhca_fusion not in _ATTENTION:
            raise UserError(f"mhca_fusion must be additive or gated, got {mhca_fusion!r}")
        _check_options({**kwargs, "mhca_dropout": mhca_dropout}, has_mhca=mhca_depth > 0)
        if not 0 <= mhca_alpha <= MOST_ALPHA:
            raise UserError(
                f"mhca_alpha must be at least 0 and at most {MOST_ALPHA}, got {mhca_alpha}"
            )
        if mhca_depth == 0 and (mhca_fusion, mhca_alpha, mhca_dropout) != ("additive", 1, 0):
            raise UserError(
                f"mhca_fusion={mhca_fusion}, mhca_alpha={mhca_alpha:g} and "
                f"mhca_dropout={mhca_dropout:g} have no effect with mhca_depth=0; leave them out"
            )

        def block(*, depth: int, attn_layer: Any = Attention, **block_kwargs: Any) -> Block:
            layer = _ATTENTION[mhca_fusion] if depth < mhca_depth else attn_layer
            return Block(depth=depth, attn_layer=layer, **block_kwargs)

        super().__init__(  # type: ignore[no-untyped-call, unused-ignore]
            *args, block_fn=block, **kwargs
        )
        for layer in self.modules():
            if isinstance(layer, MultiHeadConvAttention):
                layer.set_positions(mhca_alpha, mhca_dropout)
        self._set_attention_grid(self.patch_embed.grid_size)

    def set_input_size(
        self,
        img_size: tuple[int, int] | None = None,
        patch_size: tuple[int, int] | None = None,
    ) -> None:
        """Changes the input size: position embeddings are resampled and MHCA gets the new grid.

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
        batch = x.shape[0]
        prefix = cls_token.expand(batch, -1, -1), self.dist_token.expand(batch, -1, -1)
        return self.pos_drop(torch.cat((prefix[0], prefix[1], x), dim=1) + pos_embed)

    def _set_attention_grid(self, grid_size: tuple[int, int]) -> None:
        for block in self.blocks:
            if hasattr(block.attn, "set_grid_size"):  # TorchScript has no isinstance of modules
                block.attn.set_grid_size(grid_size)  # type: ignore[operator]


def initialise_from(
    student: VisionTransformerDistilled, source: VisionTransformerDistilled
) -> tuple[str, ...]:
    """Copies a trained transformer's weights and returns the names that keep their initial values.

    The position parameters keep theirs where the source has none (DeiT), and the heads where the
    classes differ. Position embeddings are resampled to the student's grid.

    Raises:
        UserError: If the two differ in more than heads, classes, resolution and position term.
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
            raise UserError(
                f"the source does not fit the student: {name} is {theirs} there and {ours} here; "
                "choose a source of the same depth, width and patch size"
            )
    student.load_state_dict({**own, **{k: v for k, v in state.items() if k in own.keys() - keeps}})
    return tuple(sorted(keeps))


def patch_drop_rate(student: nn.Module) -> float:
    """The share of its patches that a timm transformer leaves out of an image in training."""
    rate: float = getattr(getattr(student, "patch_drop", None), "prob", 0.0)
    return rate


def filter_checkpoint(
    state_dict: dict[str, Tensor], model: DearKDVisionTransformer
) -> dict[str, Tensor]:
    """The output of timm's filter, with the model's own position parameters where it has none."""
    own = {name: value for name, value in model.state_dict().items() if _is_position(name)}
    return {**own, **checkpoint_filter_fn(state_dict, model)}


def _check_options(kwargs: dict[str, Any], has_mhca: bool) -> None:
    """Refuses options that timm accepts and that the two tokens or MHCA cannot follow.

    Raises:
        UserError: If an option is out of range.
    """
    for name in _DROPOUTS:
        if not 0 <= kwargs.get(name, 0) < 1:
            raise UserError(f"{name} must be at least 0 and less than 1, got {kwargs[name]}")
    if has_mhca and kwargs.get("patch_drop_rate"):
        raise UserError(
            "patch_drop_rate must be 0 with MHCA (it needs the whole grid of patches), "
            f"got {kwargs['patch_drop_rate']}"
        )
    if kwargs.get("no_embed_class"):
        raise UserError(
            "no_embed_class must be False for a distilled transformer (both of its tokens have a "
            f"position), got {kwargs['no_embed_class']}"
        )
    for name, without in _IDLE.items():
        if kwargs.get(name, without) not in (without, None):
            raise UserError(
                f"{name}={kwargs[name]} has no effect on a distilled transformer; leave it out"
            )


def _num_heads(model: VisionTransformerDistilled) -> int:
    return next(m.num_heads for m in model.modules() if isinstance(m, Attention))


def _is_position(name: str) -> bool:
    return ".attn.position_" in name


def _shape(state: dict[str, Tensor], name: str) -> str:
    return str(tuple(state[name].shape)) if name in state else "absent"

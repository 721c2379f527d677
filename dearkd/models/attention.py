"""Multi-head convolutional attention (MHCA): self-attention with a learned relative position term.

    A_ij = softmax_j(q_i . k_j / sqrt(d_h) + v . r_ij)

`dearkd.models.position` defines v . r. What torch.fx cannot trace, because it asks for a dtype, a
device or a size, stands in functions that it keeps whole (``torch.fx.wrap``).

Source:
    Cordonnier et al. 2020, https://arxiv.org/abs/1911.03584, eq. 9; d'Ascoli et al. 2021 (ConViT),
    https://arxiv.org/abs/2103.10697, eq. 4 and 7; Chen et al. 2022 (DearKD),
    https://arxiv.org/abs/2204.12997, section 3.
"""

from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Float
from timm.layers.attention import Attention
from torch import Tensor, nn

from dearkd.models.position import (
    at_least_float32,
    folded_channels,
    initial_positions,
    patch_coordinates,
    position_scores,
)

__all__ = [
    "GatedMultiHeadConvAttention",
    "MultiHeadConvAttention",
    "attention_matrix",
    "content_scores",
    "dense_positions",
    "folded_attention",
    "kept_heads",
    "set_attention",
    "widened_attention",
    "without_mask",
]

PRODUCT_PATCHES = 128
"""Patches up to which attention on a CPU is written out: 64 are faster so, 196 are slower."""


def attention_matrix(
    attn: Attention, tokens: Float[Tensor, "batch tokens dim"]
) -> Float[Tensor, "batch heads tokens tokens"]:
    """Attention weights (query, key) of a plain or convolutional layer; rows sum to 1.

    ``tokens`` are what the layer sees (``block.norm1`` of the block's input). The weights are
    computed in at least float32 and without dropout.
    """
    qkv = attn.qkv(tokens).unflatten(-1, (3, attn.num_heads, attn.head_dim))
    query, key, value = qkv.permute(2, 0, 3, 1, 4).unbind(0)
    query, key = attn.q_norm(query).to(value.dtype), attn.k_norm(key).to(value.dtype)
    content = content_scores(query, key, attn.scale)
    if isinstance(attn, MultiHeadConvAttention):
        return attn.fuse(content)
    return content.softmax(dim=-1)


class MultiHeadConvAttention(Attention):
    """timm's ``Attention`` plus the position term inside the softmax (additive fusion).

    The term rides in 4 more channels of q and k (8 where operands are rounded to fewer bits than
    float32), so no heads * tokens^2 bias exists and every fused kernel applies. The grid of
    patches is a plain attribute that the transformer keeps up to date (`set_grid_size`); tokens
    beyond the grid's patches are prefix tokens.

    Departure:
        The papers do not bound alpha and neither do we: 0 is attention by content alone, and a
        head may learn to look away (alpha < 0). No weight decay is meant for these parameters.
        The term is kept in patch units when the grid changes.
    """

    __constants__ = ("folds",)
    folds = True  # the position term can be folded into q and k

    def __init__(self, dim: int, **kwargs: Any) -> None:
        super().__init__(dim, **kwargs)
        self.strength, self.position_drop = 1.0, 0.0
        factory = {"device": kwargs.get("device"), "dtype": kwargs.get("dtype")}
        self.position_alpha = nn.Parameter(torch.empty(self.num_heads, **factory))
        self.position_centres = nn.Parameter(torch.empty(self.num_heads, 2, **factory))
        self.grid_size: tuple[int, int] = (0, 0)
        MultiHeadConvAttention.reset_parameters(self)

    def reset_parameters(self) -> None:
        """Puts the heads back on their initial centres."""
        alpha, centres = initial_positions(self.num_heads, self.strength)
        with torch.no_grad():
            self.position_alpha.copy_(alpha)
            self.position_centres.copy_(centres)

    def set_positions(self, strength: float, position_drop: float) -> None:
        """Sets where alpha starts, puts the heads there, and how many lose their position term.

        In training a share ``position_drop`` of the heads attends by content alone, drawn anew for
        every image.

        Departure:
            Dropout in MHCA is said to matter; which one is not said, and none is the default. The
            heads that are left are not scaled up: that would change their widths.
        """
        self.strength, self.position_drop = strength, position_drop
        self.reset_parameters()

    def set_grid_size(self, grid_size: tuple[int, int]) -> None:
        """Sets the rows and columns of patches in the sequences to come."""
        self.grid_size = grid_size

    def forward(
        self, x: Tensor, attn_mask: Tensor | None = None, is_causal: bool = False
    ) -> Tensor:
        """The mixed tokens, of the shape of ``x``.

        Raises:
            ValueError: If a mask is given: a convolution over the whole grid has no use for one.
        """
        x = without_mask(x, attn_mask, is_causal)
        qkv = self.qkv(x).unflatten(-1, (3, self.num_heads, self.head_dim))
        query, key, value = qkv.permute(2, 0, 3, 1, 4).unbind(0)
        query, key = self.q_norm(query).to(value.dtype), self.k_norm(key).to(value.dtype)
        if self.fused_attn and self.folds:
            x = self._fused(query, key, value)
        else:
            weights = self.fuse(content_scores(query, key, self.scale)).to(value.dtype)
            x = self.attn_drop(weights) @ value
        x = self.norm(x.transpose(1, 2).flatten(2))
        return self.proj_drop(self.proj(x))

    def fuse(self, content: Tensor) -> Tensor:
        """Attention weights from content scores q . k / sqrt(d), by the dense position scores."""
        position = self._positions(content)
        if self.training and self.position_drop > 0:
            position = position * kept_heads(content, self.position_drop)
        return (content + position).softmax(dim=-1)

    def _positions(self, content: Tensor) -> Tensor:
        return dense_positions(self.position_alpha, self.position_centres, self.grid_size, content)

    def _fused(self, query: Tensor, key: Tensor, value: Tensor) -> Tensor:
        return folded_attention(
            query,
            key,
            value,
            self.position_alpha,
            self.position_centres,
            self.grid_size,
            self.scale,
            self.attn_drop.p if self.training else 0.0,
            self.position_drop if self.training else 0.0,
        )


class GatedMultiHeadConvAttention(MultiHeadConvAttention):
    """Attention (1 - g) softmax(content) + g softmax(position) with a learned gate g a head.

    g = sigmoid(``position_gate``), and ``position_gate`` starts at 1. The attention matrix is
    written out, because no fused kernel has two softmaxes.

    Source:
        d'Ascoli et al. 2021, https://arxiv.org/abs/2103.10697, eq. 7.
    """

    folds = False

    def __init__(self, dim: int, **kwargs: Any) -> None:
        super().__init__(dim, **kwargs)
        self.position_gate = nn.Parameter(self.position_alpha.detach().clone())
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Puts the heads back on their initial centres and the gates to 1."""
        super().reset_parameters()
        nn.init.ones_(self.position_gate)

    def fuse(self, content: Tensor) -> Tensor:
        """Attention weights: the softmaxes of content and of position, mixed by the gate."""
        gate = self.position_gate.to(content.dtype).sigmoid()[:, None, None]
        if self.training and self.position_drop > 0:
            gate = gate * kept_heads(content, self.position_drop)
        position = self._positions(content)
        return (1 - gate) * content.softmax(dim=-1) + gate * position.softmax(dim=-1)


def set_attention(network: nn.Module, device: torch.device) -> None:
    """Puts timm's attention layers on plain products or on the fused kernel, by the rule.

    A run is trained and judged so: the two differ in the last bits.
    """
    embed: Any = getattr(network, "patch_embed", None)
    patches = getattr(embed, "num_patches", None)
    if device.type != "cpu" or patches is None or patches > PRODUCT_PATCHES:
        return
    for layer in network.modules():
        if isinstance(layer, Attention):
            setattr(layer, "fused_attn", False)  # noqa: B010 - final for TorchScript alone


def without_mask(x: Tensor, attn_mask: Tensor | None, is_causal: bool) -> Tensor:
    """``x`` itself, after a check that there is no mask.

    Raises:
        ValueError: If there is one.
    """
    if attn_mask is not None or is_causal:
        raise ValueError("convolutional attention takes no attn_mask or is_causal: remove it")
    return x


def folded_attention(
    query: Tensor,  # batch heads tokens dim, as key and value
    key: Tensor,
    value: Tensor,
    alpha: Tensor,  # heads
    centres: Tensor,  # heads 2
    grid_size: tuple[int, int],
    scale: float,
    dropout: float,
    position_drop: float = 0.0,
) -> Tensor:  # batch heads tokens dim
    """The output of attention whose position term is folded into q and k, by a fused kernel."""
    extra_query, extra_key = folded_channels(alpha, centres, grid_size, value, scale)
    if position_drop > 0:
        extra_query = extra_query * kept_heads(value, position_drop)
    return widened_attention(query, key, value, extra_query, extra_key, scale, dropout)


def widened_attention(
    query: Tensor,  # batch heads tokens dim, as key and value
    key: Tensor,
    value: Tensor,
    extra_query: Tensor,  # heads tokens channels, or batch heads tokens channels
    extra_key: Tensor,  # heads tokens channels
    scale: float,
    dropout: float = 0.0,
) -> Tensor:  # batch heads tokens dim
    """The output of attention with extra channels in q and k; ``scale`` is that without them."""
    batch, head_dim, extra = value.shape[0], value.shape[-1], extra_query.shape[-1]
    x = F.scaled_dot_product_attention(
        torch.cat((query, extra_query.expand(batch, -1, -1, -1)), dim=-1),
        torch.cat((key, extra_key.expand(batch, -1, -1, -1)), dim=-1),
        F.pad(value, (0, extra)),  # flash kernels want one head dim for q, k and v
        dropout_p=dropout,
        scale=scale,
    )
    return x[..., :head_dim]


def content_scores(query: Tensor, key: Tensor, scale: float) -> Tensor:
    """Content scores ``scale`` q . k in at least float32, with autocast switched off.

    TorchScript can't switch autocast off, so a compiled model follows the caller's.
    """
    if torch.jit.is_scripting():  # type: ignore[attr-defined]
        return at_least_float32(query) @ at_least_float32(key).transpose(-2, -1) * scale
    with torch.autocast(query.device.type, enabled=False):
        return at_least_float32(query) @ at_least_float32(key).transpose(-2, -1) * scale


def dense_positions(
    alpha: Tensor,  # heads
    centres: Tensor,  # heads 2
    grid_size: tuple[int, int],
    content: Tensor,  # batch heads tokens tokens
) -> Tensor:  # heads tokens tokens
    """The position scores of all pairs, in the dtype of ``content``."""
    alpha, centres = at_least_float32(alpha), at_least_float32(centres)
    coordinates = patch_coordinates(grid_size, alpha.dtype, content.device)
    prefix = content.shape[-2] - coordinates.shape[0]
    return position_scores(alpha, centres, coordinates, prefix).to(content.dtype)


def kept_heads(
    like: Tensor,  # batch heads tokens dim
    position_drop: float,
) -> Tensor:  # batch heads 1 1
    """1 for heads that keep their position term for an image, and 0 for a share of them."""
    draws = torch.rand([like.shape[0], like.shape[1], 1, 1], device=like.device)
    return (draws >= position_drop).to(like.dtype)


for _kept_whole in (without_mask, folded_attention, content_scores, dense_positions, kept_heads):
    torch.fx.wrap(_kept_whole.__name__)

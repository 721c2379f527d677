"""Multi-head convolutional attention (MHCA): self-attention with a learned relative position term.

Every head h has a centre Delta (in patch units, rows down and columns right) and a strength alpha:

    A_ij = softmax_j(q_i . k_j / sqrt(d_h) + v . r_ij),   r_delta = (|delta|^2, delta_1, delta_2),
    v = -alpha (1, -2 Delta_1, -2 Delta_2),               delta = p_j - p_i,

so v . r = -alpha (|delta - Delta|^2 - |Delta|^2): a Gaussian of standard deviation
1 / sqrt(2 alpha) patches around the patch at offset Delta. Pairs with a prefix (class or
distillation) token score 0.

Source:
    Cordonnier et al. 2020, https://arxiv.org/abs/1911.03584, eq. 9; d'Ascoli et al. 2021 (ConViT),
    https://arxiv.org/abs/2103.10697, eq. 4 and 7; Chen et al. 2022 (DearKD),
    https://arxiv.org/abs/2204.12997, section 3.
"""

import math
from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Float
from timm.layers.attention import Attention
from torch import Tensor, nn

__all__ = [
    "GatedMultiHeadConvAttention",
    "MultiHeadConvAttention",
    "attention_matrix",
    "initial_positions",
    "patch_coordinates",
    "position_channels",
    "position_scores",
    "split_channels",
]

SPARE_ALPHA = 0.1  # heads beyond the square grid start 2.2 patches wide: nearly content alone
_BFLOAT16_BITS = -65536  # 0xFFFF0000: what of a float32 a bfloat16 can hold
_HALF_A_BIT = 0x8000  # of those bits


def patch_coordinates(
    grid_size: tuple[int, int],
    dtype: torch.dtype = torch.float32,
    device: torch.device | None = None,
) -> Float[Tensor, "patches 2"]:
    """(row, column) of every patch, in patches from the middle of the grid, in raster order."""
    height, width = grid_size
    rows = torch.arange(height, dtype=dtype, device=device) - (height - 1) / 2
    columns = torch.arange(width, dtype=dtype, device=device) - (width - 1) / 2
    rows, columns = rows[:, None].expand(height, width), columns.expand(height, width)
    return torch.stack((rows, columns), dim=-1).reshape(height * width, 2)


def initial_positions(num_heads: int) -> tuple[Float[Tensor, "heads"], Float[Tensor, "heads 2"]]:
    """Strength alpha and centre Delta (patches) of every head, arranged like a convolution.

    Departure:
        The DearKD paper gives no values. Centres fill the largest square grid that the heads
        allow (3x3 for 9 to 15 heads, 4x4 at +-0.5, +-1.5 for 16) with alpha 1; the spare heads
        sit at 0 with alpha 0.1.
    """
    side = math.isqrt(num_heads)
    alpha = torch.full((num_heads,), SPARE_ALPHA)
    alpha[: side * side] = 1.0
    centres = torch.zeros(num_heads, 2)
    centres[: side * side] = patch_coordinates((side, side))
    return alpha, centres


def position_scores(
    alpha: Float[Tensor, "heads"],
    centres: Float[Tensor, "heads 2"],
    coordinates: Float[Tensor, "patches 2"],
    num_prefix_tokens: int,
) -> Float[Tensor, "heads tokens tokens"]:
    """Position score v . r of every (query, key) pair; 0 for pairs with a prefix token.

    The definition, in heads * tokens^2 numbers: what the folded channels are checked against.

    Source:
        Cordonnier et al. 2020, https://arxiv.org/abs/1911.03584, eq. 9.
    """
    offsets = coordinates[None, :, :] - coordinates[:, None, :]
    squared = offsets.square().sum(-1)
    along = (centres[:, None, None, :] * offsets).sum(-1)
    scores = -alpha[:, None, None] * (squared - 2 * along)
    return F.pad(scores, (num_prefix_tokens, 0, num_prefix_tokens, 0))


def position_channels(
    alpha: Float[Tensor, "heads"],
    centres: Float[Tensor, "heads 2"],
    coordinates: Float[Tensor, "patches 2"],
    num_prefix_tokens: int,
    scale: float,
) -> tuple[Float[Tensor, "heads tokens 4"], Float[Tensor, "heads tokens 4"]]:
    """Four extra channels for q and for k whose ``scale``-d product has the softmax of v . r.

    With a = -alpha, beta = 2 alpha Delta and c_i = a |p_i|^2 - beta . p_i,
    v . r_ij = (a |p_j|^2 + beta . p_j) - 2 a p_i . p_j + c_i. The row constant c_i is left out
    and -c_i put on the prefix columns instead, which leaves the softmax as it was:

        q+ = (1, -2 a p_i, -c_i) for patches, 0 for prefix tokens,
        k+ = (a |p_j|^2 + beta . p_j, p_j, 0) for patches, (0, 0, 0, 1) for prefix tokens.

    The factor 1 / scale sits on the learned factors alone, so 1, p_j and the prefix mark stay
    exact in bfloat16 (half-integers up to 127.5).
    """
    heads, patches = alpha.shape[0], coordinates.shape[0]
    rows, columns = coordinates.unbind(-1)
    norms = alpha[:, None] * coordinates.square().sum(-1) / scale
    centred = 2 * alpha[:, None] * (centres[:, :1] * rows + centres[:, 1:] * columns) / scale
    slopes = 2 * alpha[:, None] / scale
    ones, zeros = torch.ones_like(norms), torch.zeros_like(norms)
    query = torch.stack((ones, slopes * rows, slopes * columns, norms + centred), dim=-1)
    key = torch.stack(
        (centred - norms, rows.expand(heads, patches), columns.expand(heads, patches), zeros), -1
    )
    prefix = (coordinates.new_tensor([0.0, 0.0, 0.0, 1.0])).expand(heads, num_prefix_tokens, 4)
    return F.pad(query, (0, 0, num_prefix_tokens, 0)), torch.cat((prefix.to(key), key), dim=1)


def split_channels(
    query: Float[Tensor, "heads tokens 4"], key: Float[Tensor, "heads tokens 4"]
) -> tuple[Float[Tensor, "heads tokens 8"], Float[Tensor, "heads tokens 8"]]:
    """The four channels as eight whose factors survive rounding to bfloat16, float16 or TF32.

    A learned factor x becomes (hi, lo) with hi the nearest bfloat16 of x; its partner, which is
    exact, is repeated. Gradients reach x through lo.
    """
    q_low, k_low = query[..., 1:], key[..., :1]
    q_high, k_high = _leading_bits(q_low), _leading_bits(k_low)
    one, partner = query[..., :1], key[..., 1:]
    return (
        torch.cat((one, one, q_high, q_low - q_high), dim=-1),
        torch.cat((k_high, k_low - k_high, partner, partner), dim=-1),
    )


def attention_matrix(
    attn: Attention, tokens: Float[Tensor, "batch tokens dim"]
) -> Float[Tensor, "batch heads tokens tokens"]:
    """Attention weights (query, key) of a plain or convolutional layer, rows sum to 1.

    ``tokens`` are what the layer sees (``block.norm1`` of the block's input). At least float32,
    without dropout.
    """
    query, key, _ = _query_key_value(attn, tokens)
    return _attention_weights(attn, query, key)


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

    folds = True  # the position term can be folded into q and k

    def __init__(self, dim: int, **kwargs: Any) -> None:
        super().__init__(dim, **kwargs)
        factory = {"device": kwargs.get("device"), "dtype": kwargs.get("dtype")}
        self.position_alpha = nn.Parameter(torch.empty(self.num_heads, **factory))
        self.position_centres = nn.Parameter(torch.empty(self.num_heads, 2, **factory))
        self.grid_size: tuple[int, int] = (0, 0)
        MultiHeadConvAttention.reset_parameters(self)

    def reset_parameters(self) -> None:
        """Put the heads back on their initial centres."""
        alpha, centres = initial_positions(self.num_heads)
        with torch.no_grad():
            self.position_alpha.copy_(alpha)
            self.position_centres.copy_(centres)

    def set_grid_size(self, grid_size: tuple[int, int]) -> None:
        """Rows and columns of patches in the sequences to come."""
        self.grid_size = grid_size

    def forward(
        self, x: Tensor, attn_mask: Tensor | None = None, is_causal: bool = False
    ) -> Tensor:
        """Mixed tokens, of the shape of ``x``.

        Raises:
            ValueError: If a mask is given: a convolution over the whole grid has no use for one.
        """
        if attn_mask is not None or is_causal:
            raise ValueError("MultiHeadConvAttention takes no attn_mask or is_causal: remove it")
        query, key, value = _query_key_value(self, x)
        if self.fused_attn and self.folds:
            x = self._fused(query, key, value)
        else:
            weights = _attention_weights(self, query, key).to(value.dtype)
            x = self.attn_drop(weights) @ value
        x = self.norm(x.transpose(1, 2).flatten(2))
        return self.proj_drop(self.proj(x))

    def fuse(self, content: Tensor) -> Tensor:
        """Attention weights from content scores q . k / sqrt(d), by the dense position scores."""
        return (content + self._position_scores(content)).softmax(dim=-1)

    def _fused(self, query: Tensor, key: Tensor, value: Tensor) -> Tensor:
        extra_query, extra_key = self._position_channels(value)
        batch, head_dim, extra = value.shape[0], value.shape[-1], extra_query.shape[-1]
        x = F.scaled_dot_product_attention(
            torch.cat((query, extra_query.expand(batch, -1, -1, -1)), dim=-1),
            torch.cat((key, extra_key.expand(batch, -1, -1, -1)), dim=-1),
            F.pad(value, (0, extra)),  # flash kernels want one head dim for q, k and v
            dropout_p=self.attn_drop.p if self.training else 0.0,
            scale=self.scale,  # of the head dim without the extra channels
        )
        return x[..., :head_dim]

    def _position_channels(self, value: Tensor) -> tuple[Tensor, Tensor]:
        """Channels in the dtype of ``value``: the one that autocast lets the kernel see."""
        extra = position_channels(*self._positions(value), scale=self.scale)
        float32_is_exact = value.device.type in ("cpu", "meta")  # elsewhere TF32 may round
        exact = value.dtype == torch.float64 or (value.dtype == torch.float32 and float32_is_exact)
        if not exact:
            extra = split_channels(*extra)
            missing = -(value.shape[-1] + 8) % 8  # GPU kernels want head dims in multiples of 8
            extra = F.pad(extra[0], (0, missing)), F.pad(extra[1], (0, missing))
        return extra[0].to(value.dtype), extra[1].to(value.dtype)

    def _position_scores(self, content: Tensor) -> Tensor:
        return position_scores(*self._positions(content)).to(content.dtype)

    def _positions(self, tokens: Tensor) -> tuple[Tensor, Tensor, Tensor, int]:
        dtype = torch.promote_types(self.position_alpha.dtype, torch.float32)
        coordinates = patch_coordinates(self.grid_size, dtype, tokens.device)
        return (
            self.position_alpha.to(dtype),
            self.position_centres.to(dtype),
            coordinates,
            tokens.shape[-2] - coordinates.shape[0],
        )


class GatedMultiHeadConvAttention(MultiHeadConvAttention):
    """(1 - g) softmax(content) + g softmax(position) with a learned gate g a head.

    g = sigmoid(``position_gate``), which starts at 1. Dense: two softmaxes have no fused kernel.

    Source:
        d'Ascoli et al. 2021, https://arxiv.org/abs/2103.10697, eq. 7.
    """

    folds = False

    def __init__(self, dim: int, **kwargs: Any) -> None:
        super().__init__(dim, **kwargs)
        self.position_gate = nn.Parameter(self.position_alpha.detach().clone())
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Put the heads back on their initial centres, and the gates to 1."""
        super().reset_parameters()
        nn.init.ones_(self.position_gate)

    def fuse(self, content: Tensor) -> Tensor:
        """Attention weights: the two softmaxes, mixed by the gate."""
        gate = self.position_gate.to(content.dtype).sigmoid()[:, None, None]
        position = self._position_scores(content).softmax(dim=-1)
        return (1 - gate) * content.softmax(dim=-1) + gate * position


def _leading_bits(x: Tensor) -> Tensor:
    # By bits and not by x.bfloat16().float(): the compiler drops such round trips, and lo with it.
    bits = x.detach().view(torch.int32) + _HALF_A_BIT
    return (bits & _BFLOAT16_BITS).view(torch.float32)


def _query_key_value(attn: Attention, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """q, k, v as (batch, heads, tokens, head_dim), in the dtype of the projection's output."""
    qkv = attn.qkv(x).unflatten(-1, (3, attn.num_heads, attn.head_dim)).permute(2, 0, 3, 1, 4)
    query, key, value = qkv.unbind(0)
    return attn.q_norm(query).to(value.dtype), attn.k_norm(key).to(value.dtype), value


def _attention_weights(attn: Attention, query: Tensor, key: Tensor) -> Tensor:
    dtype = torch.promote_types(query.dtype, torch.float32)
    with torch.autocast(query.device.type, enabled=False):
        content = query.to(dtype) @ key.to(dtype).transpose(-2, -1) * attn.scale
        if isinstance(attn, MultiHeadConvAttention):
            return attn.fuse(content)
        return content.softmax(dim=-1)

"""The position term of convolutional attention: where every head looks, and how sharply.

Every head h has a centre Delta (in patch units, rows down and columns right) and a strength alpha.
The score of the patch at offset delta = p_j - p_i is

    v . r = -alpha (|delta - Delta|^2 - |Delta|^2),
    r_delta = (|delta|^2, delta_1, delta_2),    v = -alpha (1, -2 Delta_1, -2 Delta_2),

whose softmax is a Gaussian of standard deviation 1 / sqrt(2 alpha) patches around the patch at
offset Delta. Pairs with a prefix token (class or distillation) score 0.

TorchScript compiles these functions and knows no shapes, so shapes stand in comments here.

Source:
    Cordonnier et al. 2020, https://arxiv.org/abs/1911.03584, eq. 9; d'Ascoli et al. 2021 (ConViT),
    https://arxiv.org/abs/2103.10697, eq. 4.
"""

import math

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

__all__ = [
    "at_least_float32",
    "folded_channels",
    "initial_positions",
    "patch_coordinates",
    "position_channels",
    "position_scores",
    "split_channels",
]

SPARE_ALPHA = 0.1  # heads beyond the square grid start 2.2 patches wide: nearly content alone


def initial_positions(
    num_heads: int, strength: float = 1.0
) -> tuple[Float[Tensor, "heads"], Float[Tensor, "heads 2"]]:
    """Strength alpha and centre Delta (patches) of every head, arranged like a convolution.

    Departure:
        The DearKD paper gives no values. Centres fill the largest square grid that the heads
        allow (3x3 for 9 to 15 heads, 4x4 at +-0.5, +-1.5 for 16) with alpha ``strength``, 1 by
        default; the spare heads sit at 0 with alpha 0.1, or less if ``strength`` is.
    """
    side = math.isqrt(num_heads)
    alpha = torch.full((num_heads,), min(SPARE_ALPHA, strength))
    alpha[: side * side] = strength
    centres = torch.zeros(num_heads, 2)
    centres[: side * side] = patch_coordinates((side, side))
    return alpha, centres


def patch_coordinates(
    grid_size: tuple[int, int],
    dtype: torch.dtype = torch.float32,
    device: torch.device | None = None,
) -> Tensor:  # patches 2
    """(row, column) of every patch, in patches from the middle of the grid, in raster order."""
    height, width = grid_size
    rows = torch.arange(height, dtype=dtype, device=device) - (height - 1) / 2
    columns = torch.arange(width, dtype=dtype, device=device) - (width - 1) / 2
    rows, columns = rows[:, None].expand(height, width), columns.expand(height, width)
    return torch.stack((rows, columns), dim=-1).reshape(height * width, 2)


def position_scores(
    alpha: Tensor,  # heads
    centres: Tensor,  # heads 2
    coordinates: Tensor,  # patches 2
    num_prefix_tokens: int,
) -> Tensor:  # heads tokens tokens
    """Position score v . r of every (query, key) pair; 0 for pairs with a prefix token.

    This is the definition, in heads * tokens^2 numbers: the folded channels are checked against it.

    Source:
        Cordonnier et al. 2020, https://arxiv.org/abs/1911.03584, eq. 9.
    """
    offsets = coordinates[None, :, :] - coordinates[:, None, :]
    squared = offsets.square().sum(-1)
    along = (centres[:, None, None, :] * offsets).sum(-1)
    scores = -alpha[:, None, None] * (squared - 2 * along)
    return F.pad(scores, (num_prefix_tokens, 0, num_prefix_tokens, 0))


def position_channels(
    alpha: Tensor,  # heads
    centres: Tensor,  # heads 2
    coordinates: Tensor,  # patches 2
    num_prefix_tokens: int,
    scale: float,
) -> tuple[Tensor, Tensor]:  # heads tokens 4, twice
    """Four extra channels for q and for k whose ``scale``-d product has the softmax of v . r.

    With a = -alpha, beta = 2 alpha Delta and c_i = a |p_i|^2 - beta . p_i,
    v . r_ij = (a |p_j|^2 + beta . p_j) - 2 a p_i . p_j + c_i. The row constant c_i is left out
    and -c_i put on the prefix columns instead, which leaves the softmax as it was:

        q+ = (1, -2 a p_i, -c_i) for patches, 0 for prefix tokens,
        k+ = (a |p_j|^2 + beta . p_j, p_j, 0) for patches, (0, 0, 0, 1) for prefix tokens.

    The factor 1 / scale sits on the learned factors alone, so 1, p_j and the prefix mark stay
    exact in bfloat16 (half-integers up to 127.5).
    """
    rows, columns = coordinates.unbind(-1)
    norms = alpha[:, None] * coordinates.square().sum(-1) / scale
    centred = 2 * alpha[:, None] * (centres[:, :1] * rows + centres[:, 1:] * columns) / scale
    slopes = 2 * alpha[:, None] / scale
    ones, zeros = torch.ones_like(norms), torch.zeros_like(norms)
    query = torch.stack((ones, slopes * rows, slopes * columns, norms + centred), dim=-1)
    key = torch.stack((centred - norms, rows.expand_as(norms), columns.expand_as(norms)), dim=-1)
    tokens = [0, 0, num_prefix_tokens, 0]
    mark = F.pad(zeros, (num_prefix_tokens, 0), value=1.0)[..., None]
    return F.pad(query, tokens), torch.cat((F.pad(key, tokens), mark), dim=-1)


def split_channels(
    query: Tensor,  # heads tokens 4
    key: Tensor,  # heads tokens 4
) -> tuple[Tensor, Tensor]:  # heads tokens 8, twice
    """The four channels as eight, which survive rounding to bfloat16, float16 or TF32.

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


def folded_channels(
    alpha: Tensor,  # heads
    centres: Tensor,  # heads 2
    grid_size: tuple[int, int],
    value: Tensor,  # batch heads tokens dim
    scale: float,
) -> tuple[Tensor, Tensor]:  # heads tokens channels, twice
    """The position channels in the dtype of ``value``, the one that autocast lets kernels see.

    They are 4 where the kernel computes in float32 or more, and at least 8 elsewhere.
    """
    alpha, centres = at_least_float32(alpha), at_least_float32(centres)
    coordinates = patch_coordinates(grid_size, alpha.dtype, value.device)
    prefix = value.shape[-2] - coordinates.shape[0]
    query, key = position_channels(alpha, centres, coordinates, prefix, scale)
    float32_is_exact = value.device.type == "cpu" or value.device.type == "meta"  # or TF32 rounds
    exact = value.dtype == torch.float64 or (value.dtype == torch.float32 and float32_is_exact)
    if not exact:
        query, key = split_channels(query, key)
        missing = -(value.shape[-1] + 8) % 8  # GPU kernels want head dims in multiples of 8
        query, key = F.pad(query, (0, missing)), F.pad(key, (0, missing))
    return query.to(value.dtype), key.to(value.dtype)


def at_least_float32(tensor: Tensor) -> Tensor:
    """The tensor in float32, or in float64 where it has that already."""
    return tensor if tensor.dtype == torch.float64 else tensor.float()


def _leading_bits(x: Tensor) -> Tensor:
    # By bits and not by x.bfloat16().float(): the compiler drops such round trips, and lo with it.
    half_a_bit, kept = 0x8000, -65536  # 0xFFFF0000: what of a float32 a bfloat16 can hold
    bits = x.detach().view(torch.int32) + half_a_bit
    return (bits & kept).view(torch.float32)

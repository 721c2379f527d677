"""MHCA for inference, with the position channels of q and k as constants.

A layer in training makes its extra channels (`dearkd.models.position.position_channels`) from
alpha and the centres at every step. They depend on the token's position alone, so a trained layer
can store them. We also measured folding them into the projection (rows of zeros and a bias a
token): it takes the same time and makes the model larger.
"""

import copy
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

from dearkd.errors import UserError
from dearkd.models.attention import MultiHeadConvAttention, widened_attention, without_mask
from dearkd.models.position import patch_coordinates, position_channels

__all__ = ["FusedConvAttention", "fused"]

torch.fx.wrap("widened_attention")  # torch.fx keeps these two whole
torch.fx.wrap("without_mask")


class FusedConvAttention(nn.Module):
    """Computes what a trained `MultiHeadConvAttention` does, for sequences of ``num_tokens``.

    It is meant for float32 and float64; in fewer bits the position channels lose precision.

    Raises:
        UserError: If the layer is gated: two softmaxes have no common product.
    """

    position_query: Tensor
    position_key: Tensor

    def __init__(self, attn: MultiHeadConvAttention, num_tokens: int) -> None:
        if not attn.folds:
            raise UserError("a gated layer's position term cannot be folded; leave --fuse out")
        super().__init__()
        self.num_heads, self.head_dim, self.scale = attn.num_heads, attn.head_dim, attn.scale
        self.qkv, self.q_norm, self.k_norm = attn.qkv, attn.q_norm, attn.k_norm
        self.norm, self.proj = attn.norm, attn.proj
        query, key = _channels(attn, num_tokens)
        self.register_buffer("position_query", query)
        self.register_buffer("position_key", key)

    def forward(
        self, x: Tensor, attn_mask: Tensor | None = None, is_causal: bool = False
    ) -> Tensor:
        """The mixed tokens, of the shape of ``x``: (batch, tokens, dim).

        Raises:
            UserError: If a mask is given.
        """
        x = without_mask(x, attn_mask, is_causal)
        qkv = self.qkv(x).unflatten(-1, (3, self.num_heads, self.head_dim))
        query, key, value = qkv.permute(2, 0, 3, 1, 4).unbind(0)
        query, key = self.q_norm(query), self.k_norm(key)
        mixed = widened_attention(
            query, key, value, self.position_query, self.position_key, self.scale
        )
        return self.proj(self.norm(mixed.transpose(1, 2).flatten(2)))


def fused(model: nn.Module) -> nn.Module:
    """A copy of the transformer for inference, with every layer's position term as constants.

    Raises:
        UserError: If it has no convolutional attention, or takes images of any size.
    """
    model = copy.deepcopy(model).eval()
    blocks: Any = getattr(model, "blocks", ())
    layers = [b for b in blocks if isinstance(getattr(b, "attn", None), MultiHeadConvAttention)]
    if not layers:
        raise UserError(
            f"{type(model).__name__} has no convolutional attention to fold; leave --fuse out"
        )
    if getattr(model, "dynamic_img_size", False):
        raise UserError(
            "a model with dynamic_img_size has no fixed grid, so its position term cannot be "
            "stored; leave --fuse out"
        )
    prefix: Any = model.num_prefix_tokens
    for block in layers:
        rows, columns = block.attn.grid_size
        block.attn = FusedConvAttention(block.attn, rows * columns + prefix)
    return model


@torch.no_grad()
def _channels(
    attn: MultiHeadConvAttention, num_tokens: int
) -> tuple[Float[Tensor, "heads tokens 4"], Float[Tensor, "heads tokens 4"]]:
    alpha, centres = attn.position_alpha, attn.position_centres
    coordinates = patch_coordinates(attn.grid_size, alpha.dtype, alpha.device)
    return position_channels(
        alpha, centres, coordinates, num_tokens - len(coordinates), scale=attn.scale
    )

"""Attention distance, and the cosine of class and distillation token, of a vision transformer.

They can be measured on any timm ``VisionTransformer`` with plain ``Attention`` and on our students.
Distances are in patches: 1 is the step to the next patch of the grid, whatever its size in pixels.
"""

from collections.abc import Iterator
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from jaxtyping import Float
from timm.layers.attention import Attention
from timm.models.vision_transformer import Block, VisionTransformer
from torch import Tensor, nn

from dearkd.models.attention import attention_matrix
from dearkd.models.position import patch_coordinates

__all__ = [
    "AttentionMeasures",
    "BlockView",
    "attention_distance",
    "block_views",
    "grid_of",
    "has_readable_attention",
    "measure_attention",
    "token_cosine",
]


AT_ONCE = 16
"""Images whose attention weights are held at a time: 40 MB a block for 12 heads and 197 tokens."""


class BlockView(NamedTuple):
    """A block's attention weights and output tokens."""

    weights: Float[Tensor, "batch heads tokens tokens"] | None
    """Softmax output; None for the first view, which is the embedding that enters block 1."""
    tokens: Float[Tensor, "batch tokens dim"]


class AttentionMeasures(NamedTuple):
    """Attention distances and token cosines, means over the images."""

    distance: Float[Tensor, "depth heads"]
    """In patches."""
    cosine: Float[Tensor, " depths"] | None
    """Of class and distillation token, at the input and after every block; None without them."""


def attention_distance(
    weights: Float[Tensor, "batch heads tokens tokens"], grid_size: tuple[int, int]
) -> Float[Tensor, " heads"]:
    """Mean distance in patches between a patch and those it attends to, for every head.

    D = 1/(B L) sum_b sum_ij A_ij |p_j - p_i| over the L patches of the grid.

    Source:
        d'Ascoli et al. 2021 (ConViT), https://arxiv.org/abs/2103.10697, eq. 8.

    Departure:
        ConViT has no class token in these layers; the other papers do not say what they do with
        it. Here both i and j are patches, and each row of A is divided by its sum over the patches,
        so that attention to the prefix tokens does not count. A patch that attends to these alone
        has distance 0.
    """
    rows, columns = grid_size
    where = patch_coordinates(grid_size, weights.dtype, weights.device)
    lengths = (where[:, None] - where[None, :]).norm(dim=-1)
    among = weights[..., -rows * columns :, -rows * columns :]
    given = among.sum(-1).clamp_min(torch.finfo(weights.dtype).tiny)
    return ((among * lengths).sum(-1) / given).mean(dim=(0, 2))


def token_cosine(tokens: Float[Tensor, "batch tokens dim"]) -> Float[Tensor, ""]:
    """Cosine of class and distillation token (the first two) in [-1, 1], mean over the images.

    Source:
        DeiT, https://arxiv.org/abs/2012.12877, section 4: 0.06 at the input, 0.93 at the end.

    Departure:
        Tokens are taken as they leave a block, before the final norm; DeiT does not say.
    """
    return F.cosine_similarity(tokens[:, 0], tokens[:, 1], dim=-1).mean()


def has_readable_attention(model: nn.Module) -> bool:
    """Whether ``block_views`` can read a model: one with timm's ViT blocks and attention, or MHCA.

    It can't read CNNs, windows (Swin), rotary positions (EVA) or blocks with parallel branches.
    """
    return isinstance(model, VisionTransformer) and all(
        isinstance(block, Block) and isinstance(block.attn, Attention) for block in model.blocks
    )


def grid_of(model: Any, images: Float[Tensor, "batch 3 height width"]) -> tuple[int, int]:
    """Rows and columns of the grid of patches that the model divides the images into."""
    rows, columns = model.patch_embed.dynamic_feat_size(tuple(images.shape[-2:]))
    return rows, columns


def block_views(model: Any, images: Float[Tensor, "batch 3 height width"]) -> Iterator[BlockView]:
    """The embedding, then every block's weights and output; the model must be in eval mode.

    The weights are computed separately, since the block's fused kernel never forms them.
    """
    tokens = model.norm_pre(model.patch_drop(model._pos_embed(model.patch_embed(images))))
    yield BlockView(None, tokens)
    for block in model.blocks:
        weights = attention_matrix(block.attn, block.norm1(tokens))
        tokens = block(tokens)
        yield BlockView(weights, tokens)


@torch.inference_mode()
def measure_attention(
    model: Any, images: Float[Tensor, "batch 3 height width"]
) -> AttentionMeasures:
    """Attention distance by block and head and, if there are two tokens, their cosine by depth.

    ``AT_ONCE`` images are measured at a time. The model's mode is restored.
    """
    was_training = model.training
    model.eval()
    parts = torch.split(images, AT_ONCE)
    shares = [len(part) / len(images) for part in parts]
    found = [_measured(model, part) for part in parts]
    model.train(was_training)
    distance = sum(
        (share * each.distance for share, each in zip(shares, found, strict=True)),
        start=torch.zeros_like(found[0].distance),
    )
    if found[0].cosine is None:
        return AttentionMeasures(distance, None)
    cosines = torch.stack([each.cosine for each in found if each.cosine is not None])
    return AttentionMeasures(distance, cosines.new_tensor(shares) @ cosines)


def _measured(model: Any, images: Float[Tensor, "batch 3 height width"]) -> AttentionMeasures:
    grid_size = grid_of(model, images)
    distances, cosines = [], []
    for view in block_views(model, images):
        if view.weights is not None:
            distances.append(attention_distance(view.weights, grid_size))
        if hasattr(model, "dist_token"):
            cosines.append(token_cosine(view.tokens))
    return AttentionMeasures(torch.stack(distances), torch.stack(cosines) if cosines else None)

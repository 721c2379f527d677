"""DF-DearKD's boundary-preserving intra-divergence loss on the teacher's embedding."""

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int
from torch import Tensor

from synth.refusal import SynthError

__all__ = ["Relations", "intra_divergence", "mine", "relations"]


@dataclass(frozen=True, kw_only=True)
class Relations:
    """Which pairs of images of a group are positive (one class) or negative (two classes).

    Entry (g, i, j) is about images i and j of group g; images of different groups make no pair.
    """

    positive: Bool[Tensor, "groups images images"]
    negative: Bool[Tensor, "groups images images"]


def relations(targets: Int[Tensor, "groups images"]) -> Relations:
    """The pairs that may be mined. They are checked here, so that no step has to.

    Raises:
        SynthError: If an anchor has no other image of its class in its group, or no image of
            another class.
    """
    same = targets[:, :, None] == targets[:, None, :]
    positive = same & ~torch.eye(targets.shape[1], dtype=torch.bool, device=targets.device)
    if not positive.any(dim=2).all():
        lonely = targets[~positive.any(dim=2)][0].item()
        raise SynthError(
            f"class {lonely} has one image in its group, so no positive; give it at least 2"
        )
    if same.all(dim=2).any():
        only = targets[same.all(dim=2)][0].item()
        raise SynthError(
            f"a group holds class {only} alone, so no negative; give it at least 2 classes"
        )
    return Relations(positive=positive, negative=~same)


def mine(
    embedding: Float[Tensor, "groups images dim"], pairs: Relations
) -> tuple[
    Int[Tensor, "groups images"], Int[Tensor, "groups images"], Int[Tensor, "groups images"]
]:
    """Indices of each anchor's easy positive, hard positive and hard negative.

    They are the nearest image of its class (not itself), the farthest of its class and the nearest
    of another class, by Euclidean distance of the L2-normalised embeddings; that is the order of
    the cosine. The first index wins a tie.

    Source:
        Easy positives: Xuan et al. 2019, https://arxiv.org/abs/1904.04370.
    """
    unit = F.normalize(embedding.detach(), dim=-1)
    cosine = unit @ unit.mT
    far = torch.finfo(cosine.dtype).max
    easy_positive = cosine.masked_fill(~pairs.positive, -far).argmax(dim=2)
    hard_positive = cosine.masked_fill(~pairs.positive, far).argmin(dim=2)
    hard_negative = cosine.masked_fill(~pairs.negative, -far).argmax(dim=2)
    return easy_positive, hard_positive, hard_negative


def intra_divergence(
    embedding: Float[Tensor, "groups images dim"],
    pairs: Relations,
    margin: float = 0.3,
) -> tuple[Float[Tensor, "groups"], Float[Tensor, "groups"]]:
    """L_ep and L_triplet of each group, means over its images as anchors.

    For one group, with e = the L2-normalised embedding and d(i, j) = ||e_i - e_j|| in [0, 2]::

        for a in images:
            easy_positive = min(d(a, j) for j != a of a's class)
            hard_positive = max(d(a, j) for j != a of a's class)
            hard_negative = min(d(a, j) for j of another class)
            l_ep += -easy_positive / images
            l_triplet += max(0, hard_positive - hard_negative + margin) / images

    The gradient of d at distance 0 is taken to be 0, and is a unit vector elsewhere.

    Source:
        DF-DearKD (Chen et al. 2022, https://arxiv.org/abs/2204.12997).

    Departure:
        The paper leaves the embedding, the sign form of L_ep and the margin open: the pooled
        penultimate feature, L2-normalised; minus the distance; 0.3.
    """
    unit = F.normalize(embedding, dim=-1)
    easy_positive, hard_positive, hard_negative = (
        _distance(unit, index) for index in mine(embedding, pairs)
    )
    triplet = (hard_positive - hard_negative + margin).clamp(min=0)
    return -easy_positive.mean(dim=1), triplet.mean(dim=1)


def _distance(unit: Tensor, index: Tensor) -> Tensor:
    """Distance of each anchor to its chosen partner, in [0, 2].

    It is the norm of the difference, which is exact for close vectors, unlike the dot product.
    """
    partner = unit.gather(1, index[..., None].expand_as(unit))
    return torch.linalg.vector_norm(unit - partner, dim=-1)

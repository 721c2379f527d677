"""The ways to read an answer from a network: by each of its heads, or by both together."""

from typing import Any, Literal, get_args

from jaxtyping import Float
from torch import Tensor, nn

from dearkd.models.heads import HEADS

__all__ = ["Head", "head_scores", "readings"]

Head = Literal["class", "distillation", "logits", "softmax"]


def head_scores(
    model: Any, images: Float[Tensor, "batch 3 height width"]
) -> dict[Head, Float[Tensor, "batch classes"]]:
    """Scores to rank the classes by, for every way of reading the model out.

    A distilled student has four: its ``class`` head, its ``distillation`` head, the mean of their
    ``logits`` (the official code, timm) and the sum of their ``softmax`` outputs (the paper). Any
    other model, which must be in eval mode, has ``logits`` alone: so has a student of which one
    head alone was trained.

    Source:
        DeiT, https://arxiv.org/abs/2012.12877, section 4 ("Classification with our approach").
    """
    if readings(model) == ("logits",):
        return {"logits": model(images).float()}
    tokens = model.forward_features(images)
    class_logits = model.head(tokens[:, 0]).float()
    dist_logits = model.head_dist(tokens[:, 1]).float()
    return {
        "class": class_logits,
        "distillation": dist_logits,
        "logits": (class_logits + dist_logits) / 2,
        "softmax": class_logits.softmax(-1) + dist_logits.softmax(-1),
    }


def readings(model: nn.Module) -> tuple[Head, ...]:
    """The ways to read an answer from a model, found without running it."""
    # LeViT and EfficientFormer have a second head too, but no tokens of their own to read.
    has_two = hasattr(model, "dist_token") and len(getattr(model, "answering_heads", HEADS)) > 1
    return get_args(Head) if has_two else ("logits",)

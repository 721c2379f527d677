"""How good a synthetic set is without real images: recognition, confidence, diversity."""

from collections.abc import Iterable, Sequence
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from synth.classifier import Classifier
from synth.refusal import SynthError

__all__ = [
    "confidence_histogram",
    "mean_pairwise_distance",
    "recognition",
    "within_class_diversity",
]

BLOCK = 256  # rows of the distance matrix at a time


def recognition(predictions: Sequence[int], targets: Sequence[int]) -> dict[str, Any]:
    """Share of images predicted as their target, in [0, 1]: ``overall`` and ``per_class``.

    Raises:
        SynthError: If there are no images, or not one prediction for every target.
    """
    if not targets or len(predictions) != len(targets):
        raise SynthError(
            f"recognition needs one prediction an image, got {len(predictions)} predictions for "
            f"{len(targets)} images"
        )
    hits: dict[int, list[bool]] = {}
    for prediction, target in zip(predictions, targets, strict=True):
        hits.setdefault(target, []).append(prediction == target)
    per_class = {target: sum(hit) / len(hit) for target, hit in sorted(hits.items())}
    total = sum(sum(hit) for hit in hits.values())
    return {"overall": total / len(targets), "per_class": per_class}


def confidence_histogram(confidences: Sequence[float], bins: int = 10) -> list[int]:
    """How many confidences, in [0, 1], fall into each of ``bins`` equal bins."""
    counts = [0] * bins
    for confidence in confidences:
        counts[min(int(confidence * bins), bins - 1)] += 1
    return counts


def mean_pairwise_distance(embedding: Float[Tensor, "images dim"]) -> float:
    """Mean Euclidean distance over all pairs of the L2-normalised rows, in [0, 2].

    Raises:
        SynthError: If there are fewer than two images.
    """
    if len(embedding) < 2:
        raise SynthError(f"a pairwise distance needs at least 2 images, got {len(embedding)}")
    unit = torch.nn.functional.normalize(embedding.double(), dim=1)
    exact = "donot_use_mm_for_euclid_dist"  # the product form rounds small distances away
    blocks = (torch.cdist(rows, unit, compute_mode=exact) for rows in torch.split(unit, BLOCK))
    return float(sum(block.sum() for block in blocks)) / (len(unit) * (len(unit) - 1))


def within_class_diversity(
    classifier: Classifier, classes: Iterable[tuple[int, Iterable[Tensor]]]
) -> dict[str, Any]:
    """Mean pairwise distance of the images of each class (``per_class``) in an embedding.

    The distance is Euclidean between L2-normalised embeddings, in [0, 2]. ``classes`` gives each
    target with its uint8 images, batch by batch; the embeddings of one class are held at a time, so
    that a set of any size fits. ``overall`` is the mean over the classes; a class of one image has
    None and does not count.
    """
    per_class: dict[int, float | None] = {}
    for target, batches in classes:
        embedding = torch.cat([classifier.judge(pixels)[1].cpu() for pixels in batches])
        per_class[target] = mean_pairwise_distance(embedding) if len(embedding) > 1 else None
    known = [distance for distance in per_class.values() if distance is not None]
    return {"overall": sum(known) / len(known) if known else None, "per_class": per_class}

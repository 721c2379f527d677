"""How good a synthetic set is without real images: recognition, confidence, diversity."""

from collections.abc import Iterable, Sequence
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor

from synth.classifier import Classifier

__all__ = [
    "confidence_histogram",
    "judge",
    "mean_pairwise_distance",
    "recognition",
    "within_class_diversity",
]


def recognition(predictions: Sequence[int], targets: Sequence[int]) -> dict[str, Any]:
    """Share of images whose prediction is their target: ``overall`` and ``per_class``, in [0, 1].

    Raises:
        ValueError: If there are no images, or not one prediction for every target.
    """
    if not targets or len(predictions) != len(targets):
        raise ValueError(
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
        ValueError: If there are fewer than two images.
    """
    if len(embedding) < 2:
        raise ValueError(f"a pairwise distance needs at least 2 images, got {len(embedding)}")
    unit = torch.nn.functional.normalize(embedding.double(), dim=1)
    return float(torch.nn.functional.pdist(unit).mean())


def within_class_diversity(
    embedding: Float[Tensor, "images dim"], targets: Int[Tensor, "images"]
) -> dict[str, Any]:
    """Mean pairwise distance within each class (``per_class``) and their mean (``overall``)."""
    per_class = {
        int(target): mean_pairwise_distance(embedding[targets == target])
        for target in torch.unique(targets)
    }
    return {"overall": sum(per_class.values()) / len(per_class), "per_class": per_class}


def judge(classifier: Classifier, batches: Iterable[tuple[Tensor, Tensor]]) -> dict[str, Any]:
    """Recognition, confidence histogram and within-class diversity of a set.

    ``batches`` gives uint8 pixels and int64 targets; ``classifier`` is one that took no part in
    making the images.
    """
    probabilities, embeddings, targets = [], [], []
    for pixels, labels in batches:
        probability, embedding = classifier.judge(pixels)
        probabilities.append(probability.cpu())
        embeddings.append(embedding.cpu())
        targets.append(labels)
    probability, target = torch.cat(probabilities), torch.cat(targets)
    confidence = probability.gather(1, target[:, None]).squeeze(1)
    return {
        "classifier": classifier.name,
        "recognition": recognition(probability.argmax(dim=1).tolist(), target.tolist()),
        "confidence_histogram": confidence_histogram(confidence.tolist()),
        "diversity": within_class_diversity(torch.cat(embeddings), target),
    }

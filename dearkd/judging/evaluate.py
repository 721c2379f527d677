"""Top-1 and top-5 accuracy of a classifier, per head where it has two, summed over processes."""

import functools
from collections.abc import Iterable, Mapping
from typing import Any

import torch
from accelerate import Accelerator
from jaxtyping import Float, Int
from torch import Tensor, nn

from dearkd.errors import UserError
from dearkd.models.precision import precision_context
from dearkd.models.readings import Head, head_scores, readings

__all__ = ["evaluate"]


@torch.inference_mode()
def evaluate(
    model: nn.Module,
    batches: Iterable[Mapping[str, Any]],
    accelerator: Accelerator,
    precision: str = "fp32",
    heads: tuple[Head, ...] | None = None,
) -> dict[str, dict[str, float]]:
    """``{head: {"top1": %, "top5": %}}`` plus ``{"images": {"count": n}}`` over all processes.

    Each process reads its own part of the data, no image twice; counts are summed, so the result
    does not depend on the number of processes or the batch size. ``precision`` is the arithmetic of
    the forward pass; ``heads`` restricts the work.

    Raises:
        UserError: If there is no readable image.
    """
    was_training = model.training
    model.eval()
    # Every head on every process: one without images must still take part in the sums.
    names = [head for head in readings(model) if heads is None or head in heads]
    count = functools.partial(torch.zeros, dtype=torch.int64, device=accelerator.device)
    counts: dict[str, Tensor] = {head: count(2) for head in names}
    total = count(())
    for batch in batches:
        images = batch["image"].to(accelerator.device, non_blocking=True)
        labels = batch["label"].to(accelerator.device, non_blocking=True)
        with precision_context(accelerator.device, precision):
            scores = head_scores(model, images)
        for head in names:
            counts[head] += _correct(scores[head], labels)
        total += len(labels)
    model.train(was_training)
    return _percentages(counts, total, accelerator)


def _correct(
    scores: Float[Tensor, "batch classes"], labels: Int[Tensor, " batch"]
) -> Int[Tensor, "2"]:
    """How many images have their label at rank 1 and among the first 5."""
    ranked = scores.topk(min(5, scores.shape[1])).indices
    hits = ranked == labels[:, None]
    return torch.stack([hits[:, 0].sum(), hits.any(1).sum()])


def _percentages(
    counts: dict[str, Tensor], total: Int[Tensor, ""], accelerator: Accelerator
) -> dict[str, dict[str, float]]:
    images = int(accelerator.reduce(total))
    if images == 0:
        raise UserError("no readable image to evaluate on; check the evaluation data")
    result: dict[str, dict[str, float]] = {}
    for head, hits in counts.items():
        first, fifth = accelerator.reduce(hits).tolist()
        result[head] = {"top1": 100.0 * first / images, "top5": 100.0 * fifth / images}
    result["images"] = {"count": images}
    return result

"""What is measured of the teacher for an objective: scales of targets, and of the student's logits.

Both are functions of the run's seed, data and teacher, so that two runs of one command are equal.
"""

from collections.abc import Callable
from itertools import islice
from typing import Any

import torch
from accelerate import Accelerator
from torch import nn

from dearkd.analysis.probe import evaluation_views
from dearkd.data.order import spread_rows
from dearkd.models.heads import fitted_scale, head_logits
from dearkd.models.precision import precision_context
from dearkd.run_folder.processes import from_main, process_state
from dearkd.training.batches import sample_batches
from dearkd.training.build import Parts

__all__ = ["measure_targets", "scales_of_heads"]

TARGET_VIEWS = 512
"""Training views on which the scale of a stage is measured, the first of the run's order."""
BATCH = 32
SCALE_IMAGES = 256
"""Images that the scale of a head's logits is fitted on, spread over those there are."""


def measure_targets(parts: Parts) -> None:
    """Lets the objective of the first stage measure what it needs of the first training views."""
    measure = getattr(parts.stages[0].objective, "measure_targets", None)
    if measure is None:
        return
    state = process_state()
    batches = sample_batches(parts, state, min(BATCH, len(parts.train) // 2 * 2))
    measure(images for images, *_ in islice(batches(0, 0), TARGET_VIEWS // BATCH))


def scales_of_heads(
    parts: Parts, accelerator: Accelerator
) -> Callable[[nn.Module, nn.Module], dict[str, float]]:
    """A function that fits a scale to each head that gets none from the objective.

    It is fitted on images of the validation split where ``data.validation`` cuts one from the
    training data, else on training images: a test file decides nothing. The targets are the
    teacher's probabilities, as an objective that uses no labels has none to fit to.
    """
    views: list[torch.Tensor] = []

    def fitted(model: nn.Module, objective: Any) -> dict[str, float]:
        if not views:
            cut = parts.config.data.validation is not None
            source = parts.evaluation if cut and parts.evaluation is not None else parts.train
            rows = spread_rows(len(source), SCALE_IMAGES)
            views.append(evaluation_views(source, rows, parts.trained().metadata))
        was_training = model.training
        model.eval()
        found: dict[str, list[torch.Tensor]] = {}
        for images in torch.split(views[0], BATCH):
            on_device = images.to(accelerator.device)
            targets = objective.teacher(on_device).logits.softmax(dim=1)
            with precision_context(accelerator.device, parts.config.precision):
                logits = head_logits(model, on_device)
            for name, value in {**logits, "targets": targets}.items():
                found.setdefault(name, []).append(value.cpu())
        model.train(was_training)
        answers = {name: torch.cat(values) for name, values in found.items()}
        return {
            name: fitted_scale(answers[name], answers["targets"])
            for name in objective.heads_without_scale
        }

    def scales(model: nn.Module, objective: nn.Module) -> dict[str, float]:
        if not getattr(objective, "heads_without_scale", ()):
            return {}
        return from_main(process_state(), lambda: fitted(model, objective))

    return scales

"""What becomes of a run whose training images have no labels: the teacher's take their place.

The class term is off (``distill.class_weight`` 0). There is no second stage unless one is typed,
which is on the teacher's hard labels then. What needs labels is refused.
"""

import dataclasses

from dearkd.config import STAGE2, TrainConfig
from dearkd.errors import UserError
from dearkd.objectives import CrossEntropy
from dearkd.training.methods import Method

__all__ = ["fitted_to_labels", "is_unlabelled"]


def is_unlabelled(config: TrainConfig) -> bool:
    """Whether the training images have no labels, or theirs are left out."""
    return config.data.labels == "none"


def fitted_to_labels(
    config: TrainConfig, method: Method, known: bool
) -> tuple[TrainConfig, list[str]]:
    """The configuration for images whose labels are ``known`` or not, and notes of what it means.

    Raises:
        UserError: If they are not, and a setting needs them.
    """
    if known:
        notes = [f"stage2 {STAGE2}, epochs after stage1's"] if config.stage2 is None else []
        return _with_stage2(config, STAGE2), notes
    _check_settings(config, method)
    config = dataclasses.replace(
        _with_stage2(config, 0 if method.then is not None else STAGE2),
        data=dataclasses.replace(config.data, labels="none"),
        distill=dataclasses.replace(config.distill, class_weight=0.0),
    )
    notes = ["the images have no labels: the teacher alone labels every view"]
    if method.then is not None:
        has_second = config.lengths[1] > 0
        second = "stage 2 is on the teacher's hard labels alone" if has_second else "no stage 2"
        more = "" if has_second else " (--stage2 N has one, on the teacher's hard labels)"
        notes.append(second + more)
    return config, notes


def _with_stage2(config: TrainConfig, epochs: int) -> TrainConfig:
    if config.stage2 is not None:
        return config
    return dataclasses.replace(config, stage2=epochs)


def _check_settings(config: TrainConfig, method: Method) -> None:
    """Refuses what needs labels, or has no effect without."""
    left_out = config.data.labels == "none"
    without = f"{config.data.train} has no labels"
    if left_out:
        without = f"--unlabelled leaves those of {config.data.train} out"
    if "class_weight" not in method.settings:
        otherwise = (
            "leave --unlabelled out"
            if left_out
            else "put each class's images into a folder of its own"
        )
        raise UserError(
            f"method {config.method} needs labels, and {without}; {otherwise}, or let a teacher "
            "give them: dearkd train --method dearkd, deit-hard, deit-soft or deit"
        )
    if config.distill.class_weight:
        raise UserError(
            f"distill.class_weight={config.distill.class_weight:g} has no effect, as {without}; "
            "leave it out"
        )
    if method.then is None:
        return
    if config.stage1 == "auto" and not config.stage2:
        raise UserError(
            f"stage1=auto has no effect without a stage 2, and {without}; add --stage2 N, which is "
            "on the teacher's hard labels, or give --stage1 a number"
        )
    if config.stage2 and method.then is not CrossEntropy:
        raise UserError(
            f"stage2={config.stage2} of method {config.method} needs labels, and {without}; choose "
            "--stage2 0"
        )

"""The student with its first weights: from the seed, or another model's."""

from typing import Any

import torch
from timm.layers.drop import DropPath
from torch import nn

from dearkd.config import TrainConfig
from dearkd.errors import UserError
from dearkd.models.create import check_answer, check_colours, create_model, size_argument
from dearkd.models.heads import HEADS, has_distillation_token, settle_heads
from dearkd.models.vit import initialise_from, patch_drop_rate
from dearkd.trained.open import open_trained
from dearkd.trained.resolve import Resolved

__all__ = ["initial_student"]


def initial_student(
    config: TrainConfig,
    init: Resolved | None,
    num_classes: int,
    class_names: tuple[str, ...] | None,
) -> nn.Module:
    """The student with its initial weights: from the seed, or from ``init``.

    Raises:
        UserError: If the student can't be built, or the weights of ``init`` do not fit it.
    """
    assert config.student is not None
    torch.manual_seed(config.seed)
    size = size_argument(config.student, config.data.img_size, "student")
    student = create_model(
        config.student,
        "student",
        num_classes=num_classes,
        drop_path_rate=config.optim.drop_path or None,
        **size,
        **config.student_args,
    )
    assert config.data.img_size is not None
    check_colours(f"model {config.student}", len(student.pretrained_cfg["mean"]))
    check_answer(student, config.student, config.data.img_size)
    if not config.optim.drop_path:
        _keep_paths(student)
    _check_dropped_patches(student, config.student)
    if init is not None:
        _fill(student, init, size, class_names)
    return student


def _keep_paths(student: nn.Module) -> None:
    """Switches off the stochastic depth that some models have by themselves."""
    for part in student.modules():
        if isinstance(part, DropPath):
            part.drop_prob = 0.0


def _check_dropped_patches(student: nn.Module, name: str) -> None:
    """Refuses to drop patches of a student whose distillation token timm would drop with them."""
    rate = patch_drop_rate(student)
    if rate and has_distillation_token(student):
        raise UserError(
            f"student_args.patch_drop_rate={rate:g} would drop the distillation token of {name} "
            "like a patch; leave it out, or choose a student without that token"
        )


def _fill(
    student: Any, init: Resolved, size: dict[str, int], class_names: tuple[str, ...] | None
) -> None:
    """Gives the student another model's weights; its heads stay new where the classes differ."""
    trained = open_trained(init)
    source = trained.network
    if len(trained.heads) == 1:  # its weights are doubled, to be the mean of both heads
        settle_heads(source, HEADS, {trained.heads[0]: 0.5})
    same = trained.num_classes == student.num_classes and (
        trained.class_names is None or class_names is None or trained.class_names == class_names
    )
    if not same:
        source.reset_classifier(student.num_classes)
    if hasattr(student, "dist_token") and hasattr(source, "dist_token"):
        initialise_from(student, source)
        return
    if size and hasattr(source, "set_input_size"):
        source.set_input_size(**size)
    try:
        student.load_state_dict(source.state_dict())
    except RuntimeError as error:
        first = str(error).splitlines()[1].strip()
        raise UserError(
            f"--init {init.text} does not fit student {type(student).__name__} ({first[:200]}); "
            "leave --student out to keep the same architecture"
        ) from error

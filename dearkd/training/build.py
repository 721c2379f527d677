"""From a configuration to the things it names: data, teacher, student, stages.

Everything a user can get wrong is met here, before the first step.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import nn

from dearkd.config import TrainConfig
from dearkd.data.datasets import Classes, ImageSource, match_classes, open_data, subset
from dearkd.data.sources import SubsetSource
from dearkd.models.create import create_model, import_files, model_cfg
from dearkd.models.teacher import Teacher, load_teacher
from dearkd.objectives import CrossEntropy, DearKD, HardDistillation, SoftDistillation
from dearkd.training.initialise import initial_student, load_run_model
from dearkd.training.recipe import LARGE, check_settings, with_models, with_recipe
from dearkd.training.stages import Stage

__all__ = [
    "LARGE",
    "Parts",
    "build",
    "create_model",
    "import_files",
    "is_convolutional",
    "load_run_model",
    "model_metadata",
    "teacher_of",
]

NO_EVALUATION = "no evaluation images: no top-1 (--eval-data DIR, or a val/ folder beside train/)"


@dataclass(frozen=True)
class Parts:
    """What a training run is made of; ``config`` has no open choice left but the precision."""

    config: TrainConfig
    train: ImageSource
    evaluation: ImageSource | None
    full_size: int
    """Images of the training set before ``fraction``."""
    class_map: tuple[int, ...]
    """The student's class of each label of the data."""
    class_names: tuple[str, ...] | None
    """Names of the student's classes, where they are known."""
    student: nn.Module
    teacher: Teacher | None
    stages: list[Stage]
    notes: tuple[str, ...]
    """Choices made for the user, to be said aloud."""


def build(config: TrainConfig) -> Parts:
    """Opens the data, finds teacher and student and checks that they fit together.

    Raises:
        ValueError: A name is unknown, or classes, weights or settings do not fit.
        FileNotFoundError: A path does not exist.
    """
    import_files(config.imports)
    check_settings(config)
    source, evaluation = open_data(config.data.train, config.data.evaluation)
    full_size = len(source)
    # Not config.seed: runs that differ in the seed alone are to be compared on the same images.
    source = subset(source, config.data.fraction)
    config, notes = with_models(config, source)
    config, more = with_recipe(config, full_size if config.data.keep_steps else len(source))
    if evaluation is None:
        more.append(NO_EVALUATION)
    elif isinstance(evaluation, SubsetSource) and len(evaluation) < len(evaluation.source):
        more.append(
            f"evaluation on the {len(evaluation)} of {len(evaluation.source)} images whose class "
            "is among those trained"
        )
    assert config.student is not None
    teacher = teacher_of(config, model_cfg(config.student, "student"))
    class_map, class_names, count = _student_classes(source, teacher)
    student = initial_student(config, count, class_names)
    return Parts(
        config=config,
        train=source,
        evaluation=evaluation,
        full_size=full_size,
        class_map=class_map,
        class_names=class_names,
        student=student,
        teacher=teacher,
        stages=_stages(config, student, teacher),
        notes=(*notes, *more),
    )


def is_convolutional(model: nn.Module) -> bool:
    """Whether a model takes images of any size, as a CNN does."""
    cfg: Any = model.pretrained_cfg
    return not cfg.get("fixed_input_size")


def model_metadata(
    config: TrainConfig, model: Any, class_names: tuple[str, ...] | None
) -> dict[str, Any]:
    """What must stand beside the weights for the model to be rebuilt and used."""
    cfg = model.pretrained_cfg
    return {
        "arch": config.student,
        "num_classes": model.num_classes,
        "class_names": class_names,
        "img_size": config.data.img_size,
        "mean": list(cfg["mean"]),
        "std": list(cfg["std"]),
        "interpolation": cfg["interpolation"],
        "crop_pct": cfg["crop_pct"],
    }


def teacher_of(config: TrainConfig, student_cfg: dict[str, Any]) -> Teacher | None:
    """The frozen teacher, given images as the student gets them; None for plain training.

    Raises:
        ValueError: If there are no weights for it within reach, or they do not fit.
        FileNotFoundError: If its path does not exist.
    """
    if config.method == "ce":
        return None
    name, weights = config.teacher.name, config.teacher.weights
    assert name is not None
    return load_teacher(
        name,
        weights=Path(weights) if weights else None,
        student_mean=student_cfg["mean"],
        student_std=student_cfg["std"],
        img_size=config.data.img_size,
        precision=config.teacher.precision,
    )


def _student_classes(
    source: ImageSource, teacher: Teacher | None
) -> tuple[tuple[int, ...], tuple[str, ...] | None, int]:
    """(class of each data label, names of all classes, their count): the teacher's where it has."""
    classes: Classes = source.classes
    if teacher is not None:
        class_map = match_classes(classes, teacher.class_names, teacher.num_classes)
        whole = len(class_map) == teacher.num_classes
        names = teacher.class_names or (classes.names if whole else None)
        return class_map, names, teacher.num_classes
    if classes.indices is not None and classes.total is not None:
        return classes.indices, None, classes.total
    return tuple(range(classes.count)), classes.names, classes.count


def _stages(config: TrainConfig, student: nn.Module, teacher: Teacher | None) -> list[Stage]:
    """The method as a list of stages.

    The first objective is built here, so that what does not fit is said before anything is
    written; its stage takes it out of the list, so that the teacher is freed with the stage.
    """
    distill = config.distill
    if teacher is None:
        return [Stage("ce", config.epochs, lambda: CrossEntropy(student))]
    first: list[nn.Module] = []
    match config.method:
        case "dearkd":
            first.append(DearKD(student, teacher, distill.pairs, distill.hidden_weight))
            return [
                Stage("stage1", config.stage1, first.pop),
                Stage("stage2", config.stage2, lambda: CrossEntropy(student)),
            ]
        case "deit-hard":
            first.append(HardDistillation(student, teacher, distill.token))
        case _:
            first.append(SoftDistillation(student, teacher, distill.temperature, distill.alpha))
    return [Stage(config.method, config.epochs, first.pop)]

"""Refuses settings of a run that would have no effect, or need what is not installed."""

import importlib.util
from collections.abc import Sequence

import torch
from torch import nn

from dearkd.config import TrainConfig
from dearkd.data.settings import DataConfig
from dearkd.errors import UserError
from dearkd.models.create import model_cfg
from dearkd.models.teacher import Teacher
from dearkd.objectives import Distillation
from dearkd.training.methods import Method
from dearkd.training.settings import DistillConfig, TeacherConfig
from dearkd.training.stages import Stage
from dearkd.training.unlabelled import is_unlabelled
from synth.facts import cpp_compiler, has_compiler

__all__ = [
    "check_cache",
    "check_given_teacher",
    "check_normalisation",
    "check_settings",
    "check_smoothing",
    "check_without_stage1",
    "is_taught",
]

OWN_ARGUMENTS = frozenset(
    {"num_classes", "in_chans", "img_size", "drop_path_rate", "pretrained", "checkpoint_path"}
)
"""Arguments of a student that other settings decide."""


def check_settings(config: TrainConfig, method: Method) -> None:
    """Refuses settings that would have no effect, or need what is not installed.

    Raises:
        UserError: Naming the setting.
    """
    teacher = config.teacher
    if teacher.name is None and teacher.weights is not None:
        raise UserError(
            f"--teacher-weights {teacher.weights} needs --teacher, the model they are for"
        )
    if not method.has_teacher:
        _refuse_teacher(
            teacher,
            f"{config.method}, which has no teacher; leave it out or choose --method dearkd, "
            "deit-hard, deit-soft or deit",
        )
    taken = OWN_ARGUMENTS.intersection(config.student_args)
    if taken:
        raise UserError(
            f"student_args.{min(taken)} is decided by the data and other settings; leave it out"
        )
    _check_data(config.data)
    for tracker in config.trackers:
        if importlib.util.find_spec(tracker) is None:
            raise UserError(
                f"trackers has {tracker}, which is not installed; pip install {tracker}, "
                "or leave it out of trackers"
            )
    _check_compiler(config)
    _check_switch(config, method)


def is_taught(config: TrainConfig, method: Method) -> bool:
    """Whether a teacher takes part in some stage, once it is known whether images have labels."""
    is_second_alone = method.then is not None and config.stage1 == 0
    return method.has_teacher and (not is_second_alone or is_unlabelled(config))


def check_given_teacher(config: TrainConfig, method: Method) -> None:
    """Refuses a teacher that was made in Python where none takes part.

    Raises:
        UserError: Naming what it has no effect with.
    """
    if is_taught(config, method):
        return
    untaught = f"{config.method}, which has no teacher"
    reason = "stage1=0, where the labels alone are learned" if method.has_teacher else untaught
    raise UserError(f"the given teacher has no effect with {reason}; leave it out")


def check_normalisation(teacher: Teacher, student: str) -> None:
    """Refuses a teacher that was made in Python for images in another normalisation.

    Raises:
        UserError: Naming both.
    """
    look = model_cfg(student, "student")
    made = (teacher.student_mean, teacher.student_std)
    gets = (tuple(look["mean"]), tuple(look["std"]))
    if made != gets:
        raise UserError(
            f"the given teacher was made for images of mean {made[0]} and std {made[1]}, and "
            f"student {student} gets them of mean {gets[0]} and std {gets[1]}; make it with "
            f"student_mean={gets[0]}, student_std={gets[1]}"
        )


def check_without_stage1(config: TrainConfig, method: Method, second: nn.Module | None) -> None:
    """Refuses settings of a first stage that has no epoch, but for what the second one has as well.

    Raises:
        UserError: Naming the setting.
    """
    if method.then is None or config.stage1 != 0:
        return
    learned = "the teacher's hard labels" if is_unlabelled(config) else "the labels"
    reason = (
        f"stage1=0, where {learned} alone are learned; leave it out, or give --stage1 more epochs"
    )
    if not is_taught(config, method):
        _refuse_teacher(config.teacher, reason)
    used = getattr(second, "filled_settings", {})
    for name, plain in vars(DistillConfig()).items():
        value = getattr(config.distill, name)
        if value not in (plain, used.get(name)):
            raise UserError(f"distill.{name}={value} has no effect with {reason}")


def check_cache(config: TrainConfig, method: Method) -> None:
    """Refuses to keep labels where no teacher takes part, or its views have no numbers.

    Raises:
        UserError: Naming the setting and what it has no effect with.
    """
    if config.cache_labels is None:
        return
    setting = f"cache_labels={config.cache_labels} has no effect with"
    if not method.has_teacher:
        raise UserError(
            f"{setting} {config.method}, which has no teacher; leave it out or choose --method "
            "dearkd, deit-hard, deit-soft or deit"
        )
    if not is_taught(config, method):
        raise UserError(f"{setting} stage1=0, where the teacher takes no part; leave it out")
    if not method.numbers_views:
        raise UserError(
            f"{setting} {config.method}, whose forward takes no views; let it take them and hand "
            "them on to the teacher, or leave the setting out"
        )


def check_smoothing(config: TrainConfig, stages: Sequence[Stage]) -> None:
    """Refuses to smooth labels that no stage learns: the teacher's are not smoothed.

    Raises:
        UserError: Naming the setting.
    """
    objectives = [stage.objective for stage in stages]
    alone = [isinstance(o, Distillation) and not o.teaching.uses_labels for o in objectives]
    if all(alone) and config.data.smoothing != DataConfig().smoothing:
        raise UserError(
            f"data.smoothing={config.data.smoothing:g} has no effect where no labels are learned, "
            "and the teacher's are not smoothed; leave it out"
        )


def _refuse_teacher(teacher: TeacherConfig, reason: str) -> None:
    """Refuses whatever is said of a teacher where none takes part."""
    for name, plain in vars(TeacherConfig()).items():
        value = getattr(teacher, name)
        if value != plain:
            raise UserError(f"teacher.{name}={value} has no effect with {reason}")


def _check_switch(config: TrainConfig, method: Method) -> None:
    """Refuses ``stage1: auto`` where no hidden loss is trained that could end a stage.

    Raises:
        UserError: Naming what it has no effect with.
    """
    if config.stage1 != "auto":
        return
    if method.then is None or "hidden_weight" not in method.settings:
        raise UserError(
            f"stage1=auto has no effect with {config.method}, which has no hidden loss that ends a "
            "stage; give --stage1 a number, or choose --method dearkd"
        )
    if config.distill.hidden_weight == 0:
        raise UserError(
            "stage1=auto has no effect with distill.hidden_weight=0: it goes by the hidden loss; "
            "give --stage1 a number, or the loss a weight"
        )


def _check_data(data: DataConfig) -> None:
    if data.validation is not None and data.evaluation is not None:
        raise UserError(
            f"--eval-data {data.evaluation} has no effect beside data.validation="
            f"{data.validation:g}, which cuts the evaluation images from the training data; "
            "leave one of them out"
        )
    if data.validation is not None and data.labels == "none":
        raise UserError(
            f"data.validation={data.validation:g} has no effect with data.labels=none, as "
            "accuracy needs labels; leave it out, and name labelled images by --eval-data"
        )
    if data.keep_steps and data.fraction == 1:
        raise UserError(
            "data.keep_steps has no effect with data.fraction=1; leave data.keep_steps out, or set "
            "data.fraction below 1"
        )


def _check_compiler(config: TrainConfig) -> None:
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    if config.compile and not has_compiler(device):
        raise UserError(
            f"compile=true needs a C++ compiler on a CPU and finds no {cpp_compiler()}; install "
            "one, name it in CXX, or leave compile out"
        )

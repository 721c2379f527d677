"""Refuses settings of a run that would have no effect, or need what is not installed."""

import dataclasses
import importlib.util
from collections.abc import Sequence

import torch

from dearkd.config import TrainConfig
from dearkd.data.settings import DataConfig
from dearkd.errors import UserError
from dearkd.objectives import Distillation
from dearkd.training.methods import Method
from dearkd.training.settings import TeacherConfig
from dearkd.training.stages import Stage
from synth.facts import cpp_compiler, has_compiler

__all__ = ["check_cache", "check_settings", "check_smoothing"]

OWN_ARGUMENTS = frozenset({"num_classes", "in_chans", "img_size", "drop_path_rate", "pretrained"})
"""Arguments of a student that other settings decide."""


def check_settings(config: TrainConfig, method: Method) -> None:
    """Refuses settings that would have no effect, or need what is not installed.

    Raises:
        UserError: Naming the setting.
    """
    teacher, plain = config.teacher, TeacherConfig()
    if teacher.name is None and teacher.weights is not None:
        raise UserError(
            f"--teacher-weights {teacher.weights} needs --teacher, the model they are for"
        )
    for field in dataclasses.fields(TeacherConfig) if not method.has_teacher else ():
        value = getattr(teacher, field.name)
        if value != getattr(plain, field.name):
            raise UserError(
                f"teacher.{field.name}={value} has no effect with {config.method}, which has no "
                "teacher; leave it out or choose --method dearkd, deit-hard, deit-soft or deit"
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
    if method.then is not None and config.stage1 == 0 and config.data.labels != "none":
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
    objectives = [stage.objective for stage in stages if stage.epochs]
    alone = [isinstance(o, Distillation) and not o.teaching.uses_labels for o in objectives]
    if all(alone) and config.data.smoothing != DataConfig().smoothing:
        raise UserError(
            f"data.smoothing={config.data.smoothing:g} has no effect where no labels are learned, "
            "and the teacher's are not smoothed; leave it out"
        )


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

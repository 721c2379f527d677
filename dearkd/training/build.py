"""From a configuration to the things it names: data, student, stages with their objectives.

Everything a user can get wrong is met here, before the first step.
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from torch import nn

from dearkd.config import TrainConfig
from dearkd.data.class_matching import match_classes, order_note
from dearkd.data.class_notes import class_notes
from dearkd.data.datasets import open_data, renumbered, subset
from dearkd.data.sources import Classes, ImageSource, SubsetSource
from dearkd.errors import UserError
from dearkd.models.create import model_cfg
from dearkd.models.teacher import Teacher
from dearkd.said import counted
from dearkd.trained.imports import import_files
from dearkd.trained.open_teacher import open_teacher
from dearkd.trained.resolve import Resolved, resolve
from dearkd.trained.trained import Trained
from dearkd.training.checkpoint import Begun
from dearkd.training.checks import (
    check_cache,
    check_given_teacher,
    check_normalisation,
    check_settings,
    check_smoothing,
    check_without_stage1,
    is_taught,
)
from dearkd.training.initialise import initial_student
from dearkd.training.methods import Method, check_method, stages_of
from dearkd.training.recipe import addressed, filled_in
from dearkd.training.stages import Stage
from dearkd.training.switch import SwitchRule
from dearkd.training.unlabelled import fitted_to_labels, is_unlabelled

__all__ = ["Parts", "build"]

NO_EVALUATION = (
    "no evaluation images: no top-1 (--eval-data DIR, a val/ folder beside train/, or "
    "--set data.validation=0.1)"
)


@dataclass(frozen=True)
class Parts:
    """What a training run is made of; ``config`` has no open choice left but the arithmetic."""

    config: TrainConfig
    train: ImageSource
    evaluation: ImageSource | None
    full_size: int
    """Images of the training set before ``fraction``, the validation split left out."""
    class_map: tuple[int, ...]
    """The student's class of each label of the data; of images without labels, of the evaluation
    data."""
    class_names: tuple[str, ...] | None
    """Names of the student's classes, where they are known."""
    student: Any
    stages: list[Stage]
    """Those to run; each lets its objective and teacher go when it is over."""
    choices: tuple[str, ...]
    """What was chosen for the user, to be said aloud."""
    remarks: tuple[str, ...]
    """What is odd about the data, to be said aloud."""
    networks: tuple[Resolved, ...]
    """Those that were opened by name: the teacher, and what the student starts from."""

    @property
    def teacher(self) -> Teacher | None:
        """The teacher of the stages that are not over, if they have one."""
        return next((stage.teacher for stage in self.stages if stage.teacher is not None), None)

    @property
    def class_table(self) -> dict[str, Any]:
        """What a checkpoint keeps of the classes, for `Begun.of`."""
        names = None if self.class_names is None else list(self.class_names)
        return {"map": list(self.class_map), "names": names, "count": self.student.num_classes}

    def trained(self) -> Trained:
        """The student as what it will be once it is trained."""
        cfg = self.student.pretrained_cfg
        assert self.config.student is not None
        assert self.config.data.img_size is not None
        return Trained(
            name=self.config.student,
            architecture=self.config.student,
            arguments=self.config.student_args,
            network=self.student,
            num_classes=self.student.num_classes,
            class_names=self.class_names,
            view=cfg,
            img_size=self.config.data.img_size,
            precision=self.config.precision,
            memory_format=self.config.memory_format,
        )


def build(
    config: TrainConfig,
    *,
    teacher: Teacher | None = None,
    begun: Begun | None = None,
    trust: bool = False,
) -> Parts:
    """Opens the data, finds teacher and student and checks that they fit together.

    ``teacher``, from Python, takes the place of the one that the configuration names. ``begun``
    is known of a run that goes on: it needs no ``init`` any more, and no teacher after its stage.
    ``trust`` allows to run code that comes with a network; that some does is not asked here.

    Raises:
        UserError: A name is unknown, or classes, weights or settings do not fit.
        MissingFileError: A path does not exist.
    """
    import_files(config.imports)
    if begun is not None and config.data.shuffle == "auto":  # begun by a version without shards
        config = replace(config, data=replace(config.data, shuffle="images"))
    method = check_method(config.method, config.distill, config.method_args)
    check_settings(config, method)
    source, evaluation = open_data(
        config.data.train,
        config.data.evaluation,
        validation=config.data.validation,
        labels=config.data.labels,
    )
    config, notes = fitted_to_labels(config, method, source.classes.known)
    check_cache(config, method)
    if teacher is not None and begun is None:
        check_given_teacher(config, method)
    taught = _is_taught(config, method, begun)
    config, named = addressed(config, needs_teacher=taught and teacher is None)
    found = _found_teacher(config, trust) if taught and teacher is None else None
    named_init = config.init if begun is None else None
    init = None if named_init is None else resolve(named_init, "--init", trust=trust)
    full_size = len(source)
    source = subset(source, config.data.fraction)
    size = teacher.img_size if teacher is not None else found.img_size if found else None
    config, more = filled_in(config, source, full_size, size, init)
    if found is not None:
        teacher = _open(found, config)
    elif teacher is not None and taught:
        assert config.student is not None
        check_normalisation(teacher, config.student)
    class_map, class_names, count = _student_classes(source, evaluation, teacher, begun)
    order = _order_notes(source, evaluation, teacher)
    if evaluation is not None and source.classes.known:
        evaluation = renumbered(
            evaluation, source.classes, class_map=class_map, model_names=class_names
        )
    student = initial_student(config, init, count, class_names)
    stages = stages_of(
        method,
        student,
        teacher if taught else None,
        config.distill,
        config.method_args,
        config.lengths,
        _rule(config),
        labelled=source.classes.known,
    )
    check_smoothing(config, stages)
    if begun is None:  # an older version wrote more down of a first stage without an epoch
        check_without_stage1(config, method, stages[0].objective)
    config, last = _with_settings(config, stages[0].objective)
    return Parts(
        config=config,
        train=source,
        evaluation=evaluation,
        full_size=full_size,
        class_map=class_map,
        class_names=class_names,
        student=student,
        stages=stages,
        choices=(
            *notes,
            *named,
            *more,
            *last,
            *_switch_notes(config),
            *_evaluation_notes(config, evaluation),
        ),
        remarks=(*order, *class_notes(source, evaluation)),
        networks=tuple(one for one in (found, init) if one is not None),
    )


def _is_taught(config: TrainConfig, method: Method, begun: Begun | None) -> bool:
    """Whether a stage is left that a teacher takes part in."""
    if not is_taught(config, method):
        return False
    if begun is None or method.then is None or is_unlabelled(config):
        return True
    rule = _rule(config)
    return begun.epoch < config.lengths[0] and not (rule and rule.is_met(begun.watched))


def _rule(config: TrainConfig) -> SwitchRule | None:
    """What ends stage 1, if that is not a number of epochs."""
    switch = config.switch
    if config.stage1 != "auto":
        return None
    return SwitchRule(least=switch.earliest, window=switch.window, fall=switch.fall)


def _switch_notes(config: TrainConfig) -> list[str]:
    switch = config.switch
    if config.stage1 != "auto":
        return []
    return [
        f"stage 1 has {switch.earliest} to {config.lengths[0]} of {config.epochs} epochs, and ends "
        f"when the hidden loss falls by less than {switch.fall:.1%} in "
        f"{counted(switch.window, 'epoch')}"
    ]


def _found_teacher(config: TrainConfig, trust: bool) -> Resolved:
    assert config.teacher.name is not None
    return resolve(config.teacher.name, weights=config.teacher.weights_file, trust=trust)


def _open(found: Resolved, config: TrainConfig) -> Teacher:
    """The teacher, given images as the student gets them."""
    assert config.student is not None
    look = model_cfg(config.student, "student")
    return open_teacher(
        found,
        student_mean=look["mean"],
        student_std=look["std"],
        img_size=config.data.img_size,
    )


def _with_settings(
    config: TrainConfig, objective: nn.Module | None
) -> tuple[TrainConfig, list[str]]:
    """The configuration with what the objective filled in, and notes of it."""
    filled: Mapping[str, Any] = getattr(objective, "filled_settings", None) or {}
    notes = []
    if filled.get("token") == "class" and config.distill.token is None:
        notes.append(f"the class head learns from the teacher ({config.student} has no other)")
    return replace(config, distill=replace(config.distill, **filled)), notes


def _student_classes(
    source: ImageSource,
    evaluation: ImageSource | None,
    teacher: Teacher | None,
    begun: Begun | None,
) -> tuple[tuple[int, ...], tuple[str, ...] | None, int]:
    """(class of each data label, names of all classes, their count): the teacher's where it has.

    Where the training images have no labels, these are the evaluation data's.
    """
    classes: Classes = source.classes
    if not classes.known and evaluation is not None:
        classes = evaluation.classes
    if begun is not None:
        return begun.class_map, begun.class_names, begun.num_classes
    if teacher is not None:
        class_map = _matched(classes, teacher, source.classes.known)
        return class_map, _names_of(teacher, classes, class_map), teacher.num_classes
    if classes.indices is not None and classes.total is not None:
        return classes.indices, None, classes.total
    if classes.count < 2:
        named = f" ({classes.names[0]})" if classes.names else ""
        raise UserError(
            f"the data has {counted(classes.count, 'class', 'classes')}{named}, and training "
            "on labels needs at least 2; pass the folder above the class folders, or a --teacher "
            "and --unlabelled"
        )
    return tuple(range(classes.count)), classes.names, classes.count


def _order_notes(
    source: ImageSource, evaluation: ImageSource | None, teacher: Teacher | None
) -> list[str]:
    """What is assumed of a teacher whose classes have no names."""
    if teacher is None:
        return []
    of_each = [one.classes for one in (source, evaluation) if one is not None]
    notes = [order_note(classes, teacher.class_names) for classes in of_each]
    return [note for note in notes if note is not None][:1]


def _names_of(
    teacher: Teacher, classes: Classes, class_map: tuple[int, ...]
) -> tuple[str, ...] | None:
    """Names of the teacher's classes: its own, or the data's if it has all of these classes."""
    if teacher.class_names or classes.names is None or len(class_map) < teacher.num_classes:
        return teacher.class_names
    return tuple(name for _, name in sorted(zip(class_map, classes.names, strict=True)))


def _matched(classes: Classes, teacher: Teacher, trained_on: bool) -> tuple[int, ...]:
    """The teacher's index of each class of the data, if it has any."""
    if not classes.known:
        return ()
    try:
        return match_classes(classes, teacher.class_names, teacher.num_classes)
    except UserError as error:
        if not trained_on:
            raise UserError(f"evaluation data: {error}") from error
        raise UserError(f"{error}; or leave their labels out by --unlabelled") from error


def _evaluation_notes(config: TrainConfig, evaluation: ImageSource | None) -> list[str]:
    if evaluation is None:
        return [NO_EVALUATION]
    if config.data.validation is not None:
        return [f"evaluation on {len(evaluation)} images cut from the training set"]
    if isinstance(evaluation, SubsetSource) and len(evaluation) < len(evaluation.source):
        return [
            f"evaluation on the {len(evaluation)} of {len(evaluation.source)} images whose class "
            "is among those trained"
        ]
    return []

"""The methods by name: which objective each stage of a run has, and which settings it takes.

A method's settings are the parameters of its objective: ``distill.hidden_weight`` belongs to
``dearkd`` because ``DearKD`` has a parameter of that name, and has no effect with another method.
A setting that is None is left to the objective's own default. ``deit-hard`` and ``deit-soft`` are
names of one objective with ``distill.logits`` fixed; ``deit`` leaves it open.

A new method is one objective class, one entry here and one in :mod:`dearkd.training.method_names`,
which has the names that the command line and the report show. A file passed by ``--import`` may
add one:
``METHODS["mine"] = Method(MyObjective)``; parameters that ``distill`` does not have are
given by ``--set method_args.NAME=VALUE``. What an objective counts must be a buffer: a resumed run
gets its state dict back. A mistake of the user's is a :class:`dearkd.errors.UserError`.

What an objective may have besides:

- For ``--cache-labels`` its ``forward`` takes ``views`` and hands them on to the teacher;
  ``learns_from = "labels"`` says that it looks at the argmax alone.
- ``filled_settings``: its settings by their names in ``distill``, with the open ones filled in; the
  run folder keeps them.
- ``heads_without_scale``: heads whose logits get no scale from the loss; they are given one by the
  teacher's probabilities. Which heads learn at all is seen by their gradients, and one that does
  not is never read.
- ``measure_targets(batches)``: called once, with the first training views, before the first step.
- For ``--stage1 auto``: a parameter ``hidden_weight`` and a term ``hidden``.
"""

import dataclasses
import difflib
import inspect
import typing
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

from torch import nn

from dearkd.errors import UserError
from dearkd.models.teacher import Teacher
from dearkd.objectives import CrossEntropy, DearKD, Distillation
from dearkd.training.settings import DistillConfig
from dearkd.training.stages import Stage
from dearkd.training.switch import SwitchRule

__all__ = ["METHODS", "Method", "check_method", "stages_of"]


@dataclass(frozen=True)
class Method:
    """What a student learns from."""

    objective: type[nn.Module]
    """Built from the student, the teacher where it has a parameter of that name, and settings."""
    then: type[nn.Module] | None = None
    """Objective of the second stage, built from the student; None: there is one stage alone."""
    fixed: Mapping[str, Any] = field(default_factory=dict)
    """Settings that the method's name stands for."""

    @property
    def parameters(self) -> tuple[str, ...]:
        """Names of what its objective is built from, the student left out."""
        return tuple(name for name in inspect.signature(self.objective).parameters)[1:]

    @property
    def has_teacher(self) -> bool:
        """Whether a teacher takes part."""
        return "teacher" in self.parameters

    @property
    def numbers_views(self) -> bool:
        """Whether its objectives take the numbers of the views."""
        objectives = [found for found in (self.objective, self.then) if found is not None]
        return all("views" in inspect.signature(found.forward).parameters for found in objectives)

    @property
    def settings(self) -> tuple[str, ...]:
        """The fields of ``distill`` that it heeds."""
        return tuple(name for name in self.parameters if name in _DISTILL)


_OPEN_ENDED = (inspect.Parameter.VAR_POSITIONAL, inspect.Parameter.VAR_KEYWORD)
_PLAIN = {int: "a whole number", float: "a number", bool: "true or false", str: "a text"}
_DISTILL = {field.name: field for field in dataclasses.fields(DistillConfig)}
METHODS: dict[str, Method] = {
    "dearkd": Method(DearKD, then=CrossEntropy),
    "deit-hard": Method(Distillation, fixed={"logits": "hard"}),
    "deit-soft": Method(Distillation, fixed={"logits": "soft"}),
    "deit": Method(Distillation),
    "ce": Method(CrossEntropy),
}


def check_method(name: str, distill: DistillConfig, arguments: dict[str, Any]) -> Method:
    """The method of that name, after a check that each setting has an effect on it.

    ``arguments`` (``method_args``) are held against the annotations of the objective's parameters.

    Raises:
        UserError: If it is unknown, a setting belongs to another method, or an argument is missing
            or of another type than its parameter.
    """
    if name not in METHODS:
        near = difflib.get_close_matches(name, METHODS, n=1)
        hint = f"did you mean {near[0]!r}?" if near else f"there are {', '.join(METHODS)}"
        raise UserError(f"unknown method {name!r}; {hint} (your own: --import FILE)")
    method, plain = METHODS[name], DistillConfig()
    for key in _DISTILL:
        if getattr(distill, key) != getattr(plain, key) and key not in method.settings:
            owners = [other for other, entry in METHODS.items() if key in entry.settings]
            raise UserError(
                f"distill.{key} is for method {', '.join(owners)} and has no effect with {name}; "
                "leave it out"
            )
    _check_fixed(name, method, distill)
    _check_defaults(name, method, plain)
    own = [key for key in method.parameters if key not in _DISTILL and key != "teacher"]
    for key in arguments:
        if key in _DISTILL:
            raise UserError(f"method_args.{key} is a field of distill; set distill.{key}")
        if key not in own:
            known = ", ".join(own) or "none"
            raise UserError(f"method {name} has no argument {key!r} (method_args); it has: {known}")
    _check_arguments(name, method, own, arguments)
    return method


def stages_of(
    method: Method,
    student: nn.Module,
    teacher: Teacher | None,
    distill: DistillConfig,
    arguments: dict[str, Any],
    epochs: tuple[int, int],
    rule: SwitchRule | None = None,
    labelled: bool = True,
) -> list[Stage]:
    """The stages that a run has, each with its objective.

    Without a ``teacher`` where the method has one, the stage that it teaches is over.
    ``epochs`` are those of both stages; a method of one stage runs their sum. With a ``rule`` they
    are the most of the first, and the second may have more. A stage that can have no epoch is left
    out. The second stage of images that are not ``labelled`` is on the teacher's hard labels.
    """
    if method.then is None:
        objective = _first_objective(method, student, teacher, distill, arguments)
        return [Stage(_name_of(method), sum(epochs), objective, teacher, rule)]
    stages = []
    if epochs[0]:
        objective = _first_objective(method, student, teacher, distill, arguments)
        stages.append(Stage("stage1", epochs[0], objective, teacher, rule))
    if (epochs[1] or rule is not None) and labelled:
        stages.append(Stage("stage2", epochs[1], method.then(student)))
    elif epochs[1]:
        assert teacher is not None
        objective = Distillation(student, teacher, logits="hard", class_weight=0.0)
        stages.append(Stage("stage2", epochs[1], objective, teacher))
    return stages


def _first_objective(
    method: Method,
    student: nn.Module,
    teacher: Teacher | None,
    distill: DistillConfig,
    arguments: dict[str, Any],
) -> nn.Module | None:
    """What the first stage learns; None where the method has a teacher and none is given."""
    if method.has_teacher and teacher is None:
        return None
    given = {key: getattr(distill, key) for key in method.settings}
    settings = {key: value for key, value in given.items() if value is not None}
    settings |= {**method.fixed, **arguments}
    if method.has_teacher:
        settings["teacher"] = teacher
    return method.objective(student, **settings)


def _check_fixed(name: str, method: Method, distill: DistillConfig) -> None:
    """Refuses a setting that says otherwise than the method's name."""
    for key, own in method.fixed.items():
        value = getattr(distill, key)
        if value not in (None, own):
            twin = {"hard": "deit-hard", "soft": "deit-soft"}.get(value, "deit")
            raise UserError(
                f"distill.{key}={value} is not what method {name} stands for ({own}); leave it "
                f"out, or choose --method {twin}"
            )


def _check_arguments(
    name: str, method: Method, own: Sequence[str], arguments: dict[str, Any]
) -> None:
    """Refuses an argument that is missing, or not of the plain type of its parameter."""
    parameters = inspect.signature(method.objective).parameters
    try:
        types = typing.get_type_hints(method.objective.__init__)
    except Exception:  # an annotation that only a type checker can read
        types = {}
    for key in own:
        parameter = parameters[key]
        if key in arguments:
            _check_type(f"method_args.{key}", arguments[key], types.get(key))
        elif parameter.default is parameter.empty and parameter.kind not in _OPEN_ENDED:
            raise UserError(
                f"method {name} needs an argument {key!r}; give it by --set method_args.{key}=VALUE"
            )


def _check_type(key: str, value: Any, wanted: Any) -> None:
    """Refuses a value that a plain type or a Literal excludes; other types are not checked."""
    choices = typing.get_args(wanted) if typing.get_origin(wanted) is Literal else ()
    if not choices and wanted not in _PLAIN:
        return
    is_whole_float = wanted is float and type(value) is int
    if not (value in choices if choices else type(value) is wanted or is_whole_float):
        told = " or ".join(map(str, choices)) or _PLAIN[wanted]
        raise UserError(f"{key} must be {told}, got {value!r}; set another value")


def _check_defaults(name: str, method: Method, plain: DistillConfig) -> None:
    """Refuses a parameter whose own default the configuration's would override without a word."""
    for key in method.settings:
        default = inspect.signature(method.objective).parameters[key].default
        if getattr(plain, key) is None:  # never handed on, so that the parameter's own counts
            continue
        if default is not inspect.Parameter.empty and not _alike(default, getattr(plain, key)):
            raise UserError(
                f"method {name} has {key}={default} as its default and distill.{key} is "
                f"{getattr(plain, key)}: call the parameter something else, or make them equal"
            )


def _alike(default: Any, configured: Any) -> bool:
    return default == configured or (default == () and configured == [])


def _name_of(method: Method) -> str:
    return next(name for name, entry in METHODS.items() if entry is method)

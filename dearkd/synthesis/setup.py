"""Reads a synthesis configuration and opens what it names: teacher, verifier, student, classes."""

import dataclasses
import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from omegaconf import DictConfig, OmegaConf

from dearkd.config_file import complete, user_tree
from dearkd.data.synthetic_set import CONFIG_FILE, SETTINGS_FILE
from dearkd.errors import UserError
from dearkd.said import counted
from dearkd.synthesis.class_selection import choose_classes
from dearkd.synthesis.set_recipe import recipe_for
from dearkd.synthesis.settings import SynthesizeConfig
from dearkd.trained.imports import import_files
from dearkd.trained.open import open_trained
from dearkd.trained.resolve import (
    EMBEDDED,
    WEIGHTS_OPTIONS,
    Resolved,
    refuse_idle_trust,
    resolve,
)
from synth.chains import chains_of
from synth.classifier import Classifier
from synth.groups import Group, batches_of, plan_groups
from synth.guide import size_for
from synth.idle_settings import refuse_idle
from synth.image_files import check_channels
from synth.objective import Objective, refuse_idle_allowance
from synth.refusal import SynthError
from synth.settings import SynthesisConfig

__all__ = ["Setup", "classifier_of", "prepare", "set_teacher"]

OPTIONS = {
    "engine": "--engine",
    "resolutions": "--res",
    "iterations": "--iters",
    "per_class": "--per-class",
    "allow_no_bn": "--allow-no-bn",
    "image_format": "--format",
}
"""Settings of ``synth`` that have an option of their own on the command line."""


@dataclass(frozen=True)
class Setup:
    """Everything that a run needs: its settings with all choices made, and its networks."""

    config: SynthesizeConfig
    synthesis: SynthesisConfig
    """The library's part, with the classes as indices."""
    groups: tuple[Group, ...]
    teacher: Classifier
    verifier: Classifier | None
    student: Classifier | None
    notes: tuple[str, ...]
    """Choices made for the user, as text to print."""
    others: tuple[Classifier, ...] = ()
    """Further teachers."""


def prepare(
    path: Path | None,
    settings: Sequence[str],
    options: dict[str, Any] | None = None,
    *,
    trust: bool = False,
    world: int = 1,
    stored: bool = False,
) -> Setup:
    """Reads the configuration, loads the networks and checks that all of it fits together.

    ``stored``: the file is the one that a set keeps, even where the set has nothing else yet.

    Raises:
        UserError: If a key, name, class or setting is unknown, out of range, or does not fit the
            others.
        FileNotFoundError: If a path does not exist.
    """
    given = user_tree(SynthesizeConfig, path, settings, options)
    is_chosen = stored or (path is not None and _is_of_a_set(path))
    if is_chosen:  # what its file lacks is a setting that came later
        before = OmegaConf.create(dataclasses.asdict(SynthesisConfig()))
        before.merge_with(given)
        given = before
    import_files(map(str, given.get("imports") or ()))
    found = {role: _resolved(role, given, trust) for role in ("teacher", "verifier", "student")}
    source = found["teacher"] or resolve(EMBEDDED)
    further = _further(given, trust)
    refuse_idle_trust(trust, *found.values(), *further)
    teacher = classifier_of(source)
    classes = choose_classes(str(given.get("select", "all")), teacher)
    open_choices = given.copy()
    if is_chosen:  # the iterations and groups that these stand for are in the file
        open_choices.fast, open_choices.images_per_batch = False, None
    count = len(given.get("classes") or classes or range(teacher.num_classes))
    recipe, notes = recipe_for(open_choices, teacher, count, source.saw_mirrored)
    with _as_typed():
        config = complete(SynthesizeConfig, recipe, given)
        check_channels(teacher.name, len(teacher.mean), config.image_format)
    named = dataclasses.replace(config.teacher, name=teacher.name)
    config = dataclasses.replace(config, teacher=named)
    synthesis = _library_part(config, classes)
    with _as_typed():
        groups = plan_groups(synthesis, teacher.num_classes)
        chains_of(synthesis, batches_of(groups, synthesis.groups_per_batch), world)
    verifier, student = (
        None if one is None else classifier_of(one) for one in (found["verifier"], found["student"])
    )
    others = tuple(map(classifier_of, further))
    roles = [("teacher", other) for other in others]
    for role, network in (*roles, ("verifier", verifier), ("student", student)):
        _check_same_classes(role, network, teacher)
    _refuse_twins((teacher, *others))
    with _as_typed():
        if not stored:
            refuse_idle(synthesis)
            _refuse_idle_choices(path, given)
            refuse_idle_allowance(config.allow_no_bn, (teacher, *others))
        objective = Objective(
            teacher,
            config.objective,
            allow_no_bn=config.allow_no_bn,
            student=student,
            others=others,
        )
    if not is_chosen and not objective.recorders:
        _refuse_idle_bn(given, teacher)
    for size in config.resolutions:
        for one in (teacher, *others):
            one.check_last_layer(size_for(one, teacher, size))
        _check_size(student, size)
    return Setup(config, synthesis, groups, teacher, verifier, student, tuple(notes), others)


def _is_of_a_set(path: Path) -> bool:
    """Whether it is the file that a set keeps, with all settings, and not one of a user's."""
    return path.name == CONFIG_FILE and path.with_name(SETTINGS_FILE).is_file()


def _refuse_idle_choices(path: Path | None, given: DictConfig) -> None:
    """Refuses what chooses other settings beside the file of a set, which has them all."""
    if path is None or not _is_of_a_set(path):
        return
    own = user_tree(SynthesizeConfig, path, [], {})
    for name in ("recipe", "fast", "images_per_batch"):
        if given.get(name) and given.get(name) != own.get(name):
            raise UserError(
                f"{name}={given[name]} has no effect beside {path}, which has all settings of a "
                "set; leave one of the two out"
            )


def set_teacher(file: Path, trust: bool = False) -> Resolved:
    """The (first) teacher that a set's configuration names, for :func:`classifier_of`.

    The Python files that it imports, which may be a stranger's, are run by ``trust`` alone.

    Raises:
        UserError: If it can't be found.
        FileNotFoundError: If a path does not exist.
    """
    given = user_tree(SynthesizeConfig, file, (), None)
    imports = [str(entry) for entry in given.get("imports") or ()]
    if trust:
        import_files(imports)
    try:
        found = _resolved("teacher", given, trust) or resolve(EMBEDDED)
    except UserError as error:
        if trust or not imports:
            raise
        raise UserError(
            f"{error}; {file} imports {', '.join(imports)}: pass --import FILE, or --trust to run "
            "that if you know where it comes from"
        ) from error
    return dataclasses.replace(found, used_trust=found.used_trust or (trust and bool(imports)))


@contextmanager
def _as_typed() -> Iterator[None]:
    """Errors raised inside are raised again with settings named as they are typed: ``--res``."""
    try:
        yield
    except (SynthError, UserError) as error:
        text = re.sub(r"=\[([\d, ]+)\]", lambda found: "=" + found[1].replace(" ", ""), str(error))
        for name, option in OPTIONS.items():
            text = re.sub(rf"(?<![\w.]){name}=", f"{option} ", text)
            text = re.sub(rf"(?<![\w.-]){name}\b", option, text)
        text = re.sub(r"(?<![\w.])((?:[a-z]+\.)?[a-z_]+=\d+)", r"--set \1", text)
        raise UserError(text) from error


def _library_part(config: SynthesizeConfig, classes: tuple[int, ...] | None) -> SynthesisConfig:
    """The settings that ``synth`` takes, with the selected classes as indices."""
    values = {f.name: getattr(config, f.name) for f in dataclasses.fields(SynthesisConfig)}
    return SynthesisConfig(**values | ({} if classes is None else {"classes": classes}))


def _resolved(role: str, given: DictConfig, trust: bool) -> Resolved | None:
    """The network that the configuration names for a role; None if it names none."""
    name = OmegaConf.select(given, f"{role}.name")
    weights = OmegaConf.select(given, f"{role}.weights")
    if name is None and weights is not None:
        option = WEIGHTS_OPTIONS[role].replace("FILE", weights)
        raise UserError(f"{option} needs --{role}, the model they are for")
    if name is None:
        return None
    return resolve(str(name), role, weights=Path(str(weights)) if weights else None, trust=trust)


def _further(given: DictConfig, trust: bool) -> list[Resolved]:
    """The teachers after the first."""
    further = given.get("other_teachers") or []
    if further and OmegaConf.select(given, "teacher.name") is None:
        raise UserError("other_teachers needs teacher.name, the teacher that they are beside")
    if any(not one.get("name") for one in further):
        raise UserError("every entry of other_teachers needs a name, as {name: runs/cnn}")
    return [
        resolve(
            str(one.name),
            "teacher",
            weights=Path(str(one.weights)) if one.get("weights") else None,
            trust=trust,
        )
        for one in further
    ]


def _refuse_idle_bn(given: DictConfig, teacher: Classifier) -> None:
    """Refuses settings of R_BN that are given where no teacher has what it is about."""
    for name in ("bn_weight", "bn_relative", "bn_first_multiplier"):
        if OmegaConf.select(given, f"objective.{name}"):
            raise UserError(
                f"objective.{name} has no effect: {teacher.name} has no BatchNorm2d; leave it out"
            )


def _refuse_twins(teachers: Sequence[Classifier]) -> None:
    """Refuses a teacher that is named twice: its say would only count double."""
    hashes = [one.weights_hash() for one in teachers] if len(teachers) > 1 else []
    for place, found in enumerate(hashes):
        if found in hashes[:place]:
            twin = teachers[hashes.index(found)].name
            raise UserError(
                f"teachers {twin} and {teachers[place].name} are the same network; name it once"
            )


def classifier_of(found: Resolved) -> Classifier:
    """Opens a network in the form that ``synth`` takes."""
    trained = open_trained(found, any_channels=True)
    return Classifier(
        name=found.text,
        network=trained.network,
        mean=tuple(trained.view["mean"]),
        std=tuple(trained.view["std"]),
        img_size=trained.img_size,
        num_classes=trained.num_classes,
        class_names=trained.class_names,
    )


def _check_same_classes(role: str, network: Classifier | None, teacher: Classifier) -> None:
    """Refuses a verifier, student or further teacher of other classes or image channels.

    Grey images are shown in every channel of a network that takes colours.
    """
    if network is None:
        return
    first = f"teacher {teacher.name}" if role == "teacher" else "the teacher"
    if network.num_classes != teacher.num_classes:
        raise UserError(
            f"{role} {network.name} has {network.num_classes} classes, {first} "
            f"{teacher.num_classes}; it must know the same ones"
        )
    if len(teacher.mean) > 1 and len(network.mean) != len(teacher.mean):
        raise UserError(
            f"{role} {network.name} takes images of {counted(len(network.mean), 'channel')}, "
            f"{first} {len(teacher.mean)}; name one that takes as many"
        )
    ours, theirs = teacher.class_names, network.class_names
    if ours and theirs and ours != theirs:
        index = next(i for i, pair in enumerate(zip(ours, theirs, strict=True)) if len({*pair}) > 1)
        raise UserError(
            f"{role} {network.name} calls class {index} {theirs[index]!r}, {first} "
            f"{ours[index]!r}; it must know the same ones in the same order"
        )


@torch.no_grad()
def _check_size(student: Classifier | None, size: int) -> None:
    """Refuses a student that can't take images of ``size`` pixels a side."""
    if student is None:
        return
    try:
        student.network(torch.zeros(1, len(student.mean), size, size))
    except (RuntimeError, AssertionError) as error:
        raise UserError(
            f"student {student.name} cannot take {size}-pixel images; choose --res it can take, or "
            "another student"
        ) from error

"""From a synthesis configuration to what it names: teacher, verifier, student, classes.

What the user leaves open is chosen for the teacher: its own input size, the paper's iterations and
weights; for the embedded digits teacher a small run with weights tried on it.
"""

import dataclasses
import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import torch
from omegaconf import DictConfig, OmegaConf

from dearkd.build import EMBEDDED_TEACHER, LARGE, import_files
from dearkd.config_file import complete, user_tree
from dearkd.models.pretrained import load_classifier
from dearkd.synthesis.class_selection import choose_classes
from synth.classifier import Classifier
from synth.config import SynthesisConfig
from synth.groups import Group, plan_groups
from synth.objective import Objective

__all__ = ["EMBEDDED", "NetworkConfig", "Setup", "SynthesizeConfig", "prepare"]

EMBEDDED = "digits"
"""Name of the embedded teacher."""
PAPER_ITERATIONS = 2000
COMPETE_WEIGHT = 0.2
"""The public code's weight of R_c, taken when a student is named."""
SLOW_LOG_INTERVAL = 10
"""Iterations between two signs of life where one takes seconds: large images on a CPU."""
BALANCED_WEIGHTS: dict[str, Any] = {"bn_relative": True, "bn_weight": 1.0, "ep_weight": 1.0}
BALANCED_LARGE: dict[str, Any] = {"tv_weight": 0.05}
BALANCED_SMALL: dict[str, Any] = {"tv_weight": 0.1, "bn_first_multiplier": 5.0}
"""Tried on EfficientNet-Lite0 (large), on a CIFAR-10 and the digits CNN (small): RESULTS.md."""
BALANCED_LR = 0.05
"""Over the teacher's std: what 0.22 is in ImageNet's normalisation, 0.1 where std is 0.5."""
OPTIONS = {
    "resolutions": "--res",
    "iterations": "--iters",
    "per_class": "--per-class",
    "allow_no_bn": "--allow-no-bn",
}
"""Settings of the library that have an option of their own."""
DIGITS_ITERATIONS = 500
DIGITS_PER_CLASS = (4, 100)
DIGITS_WORK = 4e8
"""Pixels times iterations: at a microsecond each on one core it stays under ten minutes."""


@dataclass(frozen=True, kw_only=True)
class NetworkConfig:
    """A trained classifier."""

    name: str | None = None
    """timm name, run folder, or ``digits`` (embedded)."""
    weights: str | None = None
    """Local weights for a timm name: safetensors, or a ``.pth`` state dict."""


@dataclass(frozen=True, kw_only=True)
class SynthesizeConfig(SynthesisConfig):
    """One run of ``dearkd synthesize``: the library's settings and what they are applied to."""

    teacher: NetworkConfig = field(default_factory=NetworkConfig)
    """The network that is turned into images; none: the embedded digits CNN."""
    verifier: NetworkConfig = field(default_factory=NetworkConfig)
    """Another network trained on the same classes, to judge the images; none: no judge."""
    student: NetworkConfig = field(default_factory=NetworkConfig)
    """Competes with the teacher (Adaptive DeepInversion); none: no competition."""
    recipe: Literal["paper", "balanced"] | None = None
    """Weights of the objective, and lr, where none are given. ``paper``: DF-DearKD's, for ImageNet.
    ``balanced`` (ours): R_BN in units of each layer's stored statistics, the other terms to match.
    None: the paper's, but balanced for the embedded digits."""
    select: str = "all"
    """Classes as text: ``all``, ``0-99``, ``3,5-7``, or a file with a class name a line."""
    images_per_batch: int | None = None
    """At most so many images side by side; chooses images and classes a group, groups a batch."""
    out: str | None = None
    """Folder of the set. None: a fresh one under ``runs/``."""
    imports: tuple[str, ...] = ()
    """Python files run first; they may register models with timm."""

    def __post_init__(self) -> None:
        """Check the ranges."""
        super().__post_init__()
        object.__setattr__(self, "imports", tuple(self.imports))
        if self.classes is not None and self.select != "all":
            raise ValueError(f"classes and select={self.select} name classes twice; leave one out")
        batch = self.images_per_class * self.classes_per_group * self.groups_per_batch
        if self.images_per_batch is not None and batch > self.images_per_batch:
            raise ValueError(
                f"images_per_batch {self.images_per_batch} is less than {batch}, images_per_class "
                "x classes_per_group x groups_per_batch; leave one of them out"
            )


@dataclass(frozen=True)
class Setup:
    """What a run is made of; ``config`` has no open choice left."""

    config: SynthesizeConfig
    synthesis: SynthesisConfig
    """The library's part, with the classes as indices."""
    groups: tuple[Group, ...]
    teacher: Classifier
    verifier: Classifier | None
    student: Classifier | None
    notes: tuple[str, ...]
    """Choices made for the user, to be said aloud."""


def prepare(
    path: Path | None, settings: Sequence[str], options: dict[str, Any] | None = None
) -> Setup:
    """Reads the configuration, loads the networks and checks that all of it fits together.

    Raises:
        ValueError: A key, name, class or setting is unknown or out of range, or does not fit.
        FileNotFoundError: A path does not exist.
    """
    given = user_tree(SynthesizeConfig, path, settings, options)
    import_files(given.get("imports") or ())
    teacher = _network("teacher", given) or _embedded(given)
    classes = choose_classes(given.get("select") or "all", teacher)
    recipe, notes = _recipe(given, teacher, len(classes or range(teacher.num_classes)))
    with _as_typed():
        config = complete(SynthesizeConfig, recipe, given)
    named = dataclasses.replace(config.teacher, name=teacher.name)
    config = dataclasses.replace(config, teacher=named)
    synthesis = _library_part(config, classes)
    with _as_typed():
        groups = plan_groups(synthesis, teacher.num_classes)
    verifier, student = _network("verifier", given), _network("student", given)
    for role, network in (("verifier", verifier), ("student", student)):
        _check_same_classes(role, network, teacher)
    with _as_typed():
        Objective(teacher, config.objective, allow_no_bn=config.allow_no_bn, student=student)
    for size in config.resolutions:
        teacher.check_last_layer(size)
        _check_size(student, size)
    return Setup(config, synthesis, groups, teacher, verifier, student, tuple(notes))


@contextmanager
def _as_typed() -> Iterator[None]:
    """The library's mistakes with its settings named as they are typed at the door."""
    try:
        yield
    except ValueError as error:
        text = re.sub(r"=\[([\d, ]+)\]", lambda found: "=" + found[1].replace(" ", ""), str(error))
        for name, option in OPTIONS.items():
            text = re.sub(rf"(?<![\w.]){name}=", f"{option} ", text)
            text = re.sub(rf"(?<![\w.]){name}\b", option, text)
        text = re.sub(r"\b((?:objective\.)?[a-z_]+=\d+)", r"--set \1", text)
        raise ValueError(text) from error


def _recipe(
    given: DictConfig, teacher: Classifier, classes: int
) -> tuple[dict[str, Any], list[str]]:
    """What is chosen for the user, to be laid under what is given, and what to say about it."""
    size = teacher.img_size
    own = [size // 2, size] if size >= LARGE else [size]
    resolutions = given.get("resolutions") or own
    recipe: dict[str, Any] = {
        "resolutions": own,
        "iterations": [PAPER_ITERATIONS] * len(resolutions),
        "objective": {},
    }
    if max(resolutions) >= LARGE and not torch.cuda.is_available():
        recipe["log_interval"] = SLOW_LOG_INTERVAL
    if teacher.name == EMBEDDED:
        recipe |= _digits_recipe(given, resolutions, classes)
    if given.get("recipe") == "balanced" or (
        given.get("recipe") is None and teacher.name == EMBEDDED
    ):
        recipe |= _balanced(teacher, resolutions)
    if OmegaConf.select(given, "student.name") is not None:
        recipe["objective"]["compete_weight"] = COMPETE_WEIGHT
    if given.get("images_per_batch") is not None:
        recipe |= _grouping(given, classes)
    notes = [
        f"{key} {','.join(map(str, value)) if isinstance(value, list) else value}"
        for key, value in recipe.items()
        if key not in ("objective", "log_interval") and given.get(key) is None
    ]
    if OmegaConf.select(given, "teacher.name") is None:
        notes.insert(0, "teacher: the embedded digits CNN (--teacher names yours)")
    weights = {k: v for k, v in recipe["objective"].items() if k not in given.get("objective", {})}
    return recipe, notes + [f"objective.{key} {value}" for key, value in weights.items()]


def _digits_recipe(given: DictConfig, resolutions: Sequence[int], classes: int) -> dict[str, Any]:
    """As many images, then iterations, as ten minutes on two cores have room for."""
    area = classes * sum(size**2 for size in resolutions)
    low, high = DIGITS_PER_CLASS
    room = int(DIGITS_WORK / max(1, area * DIGITS_ITERATIONS))
    per_class = given.get("per_class") or min(high, max(low, room))
    longest = int(DIGITS_WORK / max(1, area * per_class)) // 10 * 10
    return {
        "iterations": [min(DIGITS_ITERATIONS, max(20, longest))] * len(resolutions),
        "per_class": per_class,
        "flip_probability": 0.0,  # a mirrored digit is another one, or none
    }


def _balanced(teacher: Classifier, resolutions: Sequence[int]) -> dict[str, Any]:
    """Weights that serve teachers of any kind better than the paper's, and a rate to match.

    Departure:
        The paper has one set of weights, for an ImageNet ResNet.
    """
    by_size = BALANCED_LARGE if max(resolutions) >= LARGE else BALANCED_SMALL
    return {
        "recipe": "balanced",
        "lr": round(BALANCED_LR * len(teacher.std) / sum(teacher.std), 3),
        "objective": BALANCED_WEIGHTS | by_size,
    }


def _grouping(given: DictConfig, classes: int) -> dict[str, int]:
    """Images a class, classes a group and groups a batch that fit into ``images_per_batch``."""
    room = given.images_per_batch
    if room < 4:
        raise ValueError(f"images_per_batch must be at least 4, 2 images of 2 classes, got {room}")
    default = SynthesisConfig()
    images = given.get("images_per_class") or min(default.images_per_class, room // 2)
    count = given.get("classes_per_group") or min(
        default.classes_per_group, classes, room // images
    )
    return {
        "images_per_class": images,
        "classes_per_group": max(1, count),
        "groups_per_batch": max(1, room // (images * max(1, count))),
    }


def _library_part(config: SynthesizeConfig, classes: tuple[int, ...] | None) -> SynthesisConfig:
    values = {f.name: getattr(config, f.name) for f in dataclasses.fields(SynthesisConfig)}
    return SynthesisConfig(**values | ({} if classes is None else {"classes": classes}))


def _embedded(given: DictConfig) -> Classifier:
    weights = OmegaConf.select(given, "teacher.weights")
    if weights is not None:
        raise ValueError(f"--teacher-weights {weights} needs --teacher, the model they are for")
    return _classifier(EMBEDDED, str(EMBEDDED_TEACHER), None)


def _network(role: str, given: DictConfig) -> Classifier | None:
    """The network that plays a role, or None where none is named."""
    name = OmegaConf.select(given, f"{role}.name")
    weights = OmegaConf.select(given, f"{role}.weights")
    if name is None and weights is not None and role != "teacher":
        raise ValueError(f"{role}.weights {weights} need {role}.name, the model they are for")
    if name is None or (role == "teacher" and name == EMBEDDED):
        return None
    if name == EMBEDDED and weights is None:
        return _classifier(EMBEDDED, str(EMBEDDED_TEACHER), None)
    try:
        return _classifier(name, name, Path(weights) if weights else None)
    except ValueError as error:
        text = str(error).replace("--teacher-", f"--{role}-")
        raise ValueError(re.sub(r"\bteacher(?= ')", role, text)) from error


def _classifier(name: str, source: str, weights: Path | None) -> Classifier:
    loaded, names = load_classifier(source, weights=weights)
    network: Any = loaded
    cfg = network.pretrained_cfg
    return Classifier(
        name=name,
        network=network,
        mean=tuple(cfg["mean"]),
        std=tuple(cfg["std"]),
        img_size=cfg["input_size"][-1],
        num_classes=network.num_classes,
        class_names=names,
    )


def _check_same_classes(role: str, network: Classifier | None, teacher: Classifier) -> None:
    if network is None:
        return
    if network.num_classes != teacher.num_classes:
        raise ValueError(
            f"{role} {network.name} has {network.num_classes} classes, the teacher "
            f"{teacher.num_classes}; it must know the same ones"
        )
    ours, theirs = teacher.class_names, network.class_names
    if ours and theirs and ours != theirs:
        index = next(i for i, pair in enumerate(zip(ours, theirs, strict=True)) if len({*pair}) > 1)
        raise ValueError(
            f"{role} {network.name} calls class {index} {theirs[index]!r}, the teacher "
            f"{ours[index]!r}; it must know the same ones in the same order"
        )


@torch.no_grad()
def _check_size(student: Classifier | None, size: int) -> None:
    if student is None:
        return
    try:
        student.network(torch.zeros(1, len(student.mean), size, size))
    except (RuntimeError, AssertionError) as error:
        raise ValueError(
            f"student {student.name} cannot take {size}-pixel images; choose --res it can take, or "
            "another student"
        ) from error

"""From a configuration to the things it names: data, teacher, student, stages.

Everything a user can get wrong is met here, before the first step.
"""

import dataclasses
import importlib.util
import sys
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import timm
import torch
from torch import nn

import dearkd
from dearkd.checkpoint import load_weights, read_metadata
from dearkd.config import TrainConfig
from dearkd.data import Classes, ImageSource, match_classes, open_data, subset
from dearkd.models.pretrained import check_name, teacher_class_names
from dearkd.models.teacher import Teacher, load_teacher
from dearkd.models.vit import initialise_from
from dearkd.objectives import CrossEntropy, DearKD, HardDistillation, SoftDistillation
from dearkd.runs import RunFolder
from dearkd.train import Stage

__all__ = [
    "Parts",
    "build",
    "create_model",
    "import_files",
    "is_convolutional",
    "load_run_model",
    "model_metadata",
]

EMBEDDED_TEACHER = Path(dearkd.__file__).parent / "assets" / "digits_resnet10t.safetensors"
SMALL = 64
"""Pixels a side up to which the 32-px students and models are the default."""
LARGE = 96
"""Pixels a side from which DeiT's recipe is the default."""
DIGITS_SIZE = 16
"""Twice the digits' own 8 pixels: 4 x 4 patches of 4."""


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
    _check_method(config)
    source, evaluation = open_data(config.data.train, config.data.evaluation)
    full_size = len(source)
    source = subset(source, config.data.fraction, config.seed)
    config, notes = _with_models(config, source)
    student_cfg = _pretrained_cfg(config.student)
    teacher = _teacher(config, source, student_cfg)
    class_map, class_names, count = _student_classes(source, teacher)
    config = _with_recipe(config)
    student = _student(config, count, class_names)
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
        notes=tuple(notes),
    )


def import_files(files: Iterable[str]) -> None:
    """Runs the user's Python files, which may register models with timm.

    Raises:
        FileNotFoundError: If one does not exist.
        ImportError: If one fails.
    """
    for file in files:
        if not Path(file).is_file():
            raise FileNotFoundError(f"--import {file} does not exist")
        spec = importlib.util.spec_from_file_location(Path(file).stem, file)
        assert spec is not None
        assert spec.loader is not None
        module = importlib.util.module_from_spec(spec)
        sys.modules[spec.name] = module  # timm's register_model looks the module up
        try:
            spec.loader.exec_module(module)
        except Exception as error:
            raise ImportError(f"--import {file} failed: {type(error).__name__}: {error}") from error


def create_model(name: str, role: str, **kwargs: Any) -> Any:
    """A timm model by name.

    Raises:
        ValueError: If timm has no such model, or it does not take the given size.
    """
    check_name(name, role)
    try:
        return timm.create_model(name, **{k: v for k, v in kwargs.items() if v is not None})
    except (AssertionError, TypeError, RuntimeError) as error:
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise ValueError(f"{role} {name!r} cannot be built with {kwargs}: {reason}") from error


def is_convolutional(model: nn.Module) -> bool:
    """Whether a model takes images of any size, as a CNN does."""
    cfg: Any = model.pretrained_cfg
    return not cfg.get("fixed_input_size")


def load_run_model(folder: RunFolder, which: str = "final") -> tuple[Any, dict[str, Any]]:
    """The trained model of a run folder and its metadata (architecture, classes, sizes).

    ``which``: ``final``, ``best``, or ``raw`` (the last weights without averaging).

    Raises:
        ValueError: If the folder has no such weights.
    """
    file = folder.best_file if which == "best" else folder.model_file
    if which not in ("final", "best", "raw"):
        raise ValueError(f"weights must be final, best or raw, got {which!r}")
    if not file.is_file():
        raise ValueError(
            f"{folder.path} has no {file.relative_to(folder.path)}; is the run complete?"
        )
    metadata = read_metadata(file)
    if "arch" not in metadata:
        raise ValueError(f"{file} was not written by dearkd; use --weights with a timm name")
    import_files(folder.read_config().imports if folder.config_file.exists() else ())
    model = create_model(
        metadata["arch"], "model", num_classes=metadata["num_classes"], **_size(metadata)
    )
    weights = folder.raw_student() if which == "raw" else load_weights(file)
    model.load_state_dict(weights)
    return model, metadata


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


def _check_method(config: TrainConfig) -> None:
    """Refuses settings that would have no effect."""
    if config.method == "ce" and (config.teacher.name or config.teacher.weights):
        raise ValueError(
            f"method ce has no teacher, but {config.teacher.name or config.teacher.weights!r} was "
            "given; leave it out or choose --method dearkd, deit-hard or deit-soft"
        )
    if config.method != "dearkd" and config.distill.pairs:
        raise ValueError(f"distill.pairs is for method dearkd; leave it out with {config.method}")
    if config.distill.token == "class" and config.method != "deit-hard":
        raise ValueError(f"distill.token=class is for method deit-hard, not {config.method}")
    if config.data.keep_steps and config.data.fraction == 1:
        raise ValueError("data.keep_steps has no effect with data.fraction=1; leave one out")


def _with_models(config: TrainConfig, source: ImageSource) -> tuple[TrainConfig, list[str]]:
    """Chooses image size, student and teacher where the user named none."""
    notes = []
    digits = config.data.train == "digits"
    size, student, teacher = config.data.img_size, config.student, config.teacher
    if student is None and config.init is not None:
        student = _init_arch(config.init)
    if size is None:
        size = DIGITS_SIZE if digits else _model_size(student) if student else _data_size(source)
        notes.append(f"image size {size}")
    if student is None:
        student = "dearkd_micro_patch4_32" if size <= SMALL else "dearkd_tiny_patch16_224"
        notes.append(f"student {student}")
    check_name(student, "student")
    if digits:
        notes.append("data: scikit-learn's handwritten digits (--data names yours)")
    if config.method != "ce" and teacher.name is None:
        if not digits:
            raise ValueError(
                f"method {config.method} needs a teacher for {config.data.train}: --teacher NAME "
                "(a timm CNN or the folder of a `dearkd teacher` run), or --method ce"
            )
        teacher = dataclasses.replace(teacher, name="digits")
        notes.append("teacher: the embedded digits CNN (--teacher names yours)")
    data = dataclasses.replace(config.data, img_size=size)
    return dataclasses.replace(config, student=student, teacher=teacher, data=data), notes


def _with_recipe(config: TrainConfig) -> TrainConfig:
    """Fills in what is left open by image size: DeiT's recipe from 96 px, a light one below."""
    data, optim = config.data, config.optim
    assert data.img_size is not None
    assert config.student is not None
    large = data.img_size >= LARGE
    augment = data.augment
    if augment == "auto":
        augment = "digits" if data.train == "digits" else "deit" if large else "light"
    deit = augment == "deit"
    batch = data.batch_size or (1024 if large else 32 if augment == "digits" else 128)
    default_warmup = 5.0 if config.epochs >= 50 else config.epochs / 10
    data = dataclasses.replace(
        data,
        augment=augment,
        batch_size=batch,
        mixup=_default(data.mixup, 0.8 if deit else 0.0),
        cutmix=_default(data.cutmix, 1.0 if deit else 0.0),
        repeats=_default(data.repeats, 3 if deit else 1),
    )
    optim = dataclasses.replace(
        optim,
        lr=_default(optim.lr, 5e-4 * batch / 512 if large else 1e-3),
        warmup_epochs=_default(optim.warmup_epochs, default_warmup),
        drop_path=_default(optim.drop_path, 0.1 if large else 0.0),
    )
    return dataclasses.replace(config, data=data, optim=optim)


def _teacher(
    config: TrainConfig, source: ImageSource, student_cfg: dict[str, Any]
) -> Teacher | None:
    """The frozen teacher, with one tap for each aligned pair."""
    if config.method == "ce":
        return None
    name, weights = config.teacher.name, config.teacher.weights
    assert name is not None
    if name == "digits":
        if weights is not None:
            raise ValueError(f"--teacher-weights {weights} needs --teacher, the model they are for")
        name = str(EMBEDDED_TEACHER)
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


def _student(
    config: TrainConfig, num_classes: int, class_names: tuple[str, ...] | None
) -> nn.Module:
    """The student with its initial weights: from the seed, or from ``init``."""
    assert config.student is not None
    torch.manual_seed(config.seed)
    kwargs = {
        "num_classes": num_classes,
        "drop_path_rate": config.optim.drop_path or None,
        **_size({"arch": config.student, "img_size": config.data.img_size}),
    }
    if config.init is None:
        return create_model(config.student, "student", **kwargs)
    return _initialised(config, kwargs, class_names)


def _initialised(
    config: TrainConfig, kwargs: dict[str, Any], class_names: tuple[str, ...] | None
) -> nn.Module:
    """The student with another model's weights; its head is new where the classes differ."""
    assert config.init is not None
    assert config.student is not None
    student = create_model(config.student, "student", **kwargs)
    source, source_names = _init_source(config.init)
    same = source.num_classes == student.num_classes and (
        source_names is None or class_names is None or source_names == class_names
    )
    if not same:
        source.reset_classifier(student.num_classes)
    if hasattr(student, "dist_token") and hasattr(source, "dist_token"):
        initialise_from(student, source)
        return student
    if hasattr(source, "set_input_size") and "img_size" in kwargs:
        source.set_input_size(img_size=kwargs["img_size"])
    try:
        student.load_state_dict(source.state_dict())
    except RuntimeError as error:
        first = str(error).splitlines()[1].strip()
        raise ValueError(
            f"--init {config.init} does not fit student {config.student} ({first[:200]}); "
            "leave --student out to keep the same architecture"
        ) from error
    return student


def _init_source(init: str) -> tuple[Any, tuple[str, ...] | None]:
    """The model to start from and its class names."""
    if Path(init).is_dir():
        model, metadata = load_run_model(RunFolder(Path(init)))
        names = metadata["class_names"]
        return model, tuple(names) if names else None
    check_name(init, "--init")
    try:
        model = timm.create_model(init, pretrained=True)
    except Exception as error:  # the hub client raises many kinds
        raise ValueError(
            f"--init {init}: its weights cannot be fetched ({type(error).__name__}: "
            f"{str(error).splitlines()[0][:120]}); pass a run folder instead"
        ) from error
    return model, teacher_class_names(model)


def _init_arch(init: str) -> str:
    """The architecture that ``--init`` names."""
    if not Path(init).is_dir():
        return init
    file = RunFolder(Path(init)).model_file
    if not file.is_file():
        raise ValueError(f"--init {init} has no model.safetensors; is that run complete?")
    return read_metadata(file)["arch"]


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


def _default(value: Any, otherwise: Any) -> Any:
    return otherwise if value is None else value


def _pretrained_cfg(name: str | None) -> dict[str, Any]:
    assert name is not None
    cfg: Any = timm.get_pretrained_cfg(name)
    if cfg is None:
        raise ValueError(
            f"model {name!r} is registered without a default_cfg; give it input_size, mean and std "
            "(README, your own models)"
        )
    return cfg.to_dict()


def _model_size(name: str) -> int:
    check_name(name, "student")
    return _pretrained_cfg(name)["input_size"][-1]


def _data_size(source: ImageSource) -> int:
    """32 for small images, 224 for others: the two sizes that have a student."""
    return 32 if max(source.image(0).size) <= SMALL else 224


def _size(metadata: dict[str, Any]) -> dict[str, int]:
    """``img_size`` for models that are built for one; a CNN takes any."""
    fixed = _pretrained_cfg(metadata["arch"]).get("fixed_input_size")
    return {"img_size": metadata["img_size"]} if fixed else {}

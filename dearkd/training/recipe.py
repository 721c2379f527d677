"""What the user left open: image size, student, teacher, views and step sizes; and what can't be.

The recipe is DeiT's from 96 px up and a lighter one below. Whatever is chosen here is written into
the resolved configuration.
"""

import dataclasses
import importlib.util
import math
import os
import shutil
from typing import Any

import torch

from dearkd.config import DataConfig, DistillConfig, TeacherConfig, TrainConfig
from dearkd.data.datasets import ImageSource
from dearkd.data.decode import BadImageError
from dearkd.data.synthetic_set import read_set
from dearkd.models.create import check_name, model_cfg
from dearkd.models.teacher import SMALL
from dearkd.run_folder.files import read_metadata
from dearkd.trained.open import EMBEDDED, run_file
from dearkd.training.initialise import init_arch

__all__ = ["LARGE", "check_settings", "with_models", "with_recipe"]

LARGE = 96
"""Pixels a side from which DeiT's recipe is the default."""
DIGITS_SIZE = 16
"""Twice the digits' own 8 pixels: 4 x 4 patches of 4."""
MIRRORING = ("deit", "light")
"""Augmentations that mirror views unless told not to."""
FIRST_IMAGES = 8
"""Images tried for one that can be read, to learn the size of the data."""


def check_settings(config: TrainConfig) -> None:
    """Refuses settings that would have no effect, or need what is not installed.

    Raises:
        ValueError: Naming the setting.
    """
    method = config.method
    if method == "ce" and (config.teacher.name or config.teacher.weights):
        raise ValueError(
            f"method ce has no teacher, but {config.teacher.name or config.teacher.weights!r} was "
            "given; leave it out or choose --method dearkd, deit-hard or deit-soft"
        )
    if config.teacher.name is None and config.teacher.weights is not None:
        raise ValueError(
            f"--teacher-weights {config.teacher.weights} needs --teacher, the model they are for"
        )
    for key, methods in _settings_of_methods(config).items():
        if method not in methods:
            raise ValueError(
                f"{key} is for method {', '.join(methods)} and has no effect with {method}; "
                "leave it out"
            )
    if config.data.keep_steps and config.data.fraction == 1:
        raise ValueError("data.keep_steps has no effect with data.fraction=1; leave one out")
    for tracker in config.trackers:
        if importlib.util.find_spec(tracker) is None:
            raise ValueError(
                f"trackers has {tracker}, which is not installed; pip install {tracker}, "
                "or leave it out of trackers"
            )
    _check_compiler(config)


def with_models(config: TrainConfig, source: ImageSource) -> tuple[TrainConfig, list[str]]:
    """Chooses image size, student and teacher where the user named none; and says so in notes."""
    notes = []
    digits = config.data.train == "digits"
    size, student, teacher = config.data.img_size, config.student, config.teacher
    wants_cnn = student == "cnn"
    if student in (None, "cnn"):
        student = None if config.init is None else init_arch(config.init)
    if student is not None:
        check_name(student, "student")
    if size is None:
        trained = None if config.method == "ce" else _teacher_size(teacher.name)
        size = _own_size(student, trained, source, digits)
        notes.append(f"image size {size}{', as the teacher' if size == trained else ''}")
    if student is None:
        student = _small_cnn(size, digits) if wants_cnn else _transformer(size)
        notes.append(f"{'model' if wants_cnn else 'student'} {student}")
    if digits:
        notes.append("data: scikit-learn's handwritten digits (--data names yours)")
    if config.method != "ce" and teacher.name is None:
        if not digits:
            raise ValueError(
                f"method {config.method} needs a teacher for {config.data.train}: --teacher NAME "
                "(a timm CNN or the folder of a `dearkd teacher` run), or --method ce"
            )
        teacher = dataclasses.replace(teacher, name=EMBEDDED)
        notes.append("teacher: the embedded digits CNN (--teacher names yours)")
    data = dataclasses.replace(config.data, img_size=size)
    return dataclasses.replace(config, student=student, teacher=teacher, data=data), notes


def with_recipe(config: TrainConfig, images: int) -> tuple[TrainConfig, list[str]]:
    """Fills in what is left open by image size; ``images`` are the views of an epoch.

    Raises:
        ValueError: If views are to be mirrored by an augmentation that never does.
    """
    data, optim = config.data, config.optim
    assert data.img_size is not None
    assert config.student is not None
    large = data.img_size >= LARGE
    augment = data.augment
    if augment == "auto":
        augment = "digits" if data.train == "digits" else "deit" if large else "light"
    deit = augment == "deit"
    batch, notes = data.batch_size, []
    flip = _flip(data, augment)
    if augment in MIRRORING and not flip and data.flip is None:
        notes.append("no mirrored views, as none were made (--set data.flip=true has them)")
    if batch is None:
        wanted = 1024 if large else 32 if augment == "digits" else 128
        batch = _batch_within(wanted, images, data)
        if batch != wanted:
            notes.append(f"batch size {batch} (an epoch has {images} images)")
    transformer = model_cfg(config.student, "student").get("fixed_input_size")
    default_warmup = 5.0 if config.epochs >= 50 else config.epochs / 10
    data = dataclasses.replace(
        data,
        augment=augment,
        flip=flip,
        batch_size=batch,
        mixup=_default(data.mixup, 0.8 if deit else 0.0),
        cutmix=_default(data.cutmix, 1.0 if deit else 0.0),
        repeats=_default(data.repeats, 3 if deit else 1),
    )
    optim = dataclasses.replace(
        optim,
        lr=_default(optim.lr, 5e-4 * batch / 512 if large else 1e-3),
        warmup_epochs=_default(optim.warmup_epochs, default_warmup),
        drop_path=_default(optim.drop_path, 0.1 if large and transformer else 0.0),
    )
    return dataclasses.replace(config, data=data, optim=optim), notes


def _flip(data: DataConfig, augment: str) -> bool:
    """Whether views are mirrored."""
    if augment not in MIRRORING:
        if data.flip:
            raise ValueError(
                f"data.flip=true has no effect with data.augment={augment}, which never mirrors; "
                f"leave it out or choose data.augment={' or '.join(MIRRORING)}"
            )
        return False
    if data.flip is not None:
        return data.flip
    found = read_set(data.train)  # no mirrored views of images that never were in the making
    return found is None or found.mirrored is not False


def _settings_of_methods(config: TrainConfig) -> dict[str, tuple[str, ...]]:
    """Settings that differ from their defaults, and the methods that heed them."""
    distill, teacher = DistillConfig(), TeacherConfig()
    methods: dict[str, tuple[str, ...]] = {
        "distill.pairs": ("dearkd",),
        "distill.hidden_weight": ("dearkd",),
        "distill.temperature": ("deit-soft",),
        "distill.alpha": ("deit-soft",),
        "distill.token": ("deit-hard",),
        "teacher.precision": ("dearkd", "deit-hard", "deit-soft"),
        "teacher.memory_format": ("dearkd", "deit-hard", "deit-soft"),
    }
    defaults: dict[str, Any] = {"distill": distill, "teacher": teacher}
    changed = {}
    for key, allowed in methods.items():
        group, _, field = key.partition(".")
        if getattr(getattr(config, group), field) != getattr(defaults[group], field):
            changed[key] = allowed
    return changed


def _check_compiler(config: TrainConfig) -> None:
    compiler = os.environ.get("CXX", "g++")
    if config.compile and not torch.cuda.is_available() and shutil.which(compiler) is None:
        raise ValueError(
            f"compile=true needs a C++ compiler on a CPU and finds no {compiler}; install one, "
            "name it in CXX, or leave compile out"
        )


def _own_size(student: str | None, trained: int | None, source: ImageSource, digits: bool) -> int:
    """Pixels a side where the user gave none: what the student or else the teacher was made for."""
    if student and not digits:
        return model_cfg(student, "student")["input_size"][-1]
    if trained is not None:
        patch = 4 if trained <= SMALL else 16  # of the students taken by default
        return max(patch, trained // patch * patch)
    return DIGITS_SIZE if digits else _data_size(source)


def _teacher_size(teacher: str | None) -> int | None:
    """The size a teacher of our own was trained at: its run folder or weights file tells."""
    file = None if teacher in (None, EMBEDDED) else run_file(str(teacher))
    known = read_metadata(file) if file is not None and file.suffix == ".safetensors" else {}
    return known.get("img_size")


def _data_size(source: ImageSource) -> int:
    """32 for small images, 224 for others: the two sizes that have a student."""
    for index in range(min(FIRST_IMAGES, len(source))):
        try:
            return 32 if max(source.image(index).size) <= SMALL else 224
        except BadImageError as error:
            reason = error
    raise ValueError(
        f"none of the first {FIRST_IMAGES} images can be read ({reason}); repair the data, or name "
        "the size by --img-size"
    )


def _transformer(size: int) -> str:
    return "dearkd_micro_patch4_32" if size <= SMALL else "dearkd_tiny_patch16_224"


def _small_cnn(size: int, digits: bool) -> str:
    if size > SMALL:
        return "resnet18"
    return "dearkd_resnet10t_32" if digits else "dearkd_resnet10_32"


def _batch_within(wanted: int, images: int, data: DataConfig) -> int:
    """The default batch, or the largest that a smaller epoch has in even shares."""
    if wanted <= images:
        return wanted
    world = int(os.environ.get("WORLD_SIZE", "1"))
    unit = math.lcm(2, data.micro_batch or 2) * world
    return max(unit, images // unit * unit)


def _default(value: Any, otherwise: Any) -> Any:
    return otherwise if value is None else value

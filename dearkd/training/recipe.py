"""What is chosen where the user left it open: image size, student, teacher, views and step sizes.

The recipe is DeiT's for large images and a lighter one for small ones (`dearkd.data.sizes`).
Whatever is chosen here is written into the resolved configuration. It is completed twice: once
before the teacher is opened (``addressed``), once when data and networks are known (``filled_in``).
"""

import dataclasses
import math
import os
from typing import Any

from dearkd.config import TrainConfig
from dearkd.data.augment import AugmentName, crops_at_random
from dearkd.data.decode import BadImageError
from dearkd.data.feed import chosen_shuffle
from dearkd.data.order import WORTH_SAYING
from dearkd.data.settings import DIGITS, DataConfig
from dearkd.data.sizes import (
    DIGITS_SIZE,
    default_size,
    default_student,
    is_small,
    patch_size,
)
from dearkd.data.sources import ImageSource
from dearkd.data.synthetic_set import read_sets
from dearkd.errors import UserError
from dearkd.models.create import check_name, model_cfg
from dearkd.trained.resolve import EMBEDDED, Resolved
from dearkd.training.paths import with_rooted_paths
from dearkd.training.settings import DistillConfig

__all__ = ["addressed", "filled_in"]

MIRRORING = ("deit", "light", "crops")
"""Augmentations that mirror views unless told not to."""
MOMENTUM = {"sgd": 0.9, "muon": 0.95}
"""The default momentum of the optimizers that have one."""
RATES = {"muon": 2.0}
"""Default learning rate as a multiple of AdamW's, by optimizer: see scripts/results/LAB.md."""
DEIT_RATE, DEIT_BATCH = 5e-4, 512
"""DeiT's learning rate, and the batch that it is for."""
LEAST_STEPS, LEAST_BATCH = 10, 16
"""Where no batch size is given: the fewest steps of an epoch, and the batch size below which it may
have fewer."""
LARGER = 2
"""Times as large as a small student's view, from which on pictures without labels are cropped."""
FIRST_IMAGES = 8
"""Images tried for one that can be read, to learn the size of the data."""


def addressed(config: TrainConfig, needs_teacher: bool) -> tuple[TrainConfig, list[str]]:
    """The configuration with the teacher's name and absolute paths, and notes of what was chosen.

    The digits have a default teacher, the embedded one. Absolute paths let a run be judged and
    resumed from any folder. ``needs_teacher``: one takes part, and did not come from Python.

    Raises:
        UserError: If a teacher is needed and none is named.
    """
    notes = []
    if config.recipe == "best":
        stages = "two stages" if config.stage2 or config.stage1 == "auto" else "one stage"
        notes.append(
            f"recipe best: soft labels, features of three layers, {stages}, mixed views, Muon, but "
            "for what is given (--recipe paper has the paper's)"
        )
    elif _is_the_papers(config):
        notes.append("method as in the paper (--recipe best, ours, did better on CIFAR-10)")
    if needs_teacher and config.teacher.name is None:
        if config.data.train != DIGITS:
            raise UserError(
                f"method {config.method} needs a teacher for {config.data.train}: --teacher NAME "
                "(a timm CNN or the folder of a `dearkd teacher` run), or --method ce"
            )
        teacher = dataclasses.replace(config.teacher, name=EMBEDDED)
        config = dataclasses.replace(config, teacher=teacher)
        notes.append("teacher: the embedded digits CNN (--teacher names yours)")
    return with_rooted_paths(config), notes


def _is_the_papers(config: TrainConfig) -> bool:
    """Whether it is DearKD with nothing of it changed but its lengths."""
    untouched = config.distill == DistillConfig() and config.optim.name == "adamw"
    return config.method == "dearkd" and untouched and config.stage1 not in (0, "auto")


def filled_in(
    config: TrainConfig,
    source: ImageSource,
    whole: int,
    teacher_size: int | None,
    init: Resolved | None,
) -> tuple[TrainConfig, list[str]]:
    """The configuration with every choice made but the arithmetic, and notes of what was chosen.

    ``whole``: images of the data before ``data.fraction``. ``teacher_size``: pixels a side that
    the teacher was trained at, where that is known. ``init``: what the student starts from.

    Raises:
        UserError: If views are to be mirrored by an augmentation that never does, or made on the
            device by one that has nothing to do there.
    """
    config, notes = _with_models(config, source, teacher_size, init)
    config, told = _with_views(config, source)
    config, more = _with_recipe(config, whole if config.data.keep_steps else len(source))
    shuffle, why = chosen_shuffle(config.data, source)
    config = dataclasses.replace(config, data=dataclasses.replace(config.data, shuffle=shuffle))
    return config, notes + told + more + why


def _with_models(
    config: TrainConfig, source: ImageSource, teacher_size: int | None, init: Resolved | None
) -> tuple[TrainConfig, list[str]]:
    """Chooses image size and student where the user named none."""
    notes = []
    digits = config.data.train == DIGITS
    size, student, arguments = config.data.img_size, config.student, config.student_args
    wants_cnn, trained_at = student == "cnn", None
    if student in (None, "cnn"):
        student = None
        if init is not None:
            student, trained_at = init.architecture, init.img_size
            arguments = {**init.metadata.get("args", {}), **arguments}
    if student is not None:
        check_name(student, "model" if config.method == "ce" else "student")
    if size is None:
        size = trained_at or _own_size(student, teacher_size, source, digits)
        notes.append(f"image size {size}{', as the teacher' if size == teacher_size else ''}")
    if student is None:
        student = _small_cnn(size, digits) if wants_cnn else default_student(size)
        notes.append(f"{'model' if wants_cnn else 'student'} {student}")
    if digits:
        notes.append("data: scikit-learn's handwritten digits (--data names yours)")
    data = dataclasses.replace(config.data, img_size=size)
    config = dataclasses.replace(config, student=student, student_args=arguments, data=data)
    return config, notes


def _with_views(config: TrainConfig, source: ImageSource) -> tuple[TrainConfig, list[str]]:
    """Chooses the augmentation where it is left open.

    Departure:
        Of large pictures without labels a small student sees parts: the teacher says what each
        shows, and a few pictures have many (RESULTS.md, any pictures: 2.8 points).
    """
    data, notes = config.data, list[str]()
    if data.augment != "auto":
        return config, notes
    assert data.img_size is not None
    augment: AugmentName
    if data.train == DIGITS:
        augment = "digits"
    elif not is_small(data.img_size):
        augment = "deit"
    elif not source.classes.known and _is_large(source, LARGER * data.img_size):
        augment = "crops"
        notes.append("views: parts of the pictures (--set data.augment=light shows them whole)")
    else:
        augment = "light"
    return dataclasses.replace(config, data=dataclasses.replace(data, augment=augment)), notes


def _with_recipe(config: TrainConfig, images: int) -> tuple[TrainConfig, list[str]]:
    """Fills in what is left open by image size; ``images`` are the views of an epoch."""
    data, optim = config.data, config.optim
    assert data.img_size is not None
    assert config.student is not None
    large, augment = not is_small(data.img_size), data.augment
    deit = augment == "deit"
    batch, notes = data.batch_size, []
    flip = _flip(data, augment)
    if data.views == "device" and not crops_at_random(augment, data.img_size):
        raise UserError(
            f"data.views=device has no effect with data.augment={augment} at {data.img_size} px, "
            "whose views are made on the CPU at once; leave it out or choose data.augment=deit"
        )
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
        flip=flip,
        batch_size=batch,
        mixup=_default(data.mixup, 0.8 if deit else 0.0),
        cutmix=_default(data.cutmix, 1.0 if deit else 0.0),
        repeats=_default(data.repeats, 3 if deit else 1),
    )
    optim = dataclasses.replace(
        optim,
        lr=_default(optim.lr, (_rate(batch) if large else 1e-3) * RATES.get(optim.name, 1)),
        weight_decay=_default(optim.weight_decay, 5e-4 if optim.name == "sgd" else 0.05),
        momentum=_default(optim.momentum, MOMENTUM.get(optim.name)),
        warmup_epochs=_default(optim.warmup_epochs, default_warmup),
        drop_path=_default(optim.drop_path, 0.1 if large and transformer else 0.0),
    )
    return dataclasses.replace(config, data=data, optim=optim), notes


def _rate(batch: int) -> float:
    """AdamW's learning rate for large images.

    Source:
        From 512 images a batch on DeiT's rule, 5e-4 * batch / 512.

    Departure:
        Below, by the square root of the batch, as timm's train.py has it for Adam and its kin
        (Malladi et al. 2022, https://arxiv.org/abs/2205.10287). Few images make a small batch: at
        16, DeiT's rule gives 1.6e-5, next to the rate that the schedule ends with.
    """
    share = batch / DEIT_BATCH
    return DEIT_RATE * (share if share >= 1 else math.sqrt(share))


def _flip(data: DataConfig, augment: str) -> bool:
    """Whether views are mirrored."""
    if augment not in MIRRORING:
        if data.flip:
            raise UserError(
                f"data.flip=true has no effect with data.augment={augment}, which never mirrors; "
                f"leave it out or choose data.augment={' or '.join(MIRRORING)}"
            )
        return False
    if data.flip is not None:
        return data.flip
    # No mirrored views of images that never were in the making.
    return all(found.mirrored is not False for found in read_sets(data.train))


def _own_size(student: str | None, trained: int | None, source: ImageSource, digits: bool) -> int:
    """Pixels a side where the user gave none: what the student or else the teacher was made for."""
    if student and not digits:
        return model_cfg(student, "student")["input_size"][-1]
    if trained is not None:
        patch = patch_size(trained)
        return max(patch, trained // patch * patch)
    return DIGITS_SIZE if digits else default_size(_largest_side(source))


def _is_large(source: ImageSource, pixels: int) -> bool:
    """Whether the first image that can be read has a side of that many pixels."""
    try:
        return _largest_side(source) >= pixels
    except UserError:
        return False  # whatever is wrong with it is told where it is read


def _largest_side(source: ImageSource) -> int:
    """Pixels of the longer side of the first image that can be read.

    Raises:
        UserError: If none of the first few can.
    """
    for index in range(min(FIRST_IMAGES, len(source))):
        try:
            return max(source.image(index).size)
        except BadImageError as error:
            reason = error
    raise UserError(
        f"none of the first {FIRST_IMAGES} images can be read ({reason}); repair the data, or name "
        "the size by --img-size"
    )


def _small_cnn(size: int, digits: bool) -> str:
    if not is_small(size):
        return "resnet18"
    return "dearkd_resnet10t_32" if digits else "dearkd_resnet10_32"


def _batch_within(wanted: int, images: int, data: DataConfig) -> int:
    """The default batch, or for few images a smaller one: ``LEAST_STEPS`` of it make an epoch.

    With one or two steps an epoch neither a student nor BatchNorm's running statistics learn
    anything. It cuts the epoch so that few images are left out, and is as near to ``LEAST_BATCH``
    or above as that allows.
    """
    if wanted <= images // LEAST_STEPS:
        return wanted
    world = int(os.environ.get("WORLD_SIZE", "1"))
    unit = math.lcm(2, data.views_a_pass or 2) * world
    most = min(wanted, max(LEAST_BATCH, images // LEAST_STEPS))
    least = math.ceil(images / most)
    sizes = [max(unit, images // steps // unit * unit) for steps in range(least, 2 * least + 1)]
    return next((size for size in sizes if images % size < WORTH_SAYING * images), sizes[0])


def _default(value: Any, otherwise: Any) -> Any:
    return otherwise if value is None else value

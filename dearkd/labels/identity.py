"""What a teacher's answers depend on: the teacher, the images, and how their views are drawn.

The student's batch size, its workers and processes are not among it, nor is its normalisation: the
teacher gets its own pixels. There is one exception: ``deit`` erases boxes with noise that it draws
in the student's normalisation.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from dearkd.data.order import EpochOrder
from dearkd.data.settings import DataConfig
from dearkd.data.sources import ImageSource, digest
from dearkd.errors import UserError
from dearkd.models.teacher import Form, Teacher
from dearkd.trained.weights import hash_of_weights

__all__ = ["REMEDY", "Identity", "check_form", "check_same", "identity", "key_of"]

Identity = dict[str, Any]
REMEDY = "choose another folder for --cache-labels"


def identity(
    teacher: Teacher,
    source: ImageSource,
    data: DataConfig,
    order: EpochOrder,
    look: Mapping[str, Any],
) -> Identity:
    """All of it by name, as JSON holds it; ``look`` has the student's mean, std, interpolation."""
    erases = data.augment == "deit"
    return {
        "teacher": _network_name(teacher),
        "teacher's weights": hash_of_weights(teacher.model)[:16],
        "teacher's mean and std": [list(teacher.mean), list(teacher.std)],
        "teacher's input size": teacher.resize or data.img_size,
        "teacher.precision": teacher.precision,
        "number of images": len(source),
        "images": source.fingerprint(),
        "labels of the images": digest([source.labels.astype("<i8").tobytes()]),
        "seed": order.seed,
        "views an epoch": order.views_per_epoch,
        "data.repeats": order.repeats,
        "data.img_size": data.img_size,
        "data.augment": data.augment,
        "data.flip": bool(data.flip),
        "data.shuffle": data.shuffle,
        "data.views": data.views,
        "data.mixup": data.mixup,
        "data.cutmix": data.cutmix,
        "interpolation": look["interpolation"],
        "mean and std": [list(look["mean"]), list(look["std"])] if erases else None,
    }


def key_of(known: Identity, form: Form) -> str:
    """A short name of an identity and the form of its answers."""
    return digest([form, *(f"{name}={value}" for name, value in known.items())])


def check_same(folder: Path, stored: Identity, here: Identity) -> None:
    """Refuses labels of anything else than what is here.

    Raises:
        UserError: Naming the first thing that differs, and both values.
    """
    for name, value in here.items():
        if stored.get(name) != value:
            raise UserError(
                f"the labels in {folder} are of another run: {name} is {stored.get(name)} there "
                f"and {value} here; {REMEDY}"
            )


def check_form(folder: Path, stored: str, wanted: Form, method: str) -> None:
    """Refuses labels alone where the logits are wanted; logits serve both.

    Raises:
        UserError: If they do not serve the method.
    """
    if stored == "labels" and wanted == "logits":
        raise UserError(
            f"{folder} holds the teacher's labels alone, and {method} learns from its logits; "
            f"{REMEDY} (one written by {method} serves the other methods too)"
        )


def _network_name(teacher: Teacher) -> str:
    """Timm's name, or the class of a network that timm does not know."""
    cfg: Any = getattr(teacher.model, "pretrained_cfg", None) or {}
    return str(cfg.get("architecture") or type(teacher.model).__name__)

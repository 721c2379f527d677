"""Defaults for ``--engine generator`` that follow from the teacher and the classes."""

from typing import Any

from omegaconf import DictConfig

from dearkd.data.sizes import is_small
from dearkd.errors import UserError
from dearkd.synthesis.set_batches import grouping
from dearkd.trained.resolve import EMBEDDED
from synth.classifier import Classifier
from synth.generator_settings import SIZES
from synth.groups import even_shares
from synth.settings import MOST_PER_CLASS

__all__ = ["generator_recipe"]

STEPS = 8
"""Steps of a batch: with 5 to 10 the saving over inversion is whole, at 40 it is gone."""
BATCH = 50
"""Images of a batch: few, because the generator learns by batches; R_BN has its running mean."""
FEWEST = 4
"""Images of a class in a batch, where there are more classes than a batch can hold."""
PER_CLASS, DIGITS_PER_CLASS = 200, 100
"""Images cost a tenth of those by inversion; the digits set is as large as that of inversion."""
WEIGHTS: dict[str, Any] = {
    "ce_weight": 1.0,
    "tv_weight": 0.0,
    "l2_weight": 0.0,
    "bn_weight": 20.0,
    "bn_relative": True,
    "ep_weight": 3.0,
    "triplet_weight": 1.5,
}
"""Tried on the digits CNN alone: see scripts/results/LAB.md. Published are bn_weight 10, a
cross-entropy of 0.4-0.5, and neither TV nor L2."""


def generator_recipe(given: DictConfig, teacher: Classifier, classes: int) -> dict[str, Any]:
    """Settings chosen for the user; ``classes`` is the number of classes to make.

    Raises:
        UserError: If a setting of inversion's recipes is given, or no group fits into
            ``images_per_batch``.
    """
    for name, typed in (("fast", "--fast"), ("recipe", f"--recipe {given.get('recipe')}")):
        if given.get(name):
            raise UserError(f"{typed} is for --engine inversion; leave it out")
    own = [_own_size(teacher)]
    default = DIGITS_PER_CLASS if teacher.name == EMBEDDED else PER_CLASS
    per_class = given.get("per_class")
    return {
        "resolutions": own,
        "iterations": [STEPS] * len(given.get("resolutions") or own),
        "per_class": default,
        "objective": dict(WEIGHTS),
        **_group(given, classes, default if per_class is None else per_class),
    }


def _own_size(teacher: Classifier) -> int:
    """The teacher's size where the generator draws it, else half of it or the nearest below."""
    low, high = SIZES
    size = teacher.img_size if is_small(teacher.img_size) else teacher.img_size // 2
    return max(low, min(high, size // 4 * 4))


def _group(given: DictConfig, classes: int, per_class: int) -> dict[str, int]:
    """Classes and images of each in a batch of at most ``images_per_batch``, which is one group.

    Raises:
        UserError: If ``images_per_batch`` is given and no group fits into it.
    """
    asked = given.get("images_per_batch")
    room = BATCH if asked is None else asked
    if room < 4:
        raise UserError(f"images_per_batch must be at least 4, 2 images of 2 classes, got {room}")
    images = given.get("images_per_class") or min(FEWEST, room // 2)
    members = given.get("classes_per_group") or max(2, min(classes, room // max(1, images)))
    share = given.get("images_per_class") or max(1, room // max(1, members))
    shape = {"images_per_class": share, "classes_per_group": members}
    unfit = min(share, members, per_class) < 1 or per_class > MOST_PER_CLASS  # refused later
    if asked is None or unfit:
        return shape
    # Even shares may be larger than these: of 3 classes no group of 2 is made.
    if max(even_shares(per_class, share)) * max(even_shares(classes, members)) <= room:
        return shape
    fitting = grouping(given, classes, shape | {"per_class": per_class})
    return {name: fitting[name] for name in shape}

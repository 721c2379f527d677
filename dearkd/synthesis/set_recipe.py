"""Defaults that follow from the teacher: sizes, iterations and weights of the objective.

A teacher gets its own input size, the paper's iterations, and the paper's weights or ours
(``balanced``); the embedded digits teacher gets a small run.
"""

from collections.abc import Sequence
from typing import Any

import torch
from omegaconf import DictConfig, OmegaConf

from dearkd.data.sizes import is_small
from dearkd.errors import UserError
from dearkd.synthesis.generator_recipe import generator_recipe
from dearkd.synthesis.set_batches import batching
from dearkd.trained.resolve import EMBEDDED
from synth.classifier import Classifier

__all__ = ["recipe_for"]

PAPER_ITERATIONS = 2000
COMPETE_WEIGHT = 0.2
"""The public code's weight of R_c, taken when a student is named."""
SLOW_LOG_INTERVAL = 10
"""Iterations between two steps that are shown, for large images on a CPU: each takes seconds."""
BALANCED_WEIGHTS: dict[str, Any] = {"bn_relative": True}
BALANCED_LARGE: dict[str, Any] = {
    "tv_weight": 0.02,
    "bn_weight": 0.2,
    "ep_weight": 0.5,
    "triplet_weight": 1.0,
}
BALANCED_SMALL: dict[str, Any] = {
    "ce_weight": 0.1,
    "tv_weight": 0.1,
    "bn_weight": 3.0,
    "bn_first_multiplier": 5.0,
    "ep_weight": 0.0,
    "triplet_weight": 0.0,
}
BALANCED_PIXELS: dict[str, Any] = {
    "tv_weight": 0.1,
    "bn_weight": 3.0,
    "bn_first_multiplier": 5.0,
    "ep_weight": 1.0,
}
BALANCED_DIGITS: dict[str, Any] = BALANCED_PIXELS | {"bn_weight": 5.0}
"""Tried on EfficientNet-Lite0 (large), a CIFAR-10 CNN (small, by spectrum and by pixels) and the
digits CNN: see scripts/results/LAB.md. Small ones by their spectrum are for a student of soft
labels: images that their teacher is less sure of teach more, and the boundary-preserving loss takes
coverage away."""
SPECTRUM_LR = 0.1
"""In natural images' units, whatever the teacher's normalisation."""
SMALL_ITERATIONS = 100
SMALL_GROUP = 10
"""Images of a class in a group of small ones: R_BN is a statistic of the whole group."""
SMALL_IMAGES, SMALL_FEWEST = 10_000, 10
"""Small images of all the teacher's classes together, and of each at least."""
BALANCED_CROP = 0.5
"""For teachers of large images, which learned from crops; those of small ones saw whole images."""
BALANCED_LR = 0.05
"""Divided by the teacher's std: it makes 0.22 in ImageNet's normalisation, 0.1 where std is 0.5."""
FAST = 8
"""``fast`` makes images in this part of the iterations, or by their spectrum, which takes few, this
part of the images."""
SHORT = 100
"""Stages of fewer iterations get the changes below: a full 2000 still leaves 250, where the
balanced recipe works as it is."""
SHORT_LR, SHORT_BN = 4.0, 0.2
"""Factors of lr and bn_weight there: see scripts/results/LAB.md."""
FAR = 4
"""Larger or smaller by more than this factor than the teacher's own, a size gets a warning."""
DIGITS_ITERATIONS = 500
DIGITS_PER_CLASS = (4, 100)
DIGITS_WORK = 4e8
"""Pixels times iterations at most: at a microsecond each on one core that is under ten minutes."""


def recipe_for(
    given: DictConfig, teacher: Classifier, classes: int, mirrored: bool
) -> tuple[dict[str, Any], list[str]]:
    """Settings chosen for the user (what is given goes before them), and notes that tell them.

    ``classes`` is the number of classes to make; ``mirrored`` says whether the teacher learned from
    mirrored images too.

    Raises:
        UserError: If no group fits into ``images_per_batch``.
    """
    drawn = given.get("engine") == "generator"
    make = generator_recipe if drawn else _inversion_recipe
    recipe = make(given, teacher, classes)
    if OmegaConf.select(given, "objective.bn_weight") == 0:  # the others have no effect then
        kept = {k: v for k, v in recipe["objective"].items() if not k.startswith("bn_")}
        recipe["objective"] = kept
    if not mirrored:
        recipe["flip_probability"] = 0.0  # a mirrored digit is another one, or none
    if OmegaConf.select(given, "student.name") is not None:
        recipe["objective"]["compete_weight"] = COMPETE_WEIGHT
    notes = [
        f"{key} {','.join(map(str, value)) if isinstance(value, list) else value}"
        for key, value in recipe.items()
        if key not in ("objective", "log_interval") and given.get(key) is None
    ]
    if OmegaConf.select(given, "teacher.name") is None:
        notes.insert(0, "teacher: the embedded digits CNN (--teacher names yours)")
    notes += _too_far(teacher, max(given.get("resolutions") or recipe["resolutions"]))
    weights = {k: v for k, v in recipe["objective"].items() if k not in given.get("objective", {})}
    return recipe, notes + [f"objective.{key} {value}" for key, value in weights.items()]


def _inversion_recipe(given: DictConfig, teacher: Classifier, classes: int) -> dict[str, Any]:
    """Sizes, iterations, weights and batches of inversion."""
    size = teacher.img_size
    own = [size // 2, size] if not is_small(size) else [size]
    resolutions = given.get("resolutions") or own
    recipe: dict[str, Any] = {
        "resolutions": own,
        "iterations": [PAPER_ITERATIONS] * len(resolutions),
        "objective": {},
    }
    if not is_small(max(resolutions)) and not torch.cuda.is_available():
        recipe["log_interval"] = SLOW_LOG_INTERVAL
    if teacher.name == EMBEDDED:
        recipe |= _digits_recipe(given, resolutions, classes)
    recipe |= _balanced(given, teacher, resolutions) if _is_balanced(given, teacher) else {}
    recipe |= _shortened(given, recipe) if given.get("fast") else {}
    return recipe | batching(given, recipe, teacher, classes)


def _too_far(teacher: Classifier, size: int) -> list[str]:
    """A warning if the teacher learned from images of a very different size."""
    if teacher.img_size / FAR <= size <= teacher.img_size * FAR:
        return []
    return [
        f"warning: {teacher.name} learned from {teacher.img_size}-px images and may recognise "
        f"little of what it makes at {size} px"
    ]


def _digits_recipe(given: DictConfig, resolutions: Sequence[int], classes: int) -> dict[str, Any]:
    """As many images, and then iterations, as fit into ten minutes on two cores."""
    area = classes * sum(size**2 for size in resolutions)
    low, high = DIGITS_PER_CLASS
    room = int(DIGITS_WORK / max(1, area * DIGITS_ITERATIONS))
    per_class = given.get("per_class") or min(high, max(low, room))
    longest = int(DIGITS_WORK / max(1, area * per_class)) // 10 * 10
    return {
        "iterations": [min(DIGITS_ITERATIONS, max(20, longest))] * len(resolutions),
        "per_class": per_class,
    }


def _balanced(given: DictConfig, teacher: Classifier, resolutions: Sequence[int]) -> dict[str, Any]:
    """Weights, learning rate and basis that suit teachers of any kind better than the paper's.

    Departure:
        The paper has one set of weights, for an ImageNet ResNet.
    """
    crop = {"smallest_crop": BALANCED_CROP} if not is_small(teacher.img_size) else {}
    lr = round(BALANCED_LR * len(teacher.std) / sum(teacher.std), 3)
    recipe: dict[str, Any] = crop | {"recipe": "balanced", "lr": lr}
    if not is_small(max(resolutions)):
        return recipe | {"objective": BALANCED_WEIGHTS | BALANCED_LARGE}
    if teacher.name == EMBEDDED:
        return recipe | {"objective": BALANCED_WEIGHTS | BALANCED_DIGITS}
    if given.get("basis", "spectrum") != "spectrum":
        return recipe | {"objective": BALANCED_WEIGHTS | BALANCED_PIXELS}
    return recipe | {
        "basis": "spectrum",
        "lr": SPECTRUM_LR,
        "iterations": [SMALL_ITERATIONS] * len(resolutions),
        "per_class": max(SMALL_FEWEST, SMALL_IMAGES // teacher.num_classes),
        "images_per_class": SMALL_GROUP,
        "objective": BALANCED_WEIGHTS | BALANCED_SMALL,
    }


def _is_balanced(given: DictConfig, teacher: Classifier) -> bool:
    """Whether the weights are ``balanced``: where asked for, for the digits, and with ``fast``."""
    if given.get("recipe") is not None:
        return bool(given.recipe == "balanced")
    return teacher.name == EMBEDDED or bool(given.get("fast"))


def _shortened(given: DictConfig, recipe: dict[str, Any]) -> dict[str, Any]:
    """What ``fast`` changes in the balanced recipe: iterations, and weights for very few of them.

    So few steps of the usual size leave noise in the images, and R_BN leaves the classes no time.
    There the steps are larger, and R_BN weighs less. Images by their spectrum keep their
    iterations, which are few; there are fewer of them, unless their number is given.

    Raises:
        UserError: If iterations or the paper's weights are given too.
    """
    if given.get("iterations") is not None:
        raise UserError("--fast sets the iterations; leave --iters out, or --fast")
    if given.get("recipe") == "paper":
        raise UserError("--fast has weights of its own; leave --recipe paper out, or --fast")
    if "basis" in recipe:  # where the images are as many as were asked for, it is balanced alone
        return {"per_class": max(1, recipe["per_class"] // FAST)}
    iterations = [max(1, iterations // FAST) for iterations in recipe["iterations"]]
    if max(iterations) >= SHORT:
        return {"iterations": iterations}
    weights = recipe["objective"]
    return {
        "iterations": iterations,
        "lr": round(recipe["lr"] * SHORT_LR, 3),
        "objective": weights | {"bn_weight": round(weights["bn_weight"] * SHORT_BN, 3)},
    }

"""Defaults for what inversion computes together: images of a class, classes, groups of a batch."""

import dataclasses
import itertools
from collections.abc import Sequence
from typing import Any

import torch
from omegaconf import DictConfig

from dearkd.errors import UserError
from dearkd.models.cost import activation_bytes_per_image
from synth.bn_statistics import frozen
from synth.classifier import Classifier
from synth.groups import even_shares
from synth.settings import MOST_PER_CLASS, SynthesisConfig

__all__ = ["batching", "grouping", "groups_that_fit"]

CPU_PIXELS = 2 * 40 * 16**2
"""Pixels of a batch up to which a CPU takes several groups: at 16 px two of 40 images cost a
quarter less than one after the other, at 32 px they cost the same."""
MOST_GROUPS = 8
"""Groups a batch that are chosen at most, about 320 images."""


def batching(
    given: DictConfig, recipe: dict[str, Any], teacher: Classifier, classes: int
) -> dict[str, int]:
    """What is computed together: by ``images_per_batch``, or as many groups as pay on the device.

    ``recipe`` has what was chosen before it; ``classes`` is the number of classes to make.

    A group's images are the same in any batch (to the last bit on a CPU, where it was compared).

    Raises:
        UserError: If no group fits into ``images_per_batch``.
    """
    own: dict[str, Any] = dataclasses.asdict(SynthesisConfig()) | recipe
    own |= {name: given.get(name) for name in own if given.get(name) is not None}
    numbers = (own["per_class"], own["images_per_class"], own["classes_per_group"])
    too_many = own["per_class"] > MOST_PER_CLASS
    if too_many or not own["resolutions"] or min(*numbers, *own["resolutions"]) < 1:
        return {}  # refused, with its bound, when the settings are made
    if given.get("images_per_batch") is not None:
        return grouping(given, classes, own)
    if given.get("groups_per_batch") is not None:
        return {}
    images = even_shares(own["per_class"], own["images_per_class"])
    counts = even_shares(classes, own["classes_per_group"])
    room = _most_images(teacher, max(own["resolutions"]))
    groups = groups_that_fit(room, max(images) * max(counts), len(images) * len(counts))
    return {"groups_per_batch": groups} if groups > 1 else {}


def groups_that_fit(room: int, images: int, groups: int) -> int:
    """How many groups of ``images`` images make a batch of at most ``room`` images.

    At least one, at most eight, and of a run of few ``groups`` no more than leaves eight batches
    for as many processes.
    """
    return max(1, min(room // images, MOST_GROUPS, groups // MOST_GROUPS))


def grouping(given: DictConfig, classes: int, own: dict[str, Any]) -> dict[str, int]:
    """Images a class, classes a group and groups a batch that fit into ``images_per_batch``.

    The defaults are tried first, then fewer classes, then fewer images of a class.

    Raises:
        UserError: If none fits.
    """
    room = given.images_per_batch
    if room < 4:
        raise UserError(f"images_per_batch must be at least 4, 2 images of 2 classes, got {room}")
    per_class = own["per_class"]
    images = _choices(given.get("images_per_class"), own["images_per_class"], per_class)
    counts = _choices(given.get("classes_per_group"), own["classes_per_group"], classes)
    sizes = {
        (k, c): max(k * c, max(even_shares(per_class, k)) * max(even_shares(classes, c)))
        for k, c in itertools.product(images, counts)
    }
    fits = [choice for choice, size in sizes.items() if size <= room]
    if not fits:
        least = min(sizes.values())
        raise UserError(
            f"images_per_batch {room} is too few: with {per_class} images of each of {classes} "
            f"classes a group has at least {least}; use {least}"
        )
    return {
        "images_per_class": fits[0][0],
        "classes_per_group": fits[0][1],
        "groups_per_batch": room // sizes[fits[0]],
    }


def _most_images(teacher: Classifier, size: int) -> int:
    """Images of a batch at most: by a GPU's memory, on a CPU by what a step's overhead asks for.

    On a GPU their activations take a quarter of the memory, by what autograd keeps of a plain
    forward; the rest is for gradients and statistics. It is the whole memory, not what is free, so
    that equal runs have equal batches.
    """
    if not torch.cuda.is_available():
        return CPU_PIXELS // size**2
    memory = torch.cuda.get_device_properties(torch.cuda.current_device()).total_memory
    pair = torch.zeros(2, len(teacher.mean), size, size, requires_grad=True)
    return int(memory / 4 / activation_bytes_per_image(frozen(teacher.network), pair))


def _choices(given: int | None, most: int, there: int) -> Sequence[int]:
    """The values to try: the given one, or all from ``most`` (or what is ``there``) down to 2."""
    return range(min(most, there), min(2, there) - 1, -1) if given is None else (given,)

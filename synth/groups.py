"""Which images are made together: groups of k images of c classes, and batches of groups.

A group's targets and every random draw follow from (run seed, group id) alone. Batches are fixed
beforehand too and never regrouped, whoever computes them: with the same kernels
(:class:`synth.kernels.Kernels`) on one kind of machine the same batch then gives the same bits.
"""

import hashlib
import random
from dataclasses import dataclass

import torch

from synth.refusal import SynthError
from synth.settings import SynthesisConfig

__all__ = ["Group", "batches_of", "even_shares", "generator_for", "plan_groups", "seed_for"]


@dataclass(frozen=True, kw_only=True)
class Group:
    """Images that share an objective; ``targets`` are teacher indices, class after class."""

    id: int
    targets: tuple[int, ...]


def seed_for(seed: int, *parts: int | str) -> int:
    """A 63-bit seed that differs for every combination of its arguments."""
    text = "/".join(str(part) for part in (seed, *parts))
    return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=8).digest(), "big") >> 1


def generator_for(seed: int, *parts: int | str) -> torch.Generator:
    """A CPU generator seeded by :func:`seed_for`: the same draws on every device."""
    return torch.Generator().manual_seed(seed_for(seed, *parts))


def plan_groups(config: SynthesisConfig, num_classes: int) -> tuple[Group, ...]:
    """All groups of a run; over all of them each class has ``config.per_class`` images.

    Images and classes are dealt into even shares of about ``images_per_class`` and
    ``classes_per_group``; which classes meet is drawn anew for every share of images.

    Raises:
        SynthError: If a class is not the teacher's, or the boundary-preserving terms are on and
            an anchor would have no positive (k < 2) or no negative (c < 2).
    """
    classes = tuple(range(num_classes)) if config.classes is None else config.classes
    unknown = [index for index in classes if index >= num_classes]
    if unknown:
        raise SynthError(
            f"class {unknown[0]} is not one of the teacher's {num_classes} classes; "
            f"name indices 0-{num_classes - 1}"
        )
    if config.objective.intra_divergence:
        _check_partners(config, len(classes))
    groups: list[Group] = []
    for share, images in enumerate(even_shares(config.per_class, config.images_per_class)):
        order = list(classes)
        random.Random(seed_for(config.seed, "classes", share)).shuffle(order)
        for count in even_shares(len(classes), config.classes_per_group):
            members, order = sorted(order[:count]), order[count:]
            targets = tuple(index for index in members for _ in range(images))
            groups.append(Group(id=len(groups), targets=targets))
    return tuple(groups)


def batches_of(groups: tuple[Group, ...], groups_per_batch: int) -> tuple[tuple[Group, ...], ...]:
    """Batches of consecutive groups of one size, at most ``groups_per_batch`` in each."""
    batches: list[tuple[Group, ...]] = []
    for group in groups:
        last = batches[-1] if batches else ()
        fits = last and len(last[0].targets) == len(group.targets)
        if fits and len(last) < groups_per_batch:
            batches[-1] = (*last, group)
        else:
            batches.append((group,))
    return tuple(batches)


def _check_partners(config: SynthesisConfig, classes: int) -> None:
    """Refuse groups in which an image would have no positive or no negative."""
    off = "objective.ep_weight=0 objective.triplet_weight=0 (no boundary-preserving loss)"
    images = min(config.images_per_class, config.per_class)
    if images < 2:
        name = "per_class" if config.per_class < 2 else "images_per_class"
        raise SynthError(
            f"{name} must be at least 2, got {images}: "
            f"alone of its class an image has no positive; use {name}=2, or {off}"
        )
    if min(config.classes_per_group, classes) < 2:
        name = "the number of classes" if classes < 2 else "classes_per_group"
        raise SynthError(
            f"{name} must be at least 2, got {min(config.classes_per_group, classes)}: "
            f"within one class an image has no negative; raise it, or use {off}"
        )


def even_shares(total: int, size: int) -> list[int]:
    """``total`` in shares that differ by one at most, each of at most ``size``.

    Where that would make shares of 1, there are fewer shares and they may exceed ``size``.
    """
    count = -(-total // size)
    if size > 1 and total // count < 2:
        count = max(1, total // size)
    share, extra = divmod(total, count)
    return [share + (index < extra) for index in range(count)]

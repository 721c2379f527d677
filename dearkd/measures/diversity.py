"""Mean distance over all pairs of images, with a standard error, from each image's row of sums.

Pairs share images and are not independent, so the standard error is the jackknife's over images.
Everything follows from row sums r_i = sum_j d(i, j): the mean is sum_i r_i / (N (N - 1)), and that
without image i is (sum_j r_j - 2 r_i) / ((N - 1) (N - 2)).
"""

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple, TypeVar

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from dearkd.errors import UserError

__all__ = [
    "ClassMean",
    "Diversity",
    "PairMean",
    "class_mean",
    "distance_sums",
    "diversity",
    "pair_mean",
    "squared_distance_sums",
]

T = TypeVar("T")
_CHUNK = 1024  # rows whose distances to all others are held at once


class PairMean(NamedTuple):
    """The mean over all pairs of ``images`` images; no standard error with fewer than three."""

    mean: float
    standard_error: float | None
    images: int


class ClassMean(NamedTuple):
    """The mean of ``classes`` classes' means, each counting alike."""

    mean: float
    standard_error: float | None
    classes: int


class Diversity(NamedTuple):
    """Mean distance within each class, over classes, and over all pairs whatever their class."""

    per_class: dict[str, PairMean]
    """Classes of at least two images."""
    within_class: ClassMean | None
    """None where no class has two images."""
    overall: PairMean

    def as_dict(self) -> dict[str, Any]:
        """Plain values, for JSON."""
        within = self.within_class
        return {
            "within_class": None if within is None else within.mean,
            "within_class_standard_error": None if within is None else within.standard_error,
            "classes_of_two_or_more": len(self.per_class),
            "overall": self.overall.mean,
            "overall_standard_error": self.overall.standard_error,
            "images": self.overall.images,
            "per_class": {name: part._asdict() for name, part in self.per_class.items()},
        }


def diversity(
    classes: Mapping[str, Sequence[T]], row_sums: Callable[[Sequence[T]], Tensor]
) -> Diversity:
    """Diversity of images in ``classes``: name to its images, or to batches of them.

    ``row_sums`` gives, for such a sequence, each image's sum of distances to all of its images.

    Raises:
        UserError: If there are fewer than two images.
    """
    sums = {name: row_sums(members) for name, members in classes.items()}
    per_class = {name: pair_mean(part) for name, part in sums.items() if len(part) > 1}
    overall = row_sums([member for members in classes.values() for member in members])
    within = class_mean(list(per_class.values())) if per_class else None
    return Diversity(per_class, within, pair_mean(overall))


def pair_mean(row_sums: Float[Tensor, " images"]) -> PairMean:
    """Mean distance over all pairs from each image's sum of distances, with its jackknife error.

    Raises:
        UserError: If there are fewer than two images.
    """
    count, sums = len(row_sums), row_sums.double()
    if count < 2:
        raise UserError(f"a distance between images needs at least 2 images, got {count}")
    mean = float(sums.sum()) / (count * (count - 1))
    if count == 2:
        return PairMean(mean, None, count)
    without = (sums.sum() - 2 * sums) / ((count - 1) * (count - 2))
    variance = (count - 1) / count * (without - without.mean()).square().sum()
    return PairMean(mean, float(variance.sqrt()), count)


def class_mean(parts: Sequence[PairMean]) -> ClassMean:
    """Mean over classes; images of different classes are independent, so variances add.

    The standard error says how far other images of the same classes would move it; it is unknown
    if it is for one of the classes.
    """
    errors = [part.standard_error for part in parts]
    known = [error for error in errors if error is not None]
    spread = math.hypot(*known) / len(parts) if len(known) == len(errors) else None
    return ClassMean(sum(part.mean for part in parts) / len(parts), spread, len(parts))


def squared_distance_sums(
    batches: Sequence[T], embed: Callable[[T], Float[Tensor, "batch dim"]]
) -> Float[Tensor, " images"]:
    """Each row's sum of squared Euclidean distances to all rows, in float64.

    r_i = N |phi_i|^2 + sum_j |phi_j|^2 - 2 phi_i . sum_j phi_j: ``embed`` is asked twice for every
    batch, no pair is looked at, and one batch is held at a time.
    """
    total: Tensor = torch.zeros(())
    norms: list[Tensor] = []
    for batch in batches:
        rows = embed(batch)
        total = total + rows.sum(dim=0, dtype=torch.float64)
        norms += [row.double().square().sum() for row in rows]
    if not norms:
        return torch.zeros(0, dtype=torch.float64)
    # row by row: a batch of long rows in float64 would take twice the memory again
    products = torch.stack([row.double() @ total for batch in batches for row in embed(batch)])
    norm = torch.stack(norms)
    return len(norm) * norm + norm.sum() - 2 * products


def distance_sums(embedding: Float[Tensor, "images dim"]) -> Float[Tensor, " images"]:
    """Each row's sum of Euclidean distances to all rows, of rows brought to unit length."""
    unit = F.normalize(embedding.double(), dim=1)
    exact = "donot_use_mm_for_euclid_dist"  # the faster form is off by 1e-8 for equal rows
    chunks = torch.split(unit, _CHUNK)
    return torch.cat([torch.cdist(rows, unit, compute_mode=exact).sum(dim=1) for rows in chunks])

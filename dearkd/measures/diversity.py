"""Mean distance over all pairs of images, with a standard error, from one sum for each image.

Pairs share images and are not independent, so the standard error is the jackknife's over images.
Both follow from the row sums r_i = sum_j d(i, j) of N images: the mean is sum_i r_i / (N (N - 1)),
and the mean without image i is (sum_j r_j - 2 r_i) / ((N - 1) (N - 2)).
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
    """The mean distance over all pairs of ``images`` images."""

    mean: float
    standard_error: float | None
    """None with fewer than three images."""
    images: int


class ClassMean(NamedTuple):
    """The unweighted mean of the means of ``classes`` classes."""

    mean: float
    standard_error: float | None
    """None if it is None for one of the classes."""
    classes: int


class Diversity(NamedTuple):
    """Mean distances within each class, averaged over classes, and over all pairs of images."""

    per_class: dict[str, PairMean]
    """By the class's key, for the classes of at least two images."""
    within_class: ClassMean | None
    """None where no class has two images."""
    overall: PairMean

    def as_dict(self) -> dict[str, Any]:
        """The numbers as plain values, for JSON."""
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
    """Diversity of images; ``classes`` maps a class's key to its images, or to batches of them.

    ``row_sums`` returns, for such a sequence, the sum of distances from each of its images to all
    others: one value for each image.

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
    """The mean over classes. Images of different classes are independent, so variances add.

    The standard error is that of drawing other images of the same classes; it is None if it is None
    for one of the classes.
    """
    errors = [part.standard_error for part in parts]
    known = [error for error in errors if error is not None]
    spread = math.hypot(*known) / len(parts) if len(known) == len(errors) else None
    return ClassMean(sum(part.mean for part in parts) / len(parts), spread, len(parts))


def squared_distance_sums(
    batches: Sequence[T], embed: Callable[[T], Float[Tensor, "batch dim"]]
) -> Float[Tensor, " images"]:
    """Each image's sum of squared Euclidean distances to all images, in float64.

    r_i = N |phi_i|^2 + sum_j |phi_j|^2 - 2 phi_i . sum_j phi_j, so no pair is computed. ``embed``
    is called twice for every batch, and the embeddings of one batch are held at a time.
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
    """Each row's sum of Euclidean distances to all rows, after L2 normalisation; each in [0, 2]."""
    unit = F.normalize(embedding.double(), dim=1)
    exact = "donot_use_mm_for_euclid_dist"  # the faster form is off by 1e-8 for equal rows
    chunks = torch.split(unit, _CHUNK)
    return torch.cat([torch.cdist(rows, unit, compute_mode=exact).sum(dim=1) for rows in chunks])

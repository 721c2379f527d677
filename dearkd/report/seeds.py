"""Statistics over seeds: mean, standard deviation, and paired differences with their interval.

Pure arithmetic on values by seed; it knows no run and no page.
"""

from collections.abc import Mapping, Sequence
from statistics import fmean, stdev
from typing import NamedTuple

from scipy.special import stdtrit

from dearkd.errors import UserError

__all__ = ["CONFIDENCE", "Difference", "Spread", "paired_difference", "spread"]

CONFIDENCE = 0.95
ROUNDING = 1e-9
"""Differences whose standard deviation is less than this share of the values count as equal."""


class Spread(NamedTuple):
    """Mean and standard deviation of one quantity over several seeds."""

    seeds: int
    mean: float
    deviation: float | None
    """Standard deviation of the sample (n - 1); None for one seed."""


class Difference(NamedTuple):
    """Mean of first minus second, over the seeds that two quantities have in common."""

    seeds: int
    mean: float
    interval: tuple[float, float] | None
    """Interval that covers the true mean with probability ``CONFIDENCE``; None if not defined."""

    @property
    def is_decided(self) -> bool | None:
        """Whether the interval leaves out 0; None where there is none."""
        if self.interval is None:
            return None
        low, high = self.interval
        return not low <= 0 <= high

    @property
    def verdict(self) -> str:
        """``decided``, ``undecided``, or why there is nothing to decide by."""
        if self.interval is None:
            return "one seed" if self.seeds == 1 else "undecided (equal differences)"
        return "decided" if self.is_decided else "undecided"


def spread(values: Sequence[float]) -> Spread:
    """Number, mean and standard deviation of the values of several seeds.

    Raises:
        UserError: If there are no values.
    """
    if not values:
        raise UserError("a mean needs at least one value, got none")
    return Spread(len(values), fmean(values), stdev(values) if len(values) > 1 else None)


def paired_difference(first: Mapping[int, float], second: Mapping[int, float]) -> Difference | None:
    """Mean difference of values by seed with Student's t-interval; None without a common seed.

    For n common seeds with differences d of standard deviation s it is mean(d) +- t s / sqrt(n),
    where t is the quantile of n - 1 degrees of freedom. The uncertainty from the choice of test
    images is not included.

    Departure:
        Two or more differences that are exactly equal give no interval, where the formula gives
        one of no width: accuracies on few images are coarse, and seeds agree by chance.
    """
    common = sorted(first.keys() & second.keys())
    if not common:
        return None
    count, mean, deviation = spread([first[seed] - second[seed] for seed in common])
    size = max(abs(values[seed]) for values in (first, second) for seed in common)
    if deviation is None or deviation <= ROUNDING * size:
        return Difference(count, mean, None)
    half = float(stdtrit(count - 1, (1 + CONFIDENCE) / 2)) * deviation / count**0.5
    return Difference(count, mean, (mean - half, mean + half))

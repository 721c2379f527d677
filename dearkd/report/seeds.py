"""What several seeds say of a number: its mean, its spread, and how surely it is another one's.

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
"""Differences that vary by less, relative to the values, are equal."""


class Spread(NamedTuple):
    """Values of one thing under several seeds."""

    seeds: int
    mean: float
    deviation: float | None
    """Standard deviation of the sample (n - 1); None for one seed."""


class Difference(NamedTuple):
    """Mean over the seeds that two things have in common of first minus second."""

    seeds: int
    mean: float
    interval: tuple[float, float] | None
    """Where the true mean lies with ``CONFIDENCE``; None where the seeds cannot say."""

    @property
    def verdict(self) -> str:
        """``difference shown``, ``no difference shown``, or why it is not decided."""
        if self.interval is None:
            if self.seeds < 2:
                return "one seed in common: not decided"
            return "equal differences, too few seeds: not decided"
        low, high = self.interval
        return "no difference shown" if low <= 0 <= high else "difference shown"


def spread(values: Sequence[float]) -> Spread:
    """Number, mean and standard deviation of the values of several seeds.

    Raises:
        UserError: If there are none.
    """
    if not values:
        raise UserError("a mean needs at least one value, got none")
    return Spread(len(values), fmean(values), stdev(values) if len(values) > 1 else None)


def paired_difference(first: Mapping[int, float], second: Mapping[int, float]) -> Difference | None:
    """Mean difference of values by seed with Student's t-interval; None without a common seed.

    For n common seeds with differences d of standard deviation s it is mean(d) +- t s / sqrt(n),
    where t is the quantile of n - 1 degrees of freedom. What other test images would change is
    not in it.

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

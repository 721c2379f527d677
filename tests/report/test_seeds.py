"""Means, spreads and paired differences over seeds, against numbers worked out by hand."""

import numpy as np
import pytest
from scipy import stats

from dearkd.report.seeds import Difference, Spread, paired_difference, spread


def test_mean_and_deviation_by_hand():
    assert spread([90.0, 92.0, 97.0]) == Spread(3, 93.0, 13**0.5)  # (9 + 1 + 16) / 2
    assert spread([90.0]) == Spread(1, 90.0, None)
    with pytest.raises(ValueError, match="at least one value, got none"):
        spread([])


def test_the_interval_of_a_paired_difference_by_hand():
    # differences 1, 2, 3: mean 2, deviation 1; t(0.975, 2) = 4.302653, half width 4.302653 / sqrt 3
    found = paired_difference({0: 91.0, 1: 82.0, 2: 73.0}, {2: 70.0, 1: 80.0, 0: 90.0})
    assert (found.seeds, found.mean) == (3, 2.0)
    assert found.interval == pytest.approx((2 - 2.484138, 2 + 2.484138), abs=1e-6)
    assert found.verdict == "undecided"


def test_pairs_show_what_means_alone_would_not():
    theirs = {0: 50.0, 1: 70.0, 2: 90.0}
    ours = {0: 55.0, 1: 75.5, 2: 95.2}
    found = paired_difference(ours, theirs)
    assert found.verdict == "decided"
    assert stats.ttest_ind([*ours.values()], [*theirs.values()]).pvalue > 0.5


def test_the_interval_is_that_of_scipy():
    generator = np.random.default_rng(0)
    ours, theirs = generator.normal(size=(2, 7))
    found = paired_difference(dict(enumerate(ours)), dict(enumerate(theirs)))
    expected = stats.ttest_rel(ours, theirs).confidence_interval(0.95)
    assert found.interval == pytest.approx((expected.low, expected.high))


def test_only_seeds_in_common_count():
    assert paired_difference({0: 5.0}, {1: 4.0}) is None
    found = paired_difference({0: 5.0, 1: 100.0}, {0: 4.0, 2: 0.0})
    assert found == Difference(1, 1.0, None)
    assert found.verdict == "one seed"


def test_equal_differences_decide_nothing():
    found = paired_difference({0: 5.0, 1: 6.0}, {0: 4.0, 1: 5.0})
    assert found == Difference(2, 1.0, None)
    assert found.verdict == "undecided (equal differences)"
    one_image = [
        {seed: 100 * (right + more) / 359 for seed, right in enumerate((36, 49, 55))}
        for more in (1, 0)
    ]
    assert paired_difference(*one_image).interval is None  # though their last digits differ


def test_the_interval_holds_the_truth_as_often_as_it_says():
    generator = np.random.default_rng(1)
    held = 0
    for _ in range(2000):
        values = dict(enumerate(generator.normal(1.0, 2.0, 4)))
        low, high = paired_difference(values, dict.fromkeys(values, 0.0)).interval
        held += low <= 1.0 <= high
    assert 0.935 < held / 2000 < 0.965  # 3 standard errors of 0.95

"""Nearness of feature sets against the published formulas and the authors' package."""

import contextlib
import io

import numpy as np
import pytest
import scipy.linalg
import torch
from prdc import compute_prdc

from dearkd.measures.fidelity import density_and_coverage, frechet_distance


def features(count, dim=5, shift=0.0, seed=0):
    return torch.randn(count, dim, generator=torch.Generator().manual_seed(seed)) + shift


def test_frechet_distance_is_that_of_two_gaussians():
    ours, real = features(40, seed=1), 2 * features(60, shift=0.5, seed=2)
    a, b = ours.double().numpy(), real.double().numpy()
    root = scipy.linalg.sqrtm(np.cov(a.T) @ np.cov(b.T))
    expected = ((a.mean(0) - b.mean(0)) ** 2).sum() + np.trace(
        np.cov(a.T) + np.cov(b.T) - 2 * root.real
    )
    assert frechet_distance(ours, real) == pytest.approx(expected, rel=1e-9)
    assert frechet_distance(real, ours) == pytest.approx(expected, rel=1e-9)


def test_frechet_distance_of_equal_and_of_shifted_sets():
    real = features(50)
    assert frechet_distance(real, real) == pytest.approx(0, abs=1e-6)
    assert frechet_distance(real + 0.7, real) == pytest.approx(5 * 0.7**2, rel=1e-4)
    wide = features(60, dim=256)  # of which rounding makes less than nothing
    assert 0 <= frechet_distance(wide, wide) < 1e-3
    few = features(4, dim=30)  # fewer images than dimensions: singular covariances
    assert np.isfinite(frechet_distance(few, features(4, dim=30, seed=3)))


@pytest.mark.parametrize("shift", [0.0, 0.5, 10.0])
@pytest.mark.parametrize("nearest", [1, 5])
def test_density_and_coverage_are_those_of_the_authors_package(shift, nearest):
    ours, real = features(30, shift=shift, seed=4), features(45, seed=5)
    with contextlib.redirect_stdout(io.StringIO()):
        theirs = compute_prdc(real.double().numpy(), ours.double().numpy(), nearest)
    found = density_and_coverage(ours, real, nearest)
    assert found == pytest.approx((theirs["density"], theirs["coverage"]), abs=1e-12)
    assert (found == (0, 0)) == (shift == 10.0)


def test_a_set_covers_itself():
    real = features(20)
    assert density_and_coverage(real, real)[1] == 1
    assert density_and_coverage(real[:1], real)[1] < 0.7


def test_too_few_images_are_refused():
    with pytest.raises(ValueError, match=r"at least 2 images in each set, got 1 and 9"):
        frechet_distance(features(1), features(9))
    with pytest.raises(ValueError, match="more than 5 real images, got 5"):
        density_and_coverage(features(9), features(5))

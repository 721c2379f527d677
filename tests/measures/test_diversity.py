"""Means over pairs and their jackknife errors against loops over pairs, in float64."""

import itertools

import pytest
import torch

from dearkd.measures.diversity import (
    class_mean,
    distance_sums,
    diversity,
    pair_mean,
    squared_distance_sums,
)
from dearkd.measures.image_set import Remembered


def points(count, dim=6, seed=0):
    return torch.randn(count, dim, generator=torch.Generator().manual_seed(seed)).double()


def slow_mean(rows, distance):
    pairs = list(itertools.combinations(rows, 2))
    return sum(distance(a, b).item() for a, b in pairs) / len(pairs)


def squared(a, b):
    return (a - b).square().sum()


def sums_of(rows):
    return squared_distance_sums([rows], lambda batch: batch)


@pytest.mark.parametrize("parts", [[7], [3, 4], [1] * 7, [5, 0, 2]])
def test_row_sums_need_no_pairs_and_do_not_depend_on_the_batches(parts):
    rows = points(7) + 10  # far from the origin: large numbers cancel
    batches = rows.float().split(parts)
    sums = squared_distance_sums(batches, lambda batch: batch)
    expected = torch.cdist(rows.float().double(), rows.float().double()).square().sum(1)
    torch.testing.assert_close(sums, expected, rtol=1e-9, atol=0)
    assert pair_mean(sums).mean == pytest.approx(slow_mean(rows.float().double(), squared))


def test_the_standard_error_is_the_jackknife_over_images():
    rows = points(9)
    without = torch.tensor(
        [slow_mean([r for j, r in enumerate(rows) if j != i], squared) for i in range(9)],
        dtype=torch.float64,
    )
    variance = 8 / 9 * (without - without.mean()).square().sum()
    found = pair_mean(sums_of(rows))
    assert found.standard_error == pytest.approx(variance.sqrt().item(), rel=1e-12)
    assert found.images == 9


def test_the_standard_error_tells_how_far_the_mean_scatters():
    found = [pair_mean(sums_of(points(30, seed=seed))) for seed in range(200)]
    scatter = torch.tensor([part.mean for part in found]).std().item()
    told = sum(part.standard_error for part in found) / len(found)
    assert 0.85 < told / scatter < 1.2
    naive = torch.pdist(points(30)).square().std().item() / (30 * 29 / 2) ** 0.5
    assert naive < 0.6 * scatter  # what independent pairs would claim


def test_classes_count_alike_and_their_variances_add():
    parts = [pair_mean(sums_of(points(count, seed=count))) for count in (4, 9)]
    found = class_mean(parts)
    assert found.mean == pytest.approx((parts[0].mean + parts[1].mean) / 2)
    errors = [part.standard_error for part in parts]
    assert found.standard_error == pytest.approx((errors[0] ** 2 + errors[1] ** 2) ** 0.5 / 2)


def test_two_images_have_a_distance_without_error_and_one_has_none():
    two = pair_mean(sums_of(points(2)))
    assert two.mean == pytest.approx(squared(*points(2)).item())
    assert two.standard_error is None
    assert class_mean([two, pair_mean(sums_of(points(5)))]).standard_error is None
    with pytest.raises(ValueError, match="at least 2 images, got 1"):
        pair_mean(sums_of(points(1)))


def test_within_classes_leaves_single_images_out_and_overall_takes_all():
    rows = points(8)
    classes = {"a": [0, 1, 2], "single": [3], "b": [4, 5, 6, 7]}
    found = diversity(classes, lambda members: sums_of(rows[list(members)]))
    assert list(found.per_class) == ["a", "b"]
    within = [slow_mean(rows[:3], squared), slow_mean(rows[4:], squared)]
    assert found.within_class.mean == pytest.approx(sum(within) / 2)
    assert found.overall.mean == pytest.approx(slow_mean(rows, squared))
    alone = diversity({"a": [0], "b": [1]}, lambda members: sums_of(rows[list(members)]))
    assert alone.within_class is None
    assert alone.as_dict()["within_class"] is None
    assert alone.as_dict()["overall"] == pytest.approx(squared(rows[0], rows[1]).item())


def test_distances_of_directions_in_chunks(monkeypatch):
    rows = points(11).float()
    rows[4] = 3 * rows[2]  # the same direction
    unit = torch.nn.functional.normalize(rows.double(), dim=1)
    whole = distance_sums(rows)
    monkeypatch.setattr("dearkd.measures.diversity._CHUNK", 4)
    expected = [sum((a - b).norm().item() for b in unit) for a in unit]
    for sums in (whole, distance_sums(rows)):
        assert sums.tolist() == pytest.approx(expected, abs=1e-12)


@pytest.mark.parametrize(("limit", "forwards"), [(1 << 30, 1), (5 * 6 * 8, 3), (0, 4)])
def test_what_is_remembered_changes_the_work_and_not_the_result(limit, forwards):
    rows, calls = points(10), []

    def embed(members):
        calls.append(len(members))
        return rows[list(members)]

    remembered = Remembered(embed, limit)
    classes = {"a": [(0, 1, 2), (3, 4)], "b": [(5, 6, 7), (8, 9)]}
    found = diversity(classes, lambda parts: squared_distance_sums(parts, remembered))
    assert found.overall.mean == pytest.approx(slow_mean(rows, squared))
    assert found.per_class["b"].mean == pytest.approx(slow_mean(rows[5:], squared))
    assert sum(calls) == forwards * 10

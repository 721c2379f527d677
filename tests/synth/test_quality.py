import itertools

import pytest
import torch
from toy_nets import classifier, random_net

from synth import quality
from synth.quality import (
    confidence_histogram,
    mean_pairwise_distance,
    recognition,
    within_class_diversity,
)


def slow_distance(rows):
    unit = [row / row.norm() for row in rows]
    pairs = list(itertools.combinations(unit, 2))
    return sum((a - b).norm().item() for a, b in pairs) / len(pairs)


def test_recognition_overall_and_per_class():
    result = recognition([1, 1, 0, 2, 2], [1, 1, 1, 2, 0])
    assert result["overall"] == pytest.approx(3 / 5)
    assert result["per_class"] == {0: 0.0, 1: pytest.approx(2 / 3), 2: 1.0}


def test_confidences_fall_into_equal_bins():
    assert confidence_histogram([0.0, 0.09, 0.1, 0.55, 1.0]) == [2, 1, 0, 0, 0, 1, 0, 0, 0, 1]
    assert confidence_histogram([0.4, 0.6, 0.6], bins=2) == [1, 2]


@pytest.mark.parametrize("block", [1, 4, 256])
def test_the_mean_distance_is_that_of_all_pairs(monkeypatch, block):
    monkeypatch.setattr(quality, "BLOCK", block)
    embedding = torch.randn(9, 5, dtype=torch.float64)
    embedding[3] = 7 * embedding[2] + 1e-9  # nearly parallel: the small distance must survive
    assert mean_pairwise_distance(embedding) == pytest.approx(slow_distance(embedding), rel=1e-12)


def test_diversity_is_the_mean_over_pairs_then_over_classes():
    network = classifier(random_net().double())
    pixels = torch.randint(256, (8, 3, 16, 16), dtype=torch.uint8)
    targets = torch.tensor([3, 3, 3, 3, 8, 8, 1, 8])
    _, embedding = network.judge(pixels)
    expected = {t: slow_distance(embedding[targets == t]) for t in (3, 8)}
    classes = [(t, pixels[targets == t].split(2)) for t in (1, 3, 8)]
    result = within_class_diversity(network, iter(classes))
    assert result["per_class"].pop(1) is None
    assert result["per_class"] == pytest.approx(expected)
    assert result["overall"] == pytest.approx(sum(expected.values()) / 2)
    assert within_class_diversity(network, [(0, [pixels[:1]])])["overall"] is None


def test_what_cannot_be_measured():
    with pytest.raises(ValueError, match="got 1 predictions for 2 images"):
        recognition([1], [1, 2])
    with pytest.raises(ValueError, match="at least 2 images, got 1"):
        mean_pairwise_distance(torch.ones(1, 3))

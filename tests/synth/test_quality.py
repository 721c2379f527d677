import itertools

import pytest
import torch
from toy_nets import classifier, random_net

from synth.quality import (
    confidence_histogram,
    judge,
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


def test_diversity_is_the_mean_over_pairs_then_over_classes():
    embedding = torch.randn(9, 5, dtype=torch.float64)
    targets = torch.tensor([3, 3, 3, 3, 3, 8, 8, 1, 1])
    expected = {t: slow_distance(embedding[targets == t]) for t in (1, 3, 8)}
    result = within_class_diversity(embedding, targets)
    assert result["per_class"] == pytest.approx(expected)
    assert result["overall"] == pytest.approx(sum(expected.values()) / 3)


def test_judge_puts_a_set_together():
    verifier = classifier(random_net())
    pixels = torch.randint(256, (6, 3, 16, 16), dtype=torch.uint8)
    targets = torch.tensor([0, 0, 1, 1, 2, 2])
    whole = judge(verifier, [(pixels, targets)])
    parts = judge(verifier, zip(pixels.split(2), targets.split(2), strict=True))
    probabilities, embedding = verifier.judge(pixels)
    hits = (probabilities.argmax(1) == targets).double().mean().item()
    assert whole["recognition"]["overall"] == pytest.approx(hits)
    assert sum(whole["confidence_histogram"]) == 6
    assert whole["diversity"] == within_class_diversity(embedding, targets)
    assert parts["recognition"] == whole["recognition"]
    assert parts["diversity"]["overall"] == pytest.approx(whole["diversity"]["overall"], rel=1e-5)


def test_what_cannot_be_measured():
    with pytest.raises(ValueError, match="got 1 predictions for 2 images"):
        recognition([1], [1, 2])
    with pytest.raises(ValueError, match="at least 2 images, got 1"):
        mean_pairwise_distance(torch.ones(1, 3))

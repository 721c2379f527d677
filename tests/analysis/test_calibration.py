"""Calibration against scikit-learn's curve, a slow form, and cases known by hand."""

import math

import pytest
import torch
from sklearn.calibration import calibration_curve

from dearkd.analysis.calibration import BINS, calibration_error, reliability


def table_of(logits, labels, bins=BINS):
    confidence, read = logits.double().softmax(-1).max(-1)
    return reliability(confidence, read == labels, bins)


def answers(seed, images=500, classes=7):
    generator = torch.Generator().manual_seed(seed)
    logits = 2 * torch.randn(images, classes, generator=generator)
    labels = torch.randint(classes, (images,), generator=generator)
    labels[::2] = logits.argmax(-1)[::2]
    return logits, labels


@pytest.mark.parametrize("bins", [1, 10, 15])
@pytest.mark.parametrize("seed", [0, 1])
def test_bins_are_those_of_scikit_learn(bins, seed):
    logits, labels = answers(seed)
    confidence, predicted = logits.double().softmax(-1).max(-1)
    right, said = calibration_curve(predicted == labels, confidence, n_bins=bins)
    table = table_of(logits, labels, bins)
    assert [entry.accuracy for entry in table] == pytest.approx(right.tolist())
    assert [entry.confidence for entry in table] == pytest.approx(said.tolist())
    assert sum(entry.images for entry in table) == len(labels)


def test_error_is_the_definition_image_by_image():
    logits, labels = answers(3)
    groups = {}
    for row, label in zip(logits.double(), labels, strict=True):
        p = [math.exp(value) for value in row]
        confidence = max(p) / sum(p)
        right = p.index(max(p)) == label.item()
        groups.setdefault(math.ceil(confidence * 15), []).append((confidence, right))
    gaps = [abs(sum(c for c, _ in g) - sum(r for _, r in g)) for g in groups.values()]
    expected = sum(gaps) / len(labels)
    assert calibration_error(table_of(logits, labels)) == pytest.approx(expected, abs=1e-12)


def test_error_is_that_of_torchmetrics():
    functional = pytest.importorskip("torchmetrics.functional.classification")
    logits, labels = answers(4)
    expected = functional.multiclass_calibration_error(logits, labels, num_classes=7, n_bins=15)
    found = calibration_error(table_of(logits, labels))
    assert found == pytest.approx(expected.item(), abs=1e-5)


def test_certain_and_right_is_calibrated_certain_and_wrong_is_not():
    sure = torch.tensor([[1000.0, 0.0]] * 4)
    right, wrong = torch.zeros(4, dtype=torch.int64), torch.ones(4, dtype=torch.int64)
    assert calibration_error(table_of(sure, right)) == 0.0
    assert calibration_error(table_of(sure, wrong)) == 1.0
    unsure = torch.zeros(4, 2)  # says one half, and is right half of the time
    half = torch.tensor([0, 0, 1, 1])
    assert calibration_error(table_of(unsure, half)) == 0.0


def test_a_confidence_on_an_edge_belongs_to_the_bin_below():
    logits = torch.tensor([[0.0, 0.0], [0.1, 0.0]])  # confidence 0.5 and a little more
    table = table_of(logits, torch.zeros(2, dtype=torch.int64), bins=2)
    assert [entry.images for entry in table] == [1, 1]


def test_bins_must_be_positive():
    with pytest.raises(ValueError, match="bins must be positive, got 0"):
        table_of(torch.zeros(1, 2), torch.zeros(1, dtype=torch.int64), bins=0)

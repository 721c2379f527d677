"""What a run logs of its attention: the right numbers, every epoch, at no random draw."""

import math

import numpy as np
import pytest
import timm
import torch
from conftest import opened, quiet_train

from dearkd.analysis.attention_distance import measure_attention
from dearkd.analysis.probe import PROBE_IMAGES, attention_probe
from dearkd.data.datasets import open_data
from dearkd.data.decode import BadImageError
from dearkd.data.order import spread_rows
from dearkd.run_folder.folder import RunFolder

VIEW = {
    "img_size": 16,
    "mean": [0.5] * 3,
    "std": [0.5] * 3,
    "crop_pct": 1.0,
    "interpolation": "bicubic",
}
CPU = torch.device("cpu")
TRAIN_IMAGES = 1438


@pytest.fixture(scope="module")
def digits():
    return open_data("digits")[1]


def test_lines_hold_the_measures_of_the_saved_weights(tmp_path, toy_teacher, digits):
    folder = RunFolder(tmp_path / "run")
    options = {"student": "toy_student", "stage1": 1, "stage2": 1}
    options |= {"teacher.name": str(toy_teacher), "out": str(folder.path)}
    quiet_train(options, ["data.fraction=1"])
    lines = folder.read_metrics()
    assert len(lines) == 2
    model = opened(folder.path).network
    probe = attention_probe(model, digits, VIEW, CPU, TRAIN_IMAGES)
    again = probe(model)
    assert again.keys() == {"attention_distance", "token_cosine"}
    for name, value in again.items():
        np.testing.assert_allclose(lines[-1][name], value, atol=2e-5)
        assert lines[0][name] != lines[1][name]
    assert np.shape(again["attention_distance"]) == (3, 4)
    assert len(again["token_cosine"]) == 4
    farthest = math.hypot(3, 3)
    assert all(0 < head < farthest for block in again["attention_distance"] for head in block)


@pytest.mark.parametrize(
    ("train_images", "count"), [(100, 8), (1438, 28), (3200, PROBE_IMAGES), (10**6, PROBE_IMAGES)]
)
def test_probe_looks_at_evaluation_images_as_evaluation_does(digits, train_images, count):
    model = timm.create_model("toy_student", num_classes=10).eval()
    rows = spread_rows(len(digits), count)
    pixels = [digits.image(row).resize((16, 16), 3) for row in rows]
    images = torch.from_numpy(np.stack([np.asarray(p) for p in pixels])).permute(0, 3, 1, 2)
    expected = measure_attention(model, (images / 255.0 - 0.5) / 0.5)
    seen = attention_probe(model, digits, VIEW, CPU, train_images)(model)
    np.testing.assert_allclose(seen["attention_distance"], expected.distance, atol=2e-5)
    np.testing.assert_allclose(seen["token_cosine"], expected.cosine, atol=2e-5)


def test_a_cnn_run_has_no_such_lines(toy_teacher):
    lines = RunFolder(toy_teacher).read_metrics()
    assert lines
    assert all("attention_distance" not in line and "token_cosine" not in line for line in lines)


def test_probe_draws_no_random_number(digits):
    model = timm.create_model("toy_student", num_classes=10, drop_path_rate=0.5).train()
    before = torch.get_rng_state()
    probe = attention_probe(model, digits, VIEW, CPU, TRAIN_IMAGES)
    assert probe(model) == probe(model)
    assert torch.equal(torch.get_rng_state(), before)
    assert model.training


def test_rows_cover_a_set_sorted_by_class(digits):
    rows = spread_rows(len(digits), 64)
    assert len(set(rows)) == 64
    assert (rows[0], rows[-1]) == (0, len(digits) - 1)
    assert spread_rows(len(digits), 10_000) == list(range(len(digits)))


def test_unreadable_images_are_left_out_and_all_of_them_are_an_error(digits):
    class Damaged:
        labels, classes = digits.labels, digits.classes

        def __init__(self, readable):
            self.readable = readable

        def __len__(self):
            return len(digits)

        def image(self, index):
            if index in self.readable:
                return digits.image(index)
            raise BadImageError(self.name(index), "truncated")

        def name(self, index):
            return f"digit {index}"

    model = timm.create_model("toy_student", num_classes=10)
    assert attention_probe(model, Damaged({0, len(digits) - 1}), VIEW, CPU, TRAIN_IMAGES)(model)
    with pytest.raises(ValueError, match="digit 0"):
        attention_probe(model, Damaged(set()), VIEW, CPU, TRAIN_IMAGES)

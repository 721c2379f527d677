"""Counts against counting by hand; what is measured is what will run."""

import time

import pytest
import timm
import torch
from conftest import FAST
from torch import nn

from dearkd.config import load_config
from dearkd.data.feed import worker_count
from dearkd.models import cost
from dearkd.models.precision import precision_context
from dearkd.training.arithmetic import noise, with_arithmetic
from dearkd.training.build import build

CPU = torch.device("cpu")


def test_parameters_and_multiply_adds_by_hand():
    model = nn.Sequential(nn.Conv2d(3, 4, 3, padding=1), nn.Flatten(), nn.Linear(4 * 25, 7))
    assert cost.parameter_count(model) == 4 * 27 + 4 + 700 + 7
    assert cost.multiply_adds(model.train(), 5) == 25 * 4 * 27 + 700
    assert model.training


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_activations_an_image_by_hand(precision):
    model = nn.Sequential(nn.Flatten(), nn.Linear(48, 1000), nn.ReLU(), nn.Linear(1000, 5))
    with precision_context(CPU, precision):
        measured = cost.activation_bytes_per_image(model, torch.rand(8, 3, 4, 4))
    # Each layer's input: the ReLU's output is the second one's. The weights are a thousand images'.
    assert measured == (48 + 1000) * (4 if precision == "fp32" else 2)


def test_the_least_time_without_the_first_call():
    calls = []

    def call():
        calls.append(None)
        time.sleep(0.2 if len(calls) == 1 else 0.01 * len(calls))

    assert 0.02 <= cost.seconds_per_call(call, CPU, repeats=2) < 0.2
    assert len(calls) == 3


@pytest.mark.parametrize(
    ("seconds", "chosen"),
    [
        ({("fp32", "channels_last"): 0.5}, ["fp32", "channels_last"]),
        ({("bf16", "contiguous"): 0.5}, ["bf16", "contiguous"]),
        ({("bf16", "channels_last"): 0.96}, ["fp32", "contiguous"]),
    ],
)
def test_the_faster_arithmetic_is_taken_if_it_saves_enough(seconds, chosen, monkeypatch):
    layouts = []

    def timed(call, device):
        precision = "bf16" if torch.is_autocast_enabled("cpu") else "fp32"
        return seconds.get((precision, layouts[-1]), 1.0)

    monkeypatch.setattr(cost, "seconds_per_call", timed)
    names = {layout: name for name, layout in cost.LAYOUTS.items()}

    def choose(*asked):
        return cost.faster_arithmetic(
            lambda: None, lambda layout: layouts.append(names[layout]), CPU, *asked
        )

    assert choose("fastest", "fastest") == chosen
    assert choose("fp32", "fastest")[0] == "fp32"
    assert choose("fastest", "channels_last")[1] == "channels_last"


def test_nothing_is_timed_where_nothing_is_open():
    def never(*_):
        raise AssertionError("run")

    assert cost.faster_arithmetic(never, never, CPU, "bf16", "channels_last") == [
        "bf16",
        "channels_last",
    ]


def parts_of(*settings, **options):
    return build(load_config(None, [*FAST, *settings], options))


def test_the_teacher_is_timed_as_it_will_run(monkeypatch):
    parts = parts_of(
        "teacher.memory_format=fastest", "teacher.precision=fp32", student="toy_student"
    )
    weight = next(p for p in parts.teacher.model.parameters() if p.ndim == 4 and p.shape[1] > 1)
    seen = []

    def timed(call, device):
        pixels = parts.teacher.pixels(torch.rand(2, 3, 16, 16))
        kinds = [
            "channels_last" if t.is_contiguous(memory_format=torch.channels_last) else "contiguous"
            for t in (pixels, weight)
        ]
        seen.append(kinds)
        return 1.0

    monkeypatch.setattr(cost, "seconds_per_call", timed)
    with_arithmetic(parts, CPU)
    assert seen == [["contiguous"] * 2, ["channels_last"] * 2]


@pytest.mark.parametrize(
    ("student", "asked", "taken"),
    [
        ("toy_student", "auto", "contiguous"),
        ("toy_student", "channels_last", "channels_last"),
        ("toy_cnn", "channels_last", "channels_last"),
    ],
)
def test_the_layout_that_was_asked_for_is_kept(student, asked, taken):
    parts = parts_of(f"memory_format={asked}", student=student, method="ce")
    assert with_arithmetic(parts, CPU)[0].config.memory_format == taken


def test_models_are_timed_on_what_a_forward_pass_of_one_process_has():
    config = parts_of("data.batch_size=24", student="toy_cnn", method="ce").config
    assert noise(config, CPU).shape == (16, 3, 16, 16)
    assert len(noise(config, CPU, world=2)) == 12
    assert len(noise(config, torch.device("meta"))) == 24
    large = load_config(None, ["data.batch_size=4096", "data.img_size=16"])
    assert len(noise(large, torch.device("meta"))) == 256


def test_cores_are_shared_among_the_processes_of_a_machine(monkeypatch):
    monkeypatch.setattr("dearkd.data.feed.usable_cores", lambda: 32)
    gpu = torch.device("cuda")
    assert [worker_count(None, 224, gpu, n) for n in (1, 4, 64)] == [16, 8, 1]
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "8")
    assert worker_count(None, 224, gpu, 16) == 4
    assert worker_count(7, 224, gpu, 16) == 7
    assert worker_count(None, 32, CPU) == 0


def test_a_timm_models_count_is_timms():
    model = timm.create_model("resnet18", num_classes=10)
    assert cost.parameter_count(model) == 11_181_642
    assert cost.multiply_adds(model, 224) / 1e9 == pytest.approx(1.82, abs=0.01)

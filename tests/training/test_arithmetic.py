"""Precision and layout follow from facts of device and network, not from a stopwatch."""

import json

import pytest
import timm
import torch
from conftest import quiet_train
from safetensors.torch import load_file

from dearkd.models import cost
from dearkd.training.arithmetic import _layout_rule, device_rule

CPU, CUDA = torch.device("cpu"), torch.device("cuda")
OPTIONS = {"student": "toy_student", "stage1": 1, "stage2": 0, "data.fraction": 0.3}
AUTO = [
    "precision=auto",
    "memory_format=auto",
    "teacher.precision=auto",
    "teacher.memory_format=auto",
]


def units(monkeypatch, *names):
    able = dict.fromkeys(names, True)
    monkeypatch.setattr("dearkd.training.arithmetic.torch.cpu.get_capabilities", lambda: able)


def test_a_cpu_computes_cnns_in_bf16_where_it_has_units(monkeypatch):
    units(monkeypatch, "avx2")
    assert device_rule(CPU, convolutional=True) == ("fp32", "a CPU without bf16 units")
    units(monkeypatch, "avx2", "avx512_bf16")
    assert device_rule(CPU, convolutional=True) == ("bf16", "a CPU with avx512_bf16")
    assert device_rule(CPU, convolutional=False)[0] == "fp32"


@pytest.mark.parametrize(("capability", "precision"), [((7, 5), "fp32"), ((8, 0), "bf16")])
def test_a_gpu_goes_by_its_capability(capability, precision, monkeypatch):
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: capability)
    assert device_rule(CUDA, convolutional=False)[0] == precision


@pytest.mark.parametrize(
    ("name", "precision", "layout"),
    [
        ("resnet18", "bf16", "channels_last"),
        ("resnet18", "fp32", "contiguous"),
        ("regnety_002", "bf16", "contiguous"),  # grouped, not depth-wise
        ("tf_efficientnet_lite0", "bf16", "channels_last"),  # depth-wise
        ("vit_tiny_patch16_224", "bf16", "contiguous"),
    ],
)
def test_the_layout_follows_from_the_kind_of_network(name, precision, layout):
    with torch.device("meta"):
        network = timm.create_model(name)
    convolutional = not name.startswith("vit")
    assert _layout_rule(network, CPU, precision, convolutional)[0] == layout


def test_nothing_is_timed_unless_asked_for_and_equal_commands_are_equal_runs(
    tmp_path, toy_teacher, monkeypatch
):
    def timed(*_, **__):
        raise AssertionError("a stopwatch was used")

    monkeypatch.setattr(cost, "seconds_per_call", timed)
    options = {**OPTIONS, "teacher.name": str(toy_teacher)}
    for name in ("one", "two"):
        quiet_train({**options, "out": str(tmp_path / name)}, AUTO)
    files = [(tmp_path / name / "model.safetensors").read_bytes() for name in ("one", "two")]
    assert files[0] == files[1]
    summary = json.loads((tmp_path / "one" / "summary.json").read_text())
    assert summary["precision"] == "fp32"
    assert summary["memory_format"] == "contiguous"
    assert summary["teacher_precision"] in ("fp32", "bf16")
    assert summary["teacher_memory_format"] in ("contiguous", "channels_last")
    assert summary["arithmetic"].keys() == {"student", "teacher"}
    with pytest.raises(AssertionError, match="a stopwatch was used"):
        quiet_train({**options, "out": str(tmp_path / "three")}, [*AUTO, "precision=fastest"])


def test_one_process_trains_in_two_precisions(tmp_path):
    states = []
    for number, precision in enumerate(("fp32", "bf16", "fp32")):
        folder = tmp_path / str(number)
        options = {**OPTIONS, "method": "ce", "out": str(folder)}
        quiet_train(options, [f"precision={precision}"])
        states.append(load_file(folder / "model.safetensors"))
    first, second, third = states
    assert all(torch.equal(first[name], third[name]) for name in first)
    assert not all(torch.equal(first[name], second[name]) for name in first)

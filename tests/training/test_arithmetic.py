"""Precision and layout follow from facts of device and network, not from a stopwatch."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import timm
import torch
from conftest import quiet_train
from safetensors.torch import load_file
from torch import nn

from dearkd.errors import UserError
from dearkd.models import cost
from dearkd.models.attention import set_attention
from dearkd.run_folder.folder import RunFolder
from dearkd.training.arithmetic import (
    layout_rule,
    precision_rule,
    spoils_memory,
)
from dearkd.training.compiling import compile_step
from dearkd.training.muon import Muon

with torch.device("meta"):
    CNN, VIT = timm.create_model("resnet18"), timm.create_model("deit_tiny_patch16_224")
CPU, CUDA = torch.device("cpu"), torch.device("cuda")
OPTIONS = {"student": "toy_student", "stage1": 1, "stage2": 0, "data.fraction": 0.04}
BRIEF = ["data.batch_size=24", "data.validation=20"]
"""Two steps of the digits of ``OPTIONS``, and few to judge: without its units bf16 is slow."""
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
    assert precision_rule(CNN, CPU) == ("fp32", "a CPU without bf16 units")
    units(monkeypatch, "avx2", "avx512_bf16")
    assert precision_rule(CNN, CPU) == ("bf16", "a CPU with AVX-512")
    assert precision_rule(VIT, CPU)[0] == "mixed"
    units(monkeypatch, "avx2")
    assert precision_rule(VIT, CPU)[0] == "fp32"


@pytest.mark.parametrize(
    ("student", "device", "fused"),
    [
        ("dearkd_micro_patch4_32", CPU, False),
        ("deit_micro_distilled_patch4_32", CPU, False),
        ("dearkd_micro_patch4_32", CUDA, True),
        ("dearkd_tiny_patch16_224", CPU, True),  # 198 tokens
    ],
)
def test_short_sequences_are_plain_products_on_a_cpu(student, device, fused):
    torch.manual_seed(0)
    network = timm.create_model(student, depth=2, mhca_depth=1).eval()
    images = torch.randn(2, 3, *network.default_cfg["input_size"][1:])
    before = network(images)
    set_attention(network, device)
    assert {block.attn.fused_attn for block in network.blocks} == {fused}
    torch.testing.assert_close(network(images), before)


@pytest.mark.parametrize(
    ("device", "whole", "mode"),
    [(CUDA, True, "reduce-overhead"), (CUDA, False, None), (CPU, True, None)],
)
def test_a_step_is_replayed_on_cuda_unless_gradients_are_added_up(device, whole, mode):
    class Objective(nn.Module):
        def compile(self, **options):
            self.options = options

    objective = Objective()
    optimizer = Muon([{"params": [nn.Parameter(torch.zeros(2, 2))]}], lr=0.1, momentum=0.9)
    launched = compile_step(objective, optimizer, device, whole=whole)
    assert (launched is not None) is (device is CUDA and not whole)
    assert optimizer.replayed is (mode is not None)
    assert objective.options == {"mode": mode}


def test_mixed_follows_the_curve_of_float32(tmp_path):
    curves = {}
    for precision in ("fp32", "mixed"):
        out = tmp_path / precision
        options = {**OPTIONS, "method": "ce", "student": "dearkd_micro_patch4_32", "stage1": 2}
        settings = [f"precision={precision}", "data.batch_size=32", "student_args.depth=2"]
        settings += ["data.img_size=16", "data.fraction=0.05", "eval_every=2"]
        settings += ["data.validation=20", "student_args.mhca_depth=1"]
        quiet_train({**options, "out": str(out)}, settings)
        curves[precision] = [line["loss"] for line in RunFolder(out).read_metrics()]
    assert curves["mixed"] == pytest.approx(curves["fp32"], rel=2e-4)
    assert curves["mixed"] != curves["fp32"]


@pytest.mark.parametrize(("capability", "precision"), [((7, 5), "fp32"), ((8, 0), "bf16")])
def test_a_gpu_goes_by_its_capability(capability, precision, monkeypatch):
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: capability)
    assert precision_rule(VIT, CUDA)[0] == precision


@pytest.mark.parametrize(
    ("name", "precision", "layout"),
    [
        ("resnet18", "bf16", "channels_last"),
        ("resnet18", "fp32", "channels_last"),
        ("regnety_002", "bf16", "contiguous"),  # grouped, not depth-wise
        ("tf_efficientnet_lite0", "bf16", "channels_last"),  # depth-wise
        ("vit_tiny_patch16_224", "bf16", "contiguous"),
        ("vit_tiny_patch16_224", "fp32", "contiguous"),
    ],
)
def test_the_layout_follows_from_the_kind_of_network(name, precision, layout, monkeypatch):
    units(monkeypatch, "avx2")
    with torch.device("meta"):
        network = timm.create_model(name)
    assert layout_rule(network, CPU, precision)[0] == layout


def test_in_float32_the_layout_follows_from_the_cpu_too(monkeypatch):
    units(monkeypatch, "avx2", "avx512_f")
    assert layout_rule(CNN, CPU, "fp32")[0] == "contiguous"
    assert layout_rule(CNN, CPU, "bf16")[0] == "channels_last"
    units(monkeypatch)  # ARM's, say
    assert layout_rule(CNN, CPU, "fp32")[0] == "contiguous"


NARROW = nn.Sequential(nn.Conv2d(3, 4, 3, padding=1), nn.Conv2d(4, 8, 1, stride=2))
OVERRUN = """
import torch
layer = torch.nn.Conv2d({channels}, 8, 1, stride=2).to(memory_format=torch.channels_last)
for _ in range(60):
    images = torch.randn(8, {channels}, 16, 16).contiguous(memory_format=torch.channels_last)
    layer(images.requires_grad_()).sum().backward()
"""


def test_a_layout_that_spoils_memory_is_not_taken(monkeypatch):
    units(monkeypatch, "avx2")
    assert spoils_memory(NARROW, CPU)
    assert layout_rule(NARROW, CPU, "fp32")[0] == "contiguous"
    assert not spoils_memory(CNN, CPU)
    units(monkeypatch, "avx2", "avx512_f")
    assert not spoils_memory(NARROW, CPU)


def test_a_layout_that_spoils_memory_is_refused_by_name(tmp_path, monkeypatch):
    units(monkeypatch, "avx2")
    narrow = {"student": "toy_cnn", "student_args.channels": [4, 8, 8, 8]}
    options = {**OPTIONS, **narrow, "method": "ce", "out": str(tmp_path / "run")}
    with pytest.raises(UserError, match="memory_format=channels_last could spoil memory"):
        quiet_train(options, [*BRIEF, "memory_format=channels_last"])
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(("channels", "spoils"), [(7, True), (8, False)])
def test_the_checked_heap_finds_what_the_rule_leaves_out(channels, spoils):
    """Where a newer oneDNN no longer spoils memory the rule can go."""
    checked = Path("/lib/x86_64-linux-gnu/libc_malloc_debug.so.0")
    able = torch.cpu.get_capabilities()
    if not checked.exists() or not able.get("avx2") or able.get("avx512_f"):
        pytest.skip("glibc's checked heap shows it, on AVX2 without AVX-512")
    script = [sys.executable, "-c", OVERRUN.format(channels=channels)]
    environment = {**os.environ, "LD_PRELOAD": str(checked), "MALLOC_CHECK_": "3"}
    done = subprocess.run(script, env=environment, check=False, capture_output=True)
    assert (done.returncode != 0) is spoils


def test_nothing_is_timed_unless_asked_for_and_equal_commands_are_equal_runs(
    tmp_path, toy_teacher, monkeypatch
):
    def timed(*_, **__):
        raise AssertionError("a stopwatch was used")

    monkeypatch.setattr(cost, "seconds_per_call", timed)
    options = {**OPTIONS, "teacher.name": str(toy_teacher)}
    for name in ("one", "two"):
        quiet_train({**options, "out": str(tmp_path / name)}, [*AUTO, *BRIEF])
    files = [(tmp_path / name / "model.safetensors").read_bytes() for name in ("one", "two")]
    assert files[0] == files[1]
    summary = json.loads((tmp_path / "one" / "summary.json").read_text())
    assert summary["precision"] in ("fp32", "mixed")
    assert summary["memory_format"] == "contiguous"
    assert summary["compile"] is False
    assert summary["teacher_precision"] in ("fp32", "bf16")
    assert summary["teacher_memory_format"] in ("contiguous", "channels_last")
    assert summary["arithmetic"].keys() == {"student", "teacher"}
    with pytest.raises(AssertionError, match="a stopwatch was used"):
        asked = [*AUTO, *BRIEF, "precision=fastest"]
        quiet_train({**options, "out": str(tmp_path / "three")}, asked)


def test_one_process_trains_in_two_precisions(tmp_path):
    states = []
    for number, precision in enumerate(("fp32", "bf16", "fp32")):
        folder = tmp_path / str(number)
        options = {**OPTIONS, "method": "ce", "out": str(folder)}
        quiet_train(options, [f"precision={precision}", *BRIEF])
        states.append(load_file(folder / "model.safetensors"))
    first, second, third = states
    assert all(torch.equal(first[name], third[name]) for name in first)
    assert not all(torch.equal(first[name], second[name]) for name in first)

"""Every verb and every method, with the networks on the GPU that accelerate finds."""

import json
import math
import re

import jaxtyping
import pytest
import torch
from commands import invoke
from conftest import go_on, stopped_after_one_epoch

from dearkd.training.method_names import METHOD_NAMES

pytestmark = pytest.mark.gpu
SMALL = ["--student", "toy_student", "--fraction", 0.3, "--set", "trackers=[]"]
MEMORY = 0.3
"""Share by which a dry run may be off."""


def done(*args):
    result = invoke(*args)
    assert result.exit_code == 0, result.output
    return result.output


def summary(folder):
    return json.loads((folder / "summary.json").read_text())


def metrics(folder):
    return [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]


@pytest.fixture(scope="module")
def cnn(device, tmp_path_factory):
    out = tmp_path_factory.mktemp("gpu") / "cnn"
    done("teacher", "toy_cnn", "--epochs", 2, "--fraction", 0.5, "--out", out)
    return out


@pytest.fixture(scope="module")
def vit(cnn, tmp_path_factory):
    out = tmp_path_factory.mktemp("gpu") / "vit"
    done("train", "--teacher", cnn, *SMALL, "--stage1", 2, "--stage2", 1, "--out", out)
    return out


def test_a_run_is_on_the_device(device, cnn, vit):
    name = torch.cuda.get_device_name() if device.type == "cuda" else "cpu"
    assert summary(cnn)["device"] == summary(vit)["device"] == name
    assert [line["stage"] for line in metrics(vit)] == ["stage1", "stage1", "stage2"]


@pytest.mark.parametrize("method", METHOD_NAMES)
def test_every_method_makes_finite_steps(cnn, tmp_path, method):
    teacher = [] if method == "ce" else ["--teacher", cnn]
    line = ["--method", method, *teacher, *SMALL, "--stage1", 1, "--stage2", 1]
    done("train", *line, "--set", "data.batch_size=200", "--out", tmp_path / "run")
    assert all(math.isfinite(line["loss"]) for line in metrics(tmp_path / "run"))


def test_the_verbs_that_read_a_run(vit, tmp_path):
    told = json.loads(done("eval", vit, "--json"))
    assert told["logits"]["top1"] == pytest.approx(summary(vit)["top1"], abs=0.6)
    done("analyze", vit, "--images", 16, "--maps", 1)
    done("verify", vit)
    done("report", vit, "--out", tmp_path / "page.html")
    done("export", vit, "--to", "timm", "--out", tmp_path / "timm")


def test_doctor_finds_the_gpu(cuda):
    """Whatever else it finds: an image with CUDA may have an older torch than ours."""
    told = invoke("doctor").output
    assert re.search(rf"ok +devices +\d+ x {torch.cuda.get_device_name(cuda)}", told), told
    assert re.search(r"ok +bf16 +the GPU has bf16 units", told), told


@pytest.mark.parametrize("setting", ["basis=pixels", "basis=spectrum", "engine=generator"])
def test_images_out_of_the_teacher_teach_a_student(cnn, tmp_path, setting):
    made = tmp_path / "made"
    line = ["--set", setting, "--res", 16, "--iters", 4, "--per-class", 4]
    done("synthesize", "--teacher", cnn, *line, "--set", "compile=never", "--out", made)
    done("eval", made, "--verifier", cnn, "--out", tmp_path / "quality.json")
    done("verify", made)
    line = ["--data", made, "--teacher", cnn, "--student", "toy_student", "--recipe", "best"]
    done("train", *line, "--stage1", 2, "--eval-data", "digits", "--out", tmp_path / "run")
    assert summary(tmp_path / "run")["top1"] is not None


def test_a_compiled_step_learns_what_the_others_learn(cnn, tmp_path, monkeypatch):
    monkeypatch.setattr(jaxtyping.config, "jaxtyping_disable", True)  # its checks make no graph
    for name, value in (("plain", "false"), ("compiled", "true")):
        line = ["train", "--teacher", cnn, *SMALL, "--stage1", 2, "--stage2", 1]
        line += ["--set", "optim.ema_decay=0.9", "--set", "optim.clip_grad=1"]
        done(*line, "--set", f"compile={value}", "--out", tmp_path / name)
    plain, compiled = (metrics(tmp_path / name) for name in ("plain", "compiled"))
    for left, right in zip(plain, compiled, strict=True):
        assert right["loss"] == pytest.approx(left["loss"], rel=2e-2)


def test_bf16_follows_the_curve_of_float32(cnn, tmp_path):
    for precision in ("fp32", "bf16"):
        line = ["train", "--teacher", cnn, *SMALL, "--stage1", 3, "--stage2", 0]
        done(*line, "--set", f"precision={precision}", "--out", tmp_path / precision)
    full, half = (metrics(tmp_path / precision) for precision in ("fp32", "bf16"))
    for left, right in zip(full, half, strict=True):
        assert right["loss"] == pytest.approx(left["loss"], rel=5e-2)


def test_a_resumed_run_ends_where_an_uninterrupted_one_does(device, tmp_path, monkeypatch):
    options = {"student": "toy_student", "method": "ce", "stage1": 2, "stage2": 0}
    stopped_after_one_epoch({**options, "out": str(tmp_path / "halted")}, monkeypatch)
    halted = go_on(tmp_path / "halted")
    line = ["--method", "ce", *SMALL, "--stage1", 2, "--stage2", 0]
    line += ["--set", "precision=fp32", "--set", "memory_format=contiguous"]
    done("train", *line, "--set", "data.batch_size=240", "--out", tmp_path / "whole")
    first, second = metrics(tmp_path / "halted"), metrics(tmp_path / "whole")
    for left, right in zip(first, second, strict=True):
        assert left["loss"] == pytest.approx(right["loss"], rel=1e-3)
    assert halted["sessions"][1]["from_epoch"] == 1


def test_a_dry_run_foretells_the_memory(cuda, cnn, tmp_path):
    line = ["train", "--teacher", cnn, "--student", "dearkd_tiny_patch4_32", "--img-size", 16]
    line += ["--set", "data.batch_size=256", "--stage1", 1, "--stage2", 0]
    told = float(re.search(r"([\d.]+) GiB of memory", done(*line, "--dry-run"))[1])
    torch.cuda.reset_peak_memory_stats()
    done(*line, "--out", tmp_path / "run")
    taken = summary(tmp_path / "run")["peak_memory_bytes"] / 2**30
    assert told == pytest.approx(taken, rel=MEMORY, abs=0.1)


def test_a_full_device_is_told_in_one_line(cuda, cnn, tmp_path):
    torch.cuda.empty_cache()
    _, total = torch.cuda.mem_get_info()
    torch.cuda.set_per_process_memory_fraction(min(1.0, 64 * 2**20 / total))
    try:
        line = ["train", "--teacher", cnn, "--student", "dearkd_base_patch16_224"]
        result = invoke(*line, "--img-size", 224, "--out", tmp_path / "run")
    finally:
        torch.cuda.set_per_process_memory_fraction(1.0)
        torch.cuda.empty_cache()
    assert result.exit_code == 2, result.output
    assert len(result.stderr.strip().splitlines()) == 1
    assert "out of memory; add --set data.micro_batch=auto" in result.stderr


def test_a_step_that_does_not_fit_is_halved_until_it_does(cuda, cnn, tmp_path):
    """The device is really full: its allocator refuses what goes over a limit."""
    line = ["train", "--teacher", cnn, "--student", "dearkd_tiny_patch4_32", "--img-size", 16]
    line += ["--set", "data.batch_size=512", "--stage1", 1, "--stage2", 0]
    torch.cuda.empty_cache()
    torch.cuda.reset_peak_memory_stats()
    done(*line, "--out", tmp_path / "whole")
    taken = summary(tmp_path / "whole")["peak_memory_bytes"]
    _, total = torch.cuda.mem_get_info()
    torch.cuda.empty_cache()
    torch.cuda.set_per_process_memory_fraction(0.6 * taken / total)
    try:
        told = done(*line, "--set", "data.micro_batch=auto", "--out", tmp_path / "halved")
    finally:
        torch.cuda.set_per_process_memory_fraction(1.0)
        torch.cuda.empty_cache()
    assert "out of memory: from here on data.micro_batch is" in told
    whole, halved = (metrics(tmp_path / name)[0]["loss"] for name in ("whole", "halved"))
    assert halved == pytest.approx(whole, rel=5e-2)

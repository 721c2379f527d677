"""Two processes are one: the same training losses and the same accuracy to the last image."""

import json
import shutil
from pathlib import Path

import pytest
import torch
from commands import invoke, refused
from conftest import go_on, stopped_after_one_epoch
from PIL import Image
from two_processes import TwoProcesses

from dearkd.run_folder.folder import RunFolder
from dearkd.trained.resolve import EMBEDDED_WEIGHTS
from dearkd.training.method_names import METHOD_NAMES

TRAIN = (
    "train --fraction 0.1 --stage1 auto --epochs 3 --stage2 0 --set switch.fall=1 "
    "--set data.batch_size=12 --set precision=fp32 "
    "--set teacher.precision=fp32 --set teacher.memory_format=contiguous --set data.mixup=0.8 "
    "--set student_args.depth=2 --set student_args.mhca_depth=1 --set checkpoint_minutes=1e-9 "
    "--set eval_every=3"
)
"""11 steps an epoch: after the tenth the processes agree to save."""


@pytest.fixture(scope="module")
def two(tmp_path_factory):
    processes = TwoProcesses(tmp_path_factory.mktemp("two"))
    yield processes
    processes.end()


@pytest.fixture
def dearkd(two):
    """Runs a command by one process (this one) or by two of their own; what it printed."""

    def dearkd(line, processes):
        if processes == 2:
            return two(line)
        done = invoke(*line.split())
        assert done.exit_code == 0, done.output
        return done.stdout

    return dearkd


def test_two_processes_train_and_judge_as_one(tmp_path, dearkd):
    lines, teachers, sums = {}, [], []
    for processes in (1, 2):
        folder = tmp_path / str(processes)
        dearkd(f"{TRAIN} --out {folder}", processes)
        lines[processes] = RunFolder(folder).read_metrics()
        summary = json.loads((folder / "summary.json").read_text())
        assert summary["processes"] == processes
        teachers.append(summary["sessions"][0]["teacher_reading"])
        assert summary["stages"] == {"stage1": 2, "stage2": 1}  # decided from the same means
        # The checkpoint before the last is of the tenth step: all go on from what all have seen.
        saved = torch.load(RunFolder(folder).checkpoints.previous, weights_only=True)["position"]
        assert saved["step"] == 10
        sums.append({name: float(value) for name, value in saved["sums"].items()})
    assert sums[1] == pytest.approx(sums[0], rel=1e-4)
    for one, two in zip(lines[1], lines[2], strict=True):
        for term in ("loss", "class", "distillation"):
            assert two[term] == pytest.approx(one[term], rel=1e-4)
    assert teachers[0] == teachers[1]
    assert teachers[0]["images"] == 359
    judged = [json.loads(dearkd(f"eval {tmp_path / '1'} --json", n)) for n in (1, 2)]
    assert judged[0] == judged[1]
    assert judged[0]["images"] == {"count": 359}


def test_they_are_one_even_without_an_image_each(tmp_path, two):
    image = tmp_path / "data" / "3" / "0.png"
    image.parent.mkdir(parents=True)
    Image.new("RGB", (8, 8)).save(image)
    told = two(f"eval {EMBEDDED_WEIGHTS} --data {tmp_path / 'data'} --json")
    assert json.loads(told)["images"] == {"count": 1}


def test_what_fails_on_one_process_ends_both(two):
    assert two.failed("fail_on_the_main_process") == [
        "RuntimeError: no memory left",
        "UserError: the main process failed (RuntimeError: no memory left)",
    ]
    main, other = two.failed("spoil_a_statistic_of_one_process")
    assert main == other
    assert "UserError: a statistic of BatchNorm is no longer a finite number" in main


@pytest.mark.slow
@pytest.mark.parametrize("method", METHOD_NAMES)
def test_two_processes_follow_the_curve_of_one_with_every_method(
    tmp_path, method, record_curves, dearkd
):
    line = f"train --method {method} --fraction 0.1 --stage1 2 --stage2 1 --set precision=fp32 "
    line += "--set data.batch_size=12 --set data.mixup=0.8 --set student_args.depth=3 "
    line += "--set student_args.mhca_depth=2 --set data.micro_batch=2 "
    if method != "ce":
        line += "--set teacher.precision=fp32 --set teacher.memory_format=contiguous "
    for processes in (1, 2):
        dearkd(f"{line} --out {tmp_path / str(processes)}", processes)
    metrics = (RunFolder(tmp_path / name).read_metrics() for name in ("1", "2"))
    one, two = ([line["loss"] for line in lines] for lines in metrics)
    record_curves(method, one, two)
    assert two == pytest.approx(one, rel=1e-4)


def test_two_processes_train_a_batchnorm_network_as_one_in_two_passes(tmp_path, dearkd):
    """A process of two sees the batch of a pass of one: losses are equal, and one network results.

    Both judge the evaluation images, a half each; by the file alone one process finds the same.
    """
    line = "teacher toy_cnn --fraction 0.1 --epochs 2 --set eval_every=2 --set data.batch_size=12"
    line += " --set precision=fp32 --set memory_format=contiguous --set checkpoint_minutes=1e-9"
    dearkd(f"{line} --set data.micro_batch=6 --out {tmp_path / '1'}", 1)
    dearkd(f"{line} --out {tmp_path / '2'} --import {Path(__file__).parents[1] / 'conftest.py'}", 2)
    one, two = (RunFolder(tmp_path / name).read_metrics() for name in ("1", "2"))
    for left, right in zip(one, two, strict=True):
        assert right["loss"] == pytest.approx(left["loss"], rel=1e-4)
    summary = json.loads((tmp_path / "2" / "summary.json").read_text())
    judged = json.loads(dearkd(f"eval {tmp_path / '2'} --json", 1))
    assert judged["logits"]["top1"] == summary["top1"] == two[-1]["top1"]


def test_a_run_of_one_process_goes_on_in_two(tmp_path, monkeypatch, dearkd):
    options = {"method": "dearkd", "stage1": 1, "stage2": 2, "student_args.depth": 2}
    options |= {"student_args.mhca_depth": 1, "eval_every": 3, "out": str(tmp_path / "whole")}
    stopped_after_one_epoch(options, monkeypatch)
    shutil.copytree(tmp_path / "whole", tmp_path / "halted")
    go_on(tmp_path / "whole")
    dearkd(f"train --resume --out {tmp_path / 'halted'}", 2)
    one, two = (RunFolder(tmp_path / name).read_metrics() for name in ("whole", "halted"))
    assert [line["stage"] for line in two] == ["stage1", "stage2", "stage2"]
    for left, right in zip(one, two, strict=True):
        assert right["loss"] == pytest.approx(left["loss"], rel=1e-4)
    summary = json.loads((tmp_path / "halted" / "summary.json").read_text())
    assert [session["processes"] for session in summary["sessions"]] == [1, 2]


def test_engines_that_were_never_tried_are_refused(monkeypatch):
    monkeypatch.setenv("ACCELERATE_USE_FSDP", "true")
    message = refused("train", "--dry-run")
    assert "accelerate is set to FSDP, which dearkd was never tried with; launch it" in message


def test_two_processes_make_the_images_of_one(tmp_path, monkeypatch, dearkd):
    monkeypatch.chdir(tmp_path)
    settings = "--iters 2 --per-class 4 --set images_per_class=2 --set precision=fp32"
    settings += " --set layout=contiguous"
    hashes = {}
    for processes in (1, 2):
        out = tmp_path / f"runs/synth-digits-{processes}"  # of two processes one makes it
        dearkd(f"synthesize {settings}", processes)
        content = json.loads((out / "manifest.json").read_text())
        hashes[processes] = {image["file"]: image["sha256"] for image in content["images"]}
    assert hashes[1] == hashes[2]
    assert len(hashes[1]) == 40

"""Two processes are one: the same training losses and the same accuracy to the last image."""

import json
import os
import subprocess
import sys

import pytest
from commands import invoke

from dearkd.run_folder.folder import RunFolder

TRAIN = (
    "train --fraction 0.1 --stage1 auto --epochs 3 --stage2 0 --set switch.fall=1 "
    "--set data.batch_size=12 --set precision=fp32 "
    "--set teacher.precision=fp32 --set teacher.memory_format=contiguous --set data.mixup=0.8 "
    "--set student_args.depth=3 --set student_args.mhca_depth=2 --set checkpoint_minutes=1e-9"
)
"""11 steps an epoch: after the tenth the processes agree to save."""
TORCHRUN = ["-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2"]


def dearkd(line, processes):
    """The standard output of the command, by one process (this one) or by two of their own."""
    if processes == 1:
        done = invoke(*line.split())
        assert done.exit_code == 0, done.output
        return done.stdout
    done = subprocess.run(
        [sys.executable, *TORCHRUN, "-m", "dearkd", *line.split()],
        env={**os.environ, "OMP_NUM_THREADS": "1", "ACCELERATE_USE_CPU": "true"},
        capture_output=True,
        text=True,
        check=False,
        timeout=300,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_two_processes_train_and_judge_as_one(tmp_path):
    lines = {}
    for processes in (1, 2):
        folder = tmp_path / str(processes)
        dearkd(f"{TRAIN} --out {folder}", processes)
        lines[processes] = RunFolder(folder).read_metrics()
        summary = json.loads((folder / "summary.json").read_text())
        assert summary["processes"] == processes
        assert summary["stages"] == {"stage1": 2, "stage2": 1}  # decided from the same means
    for one, two in zip(lines[1], lines[2], strict=True):
        for term in ("loss", "class", "distillation"):
            assert two[term] == pytest.approx(one[term], rel=1e-4)
    judged = [json.loads(dearkd(f"eval {tmp_path / '1'} --json", n)) for n in (1, 2)]
    assert judged[0] == judged[1]
    assert judged[0]["images"] == {"count": 359}


def test_two_processes_make_the_images_of_one(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    settings = "--iters 4 --per-class 4 --set images_per_class=2 --set precision=fp32"
    settings += " --set layout=contiguous"
    hashes = {}
    for processes in (1, 2):
        out = tmp_path / f"runs/synth-digits-{processes}"  # of two processes one makes it
        dearkd(f"synthesize {settings}", processes)
        content = json.loads((out / "manifest.json").read_text())
        hashes[processes] = {image["file"]: image["sha256"] for image in content["images"]}
    assert hashes[1] == hashes[2]
    assert len(hashes[1]) == 40

"""Two processes are one: the same training losses and the same accuracy to the last image."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from dearkd.runs import RunFolder

BIN = Path(sys.executable).parent
LAUNCH = "launch --cpu --num_processes 2 --num_machines 1 --mixed_precision no --dynamo_backend no"
TRAIN = (
    "train --fraction 0.1 --stage1 1 --stage2 1 --set data.batch_size=16 --set precision=fp32 "
    "--set teacher.precision=fp32 --set teacher.memory_format=contiguous --set data.mixup=0.8"
)


def dearkd(line, processes):
    start = [BIN / "dearkd"] if processes == 1 else [BIN / "accelerate", *LAUNCH.split()]
    start += [] if processes == 1 else ["-m", "dearkd"]
    done = subprocess.run(
        [*map(str, start), *line.split()],
        env={**os.environ, "OMP_NUM_THREADS": "1"},
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
    for one, two in zip(lines[1], lines[2], strict=True):
        for term in ("loss", "class", "distillation"):
            assert two[term] == pytest.approx(one[term], rel=1e-4)
    judged = [json.loads(dearkd(f"eval {tmp_path / '1'} --json", n)) for n in (1, 2)]
    assert judged[0] == judged[1]
    assert judged[0]["images"] == {"count": 359}

"""kill -9 at random moments: the same command again ends with the same bytes, and nothing is lost.

    python -m pytest tests/faults -m "slow or not slow" --moments 100 --record FILE

The moments are drawn with a seed, from the time that the uninterrupted command takes.
"""

import hashlib
import json
import random
import shlex
import statistics
import time

import forked
import psutil
import pytest
import yaml

from dearkd.run_folder.files import load_checkpoint
from dearkd.run_folder.folder import RunFolder

PLAIN = "--set precision=fp32 --set memory_format=contiguous --set trackers=[] "
SMALL = shlex.split(
    PLAIN + "--fraction 0.05 --stage1 1 --stage2 1 --img-size 16 --set data.batch_size=24 "
    "--set eval_every=9 --set teacher.precision=fp32 --set teacher.memory_format=contiguous "
    "--set student_args.depth=1 --set student_args.mhca_depth=1 --set checkpoint_minutes=1e-9"
)
TRAIN = ["train", *SMALL, "--set", "data.mixup=0.8", "--set", "optim.ema_decay=0.9", "--go-on"]
CACHED = ["train", "--method", "deit-hard", *SMALL, "--go-on"]
MADE = shlex.split(
    "synthesize --classes 0-3 --per-class 4 --iters 12 --set images_per_class=2 "
    "--set classes_per_group=2 --set groups_per_batch=1 "
    "--set precision=fp32 --set layout=contiguous --set compile=never --go-on"
)


class Work:
    def is_leftover(self, file):
        """Whether a temporary file is one that a killed process has left."""
        return "lock" not in file.name


class Training(Work):
    """A run that saves after every step."""

    def line(self, folder):
        return [*TRAIN, "--out", folder / "run"]

    def bytes(self, folder):
        return [(folder / "run" / "model.safetensors").read_bytes()]

    def finished(self, folder):
        """Epochs that are saved; a checkpoint that can't be read fails here."""
        file = RunFolder(folder / "run").last_file
        return load_checkpoint(file)["position"]["epoch"] if file.exists() else 0

    def lost(self, folder, finished):
        """Epochs of those that the resumed run made again."""
        return finished - RunFolder(folder / "run").sessions()[-1]["from_epoch"]


class Cache(Training):
    """The same with the teacher's labels kept, which the run that goes on reads."""

    def is_leftover(self, file):
        """Labels are shared: a file that another run might be writing is removed a day later."""
        return file.parent.name != "labels"

    def line(self, folder):
        return [*CACHED, "--cache-labels", folder / "labels", "--out", folder / "run"]

    def lost(self, folder, finished):
        summary = json.loads((folder / "run" / "summary.json").read_text())
        assert summary["teacher_labels"]["read"] >= 0
        return super().lost(folder, finished)


class Files(Work):
    """What is finished once a file of it stands, and must not be written again."""

    def bytes(self, folder):
        return [file.read_bytes() for file in sorted(folder.glob(self.results))]

    def finished(self, folder):
        return {file: file.stat().st_mtime_ns for file in folder.glob(self.results)}

    def lost(self, folder, finished):
        return sum(file.stat().st_mtime_ns != written for file, written in finished.items())


class Synthesis(Files):
    results = "set/*/*.png"

    def line(self, folder):
        return [*MADE, "--out", folder / "set"]


class SynthesisOfTwo(Synthesis):
    """By two processes, which torchrun starts; they are killed with it."""

    def line(self, folder):
        return ["torchrun", "--nproc_per_node", "2", "-m", "dearkd", *super().line(folder)]


class Sweep(Files):
    """A run is finished once its summary stands; until then its weights are written again."""

    results = "study/*/summary.json"

    def bytes(self, folder):
        return [file.read_bytes() for file in sorted(folder.glob("study/*/model.safetensors"))]

    def line(self, folder):
        study = folder / "study.yaml"
        settings = {"stage1": 1, "stage2": 0, "data": {"fraction": 0.1, "batch_size": 16}}
        settings |= {"precision": "fp32", "memory_format": "contiguous", "trackers": []}
        arms = {"labels": {"method": "ce"}, "taught": {"method": "deit-hard"}}
        if not study.exists():
            study.write_text(yaml.safe_dump({"settings": settings, "seeds": [0], "arms": arms}))
        return ["sweep", study, "--out", folder / "study"]


@pytest.mark.slow  # a short one, of the installed command, is in tests/cli/test_cli.py
@pytest.mark.parametrize(
    "kind",
    [Training, Cache, Synthesis, SynthesisOfTwo, Sweep],
    ids=lambda kind: kind.__name__.lower(),
)
def test_kill_9_at_random_moments(kind, tmp_path, moments, record_fault):
    work, draw = kind(), random.Random(kind.__name__)
    (tmp_path / "whole").mkdir()
    forked.run(["--version"], tmp_path / "log")  # libraries are loaded now
    began = time.monotonic()
    assert forked.run(work.line(tmp_path / "whole"), tmp_path / "log") == 0, said(tmp_path)
    seconds, expected = time.monotonic() - began, work.bytes(tmp_path / "whole")
    assert expected
    killed = []
    for number in range(10 * moments):  # some end before their moment
        row = killed_once(work, tmp_path / str(number), draw.uniform(0, 0.8 * seconds))
        killed += [row] if row["killed"] else []
        if len(killed) == moments:
            break
    survived = [row for row in killed if digests(row["bytes"]) == digests(expected)]
    waits = [row["seconds"] for row in killed]
    record_fault(
        f"kill -9: {kind.__name__.lower()}",
        times=len(killed),
        survived=len(survived),
        lost=sum(row["lost"] for row in killed),
        seconds_to_go_on=[statistics.median(waits), max(waits)] if waits else None,
    )
    assert len(survived) == len(killed) == moments
    assert all(row["lost"] == 0 for row in killed)


@pytest.mark.slow
def test_a_sweep_killed_alone_leaves_no_run_behind(tmp_path, record_fault):
    """Its run saves and ends."""
    work = Sweep()
    process = forked.start([*work.line(tmp_path), "--set", "stage1=200"], tmp_path / "log")
    logs = tmp_path / "study" / "logs"
    while not any("epoch" in log.read_text() for log in logs.glob("*.log")):
        assert process.is_alive(), said(tmp_path)
        time.sleep(0.1)
    (run,) = psutil.Process(process.pid).children()
    process.kill()
    forked.ended(process)
    psutil.wait_procs([run], timeout=60)
    assert not run.is_running()
    assert (tmp_path / "study" / "labels-seed0" / "checkpoint" / "last.pt").is_file()
    record_fault("kill -9: sweep alone", times=1, survived=1)


def killed_once(work, folder, moment):
    """The command killed after so many seconds, and gone on with by the same command."""
    folder.mkdir()
    process = forked.start(work.line(folder), folder / "log")
    time.sleep(moment)
    killed = forked.kill(process)
    finished = work.finished(folder)
    process = forked.start(work.line(folder), folder / "log")
    seconds = forked.seconds_until_it_writes(process, folder)
    assert forked.ended(process) == 0, said(folder)
    lost = work.lost(folder, finished) if killed else 0
    assert not [file for file in folder.rglob(".*.tmp*") if work.is_leftover(file)]
    return {"killed": killed, "bytes": work.bytes(folder), "lost": lost, "seconds": seconds}


def digests(contents):
    return [hashlib.sha256(content).hexdigest() for content in contents]


def said(folder):
    return (folder / "log").read_text()

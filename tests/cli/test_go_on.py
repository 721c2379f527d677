"""One command line that starts, goes on and leaves what is finished: ``--go-on``."""

import os
import signal

import yaml
from commands import invoke, refused
from conftest import FAST, photo_classes

from dearkd.run_folder.folder import RunFolder
from dearkd.synthesis.live import SynthesisProgress
from dearkd.training.progress import RunProgress

TRAIN = ["train", "--method", "ce", "--student", "toy_student", "--fraction", "0.3", "--go-on"]
TRAIN += [word for setting in FAST for word in ("--set", setting)]
MADE = "--classes 0-1 --per-class 2 --iters 2 --set precision=fp32 --set layout=contiguous"
MADE = ["synthesize", *MADE.split(), "--set", "compile=never", "--go-on"]


def stopped_once(monkeypatch, kind, line):
    """The command, whose first step gets a signal."""
    sent = []

    def step(self, step, images, terms):
        if not sent:
            sent.append(os.kill(os.getpid(), kind))

    with monkeypatch.context() as patch:
        patch.setattr(RunProgress, "step", step)
        return invoke(*line)


def test_one_command_starts_goes_on_and_leaves_what_is_finished(tmp_path, monkeypatch):
    line = [*TRAIN, "--stage1", "2", "--stage2", "0", "--set", "data.batch_size=140"]
    line += ["--out", tmp_path / "run"]
    run = RunFolder(tmp_path / "run")
    stopped = stopped_once(monkeypatch, signal.SIGUSR1, line)
    assert stopped.exit_code == 75, stopped.output
    assert (
        f"stopped and saved; go on with: dearkd train --resume --out {run.path}" in stopped.stdout
    )
    assert run.last_file.exists() and not run.summary_file.exists()
    done = invoke(*line)
    assert done.exit_code == 0, done.output
    assert len(run.sessions()) == 2
    before = run.summary_file.stat().st_mtime_ns
    left = invoke(*line)
    assert left.exit_code == 0
    assert "is finished; there is nothing left to do" in left.stdout
    assert run.summary_file.stat().st_mtime_ns == before


def test_a_config_and_relative_paths_are_those_of_the_stored_run(tmp_path, monkeypatch):

    photo_classes(tmp_path / "photos")
    monkeypatch.chdir(tmp_path)
    config = {"out": "run", "stage1": 1, "stage2": 0, "precision": "auto"}
    data = {"train": "photos", "evaluation": "photos", "img_size": 16, "batch_size": 10}
    (tmp_path / "run.yaml").write_text(yaml.safe_dump({**config, "data": data}))
    line = ["train", "run.yaml", "--method", "ce", "--student", "toy_student", "--go-on"]
    line += ["--set", "trackers=[]"]
    first = invoke(*line)
    assert first.exit_code == 0, first.output
    again = invoke(*line)
    assert "run is finished" in again.stdout, again.output
    assert "differ from seed=3 (stored: 0); take them back" in refused(*line, "--seed", "3")
    auto = refused(*line, "--stage1", "auto", "--epochs", "9")
    assert "stage1=auto (stored: 1)" in auto


def test_a_null_that_says_without_is_not_left_open(tmp_path):
    line = [*TRAIN, "--stage1", "1", "--stage2", "0", "--out", tmp_path / "run"]
    clipped = [*line, "--set", "optim.clip_grad=1"]
    assert invoke(*clipped).exit_code == 0
    open_ = invoke(*clipped, "--set", "optim.momentum=null", "--set", "optim.lr=null")
    assert "run is finished" in open_.stdout, open_.output
    told = refused(*clipped, "--set", "optim.clip_grad=null")
    assert "differ from optim.clip_grad=None (stored: 1.0)" in told


def test_what_the_verb_teacher_chooses_is_the_same_run(tmp_path):
    line = ["teacher", "--go-on", "--fraction", "0.1", "--epochs", "1", "--out", tmp_path / "run"]
    for words in ("done", "is finished"):
        result = invoke(*line)
        assert result.exit_code == 0, result.output
        assert words in result.stdout


def test_it_needs_a_folder_and_no_resume(tmp_path):
    for verb in (TRAIN, MADE):
        assert "--go-on needs --out FOLDER" in refused(*verb)
        line = refused(*verb, "--resume", "--out", tmp_path / "run")
        assert "--go-on resumes what was begun; leave --resume out" in line


def test_a_set_is_begun_gone_on_with_and_left(tmp_path, monkeypatch):
    line = [*MADE, "--out", tmp_path / "set"]

    def step(self, *step, **kind):
        os.kill(os.getpid(), signal.SIGUSR1)

    with monkeypatch.context() as patch:
        patch.setattr(SynthesisProgress, "step", step)
        stopped = invoke(*line)
    assert stopped.exit_code == 75, stopped.output
    assert "--resume --out" in stopped.stdout
    assert invoke(*line).exit_code == 0
    made = (tmp_path / "set" / "manifest.json").stat().st_mtime_ns
    assert "set is finished; there is nothing left to do" in invoke(*line).stdout
    assert (tmp_path / "set" / "manifest.json").stat().st_mtime_ns == made
    other = refused(*line, "--seed", "3")
    assert "--go-on keeps the settings stored in" in other
    assert "seed=3 (stored: 0); take them back" in other

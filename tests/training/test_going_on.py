"""A resumed run keeps where it came from, asks for no more than it needs, and ends once."""

import shutil

import pytest
import torch
from commands import invoke
from conftest import (
    FAST,
    FAST_TEACHER,
    go_on,
    photo_classes,
    quiet_train,
    stopped_after_one_epoch,
)
from timm.utils.model_ema import ModelEmaV3

from dearkd.config import load_config
from dearkd.run_folder import provenance
from dearkd.run_folder.processes import process_state
from dearkd.training.build import build
from dearkd.training.dry_run import Costs, seconds_left

OPTIONS = {"student": "toy_student", "method": "ce", "stage1": 2, "stage2": 0}


def test_a_resumed_run_says_what_it_was_begun_with(tmp_path, monkeypatch):
    options = {**OPTIONS, "out": str(tmp_path / "run")}
    monkeypatch.setattr("dearkd.training.summary.commit", lambda: "first")
    stopped_after_one_epoch(options, monkeypatch)
    monkeypatch.setattr("dearkd.training.summary.commit", lambda: "second")
    summary = go_on(tmp_path / "run")
    assert summary["commit"] == "first"
    assert [(s["commit"], s["from_epoch"]) for s in summary["sessions"]] == [
        ("first", 0),
        ("second", 1),
    ]


def test_the_teacher_is_read_once_when_the_run_begins(tmp_path, monkeypatch):
    options = {**OPTIONS, "method": "deit-soft", "out": str(tmp_path / "run")}
    stopped_after_one_epoch(options, monkeypatch)
    summary = go_on(tmp_path / "run")
    first, second = summary["sessions"]
    assert summary["teacher_top1"] == first["teacher_reading"]["top1"] > 99
    assert "teacher_reading" not in second


def test_a_dry_run_says_what_is_left_of_it(tmp_path, monkeypatch):
    options = {**OPTIONS, "stage1": 2, "out": str(tmp_path / "run")}
    stopped_after_one_epoch(options, monkeypatch)
    before = sorted(tmp_path.rglob("*"))
    told = invoke("train", "--resume", "--out", tmp_path / "run", "--dry-run")
    assert told.exit_code == 0, told.output
    assert "1 step of 240 an epoch, 2 steps in 2 epochs; left: 1 step\n" in told.stdout
    assert sorted(tmp_path.rglob("*")) == before


def test_the_time_is_that_of_the_steps_and_evaluations_that_are_left():
    settings = ["stage1=6", "stage2=4", "eval_every=4", "data.fraction=0.1", "data.batch_size=14"]
    parts = build(load_config(None, [*FAST, *FAST_TEACHER, *settings], {"student": "toy_student"}))
    assert len(parts.train) // 14 == 10
    costs = Costs(seconds=[2.0, 0.5], judging=0.25, resident=0, images=1)
    judged = len(parts.evaluation) * 0.25
    whole = 140 * (6 * 2.0 + 4 * 0.5)
    for done, training, evaluations in (
        *((0, whole, 4), (4.5, 140 * (1.5 * 2.0 + 4 * 0.5), 3)),
        *((6, 140 * 4 * 0.5, 3), (8, 140 * 2 * 0.5, 2), (10, 0, 1)),
    ):
        found = seconds_left(parts, costs, process_state(), done)
        assert found == pytest.approx(training + evaluations * judged)


def test_what_it_was_initialised_from_may_be_gone(tmp_path, monkeypatch):
    source = tmp_path / "source"
    quiet_train({**OPTIONS, "stage1": 1, "out": str(source)}, ["data.fraction=0.3"])
    stopped_after_one_epoch(
        {**OPTIONS, "init": str(source), "out": str(tmp_path / "run")}, monkeypatch
    )
    shutil.rmtree(source)
    assert go_on(tmp_path / "run")["epochs"] == 2


def test_a_finished_run_is_left_as_it_is(tmp_path):
    quiet_train({**OPTIONS, "stage1": 1, "out": str(tmp_path / "run")}, ["data.fraction=0.3"])
    files = [file for file in (tmp_path / "run").rglob("*") if file.is_file()]
    before = {file: (file.stat().st_mtime_ns, file.read_bytes()) for file in files}
    go_on(tmp_path / "run")
    assert {file: (file.stat().st_mtime_ns, file.read_bytes()) for file in files} == before


def test_a_run_is_judged_and_resumed_from_another_folder(tmp_path, monkeypatch):
    from conftest import opened

    from dearkd.judging.candidate import candidate_of
    from dearkd.trained.resolve import resolve

    photo_classes(tmp_path / "photos")
    monkeypatch.chdir(tmp_path)
    options = {**OPTIONS, "stage1": 1, "data.train": "photos", "data.evaluation": "photos"}
    quiet_train({**options, "out": "run", "data.img_size": 16}, ["data.batch_size=10"])
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    assert len(candidate_of(resolve("../run", "run")).source) == 40
    assert opened("../run").num_classes == 10


def test_the_average_decays_as_the_setting_says(tmp_path):
    """Against the recurrence itself; timm's warm-up would be at 0.63 after so few steps."""
    seen = []
    update = ModelEmaV3.update

    def watched(self, model, step=None):
        update(self, model, step=step)
        seen.append((model.head.weight.detach().clone(), self.module.head.weight.detach().clone()))

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(ModelEmaV3, "update", watched)
        quiet_train(
            {**OPTIONS, "stage1": 3, "out": str(tmp_path / "run")},
            ["data.fraction=0.3", "optim.ema_decay=0.95", "data.batch_size=60"],
        )
    average = seen[0][1].double()
    for weight, averaged in seen[1:]:
        average = 0.95 * average + 0.05 * weight.double()
        torch.testing.assert_close(averaged.double(), average, rtol=1e-5, atol=1e-7)
    assert len(seen) > 10


def test_commit_is_known_in_a_checkout():
    assert provenance.commit() is not None

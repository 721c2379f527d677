"""Processes that meet, that die, and that are fed rubbish."""

import re
import signal
import time

import forked
import psutil
import pytest
from conftest import quiet_train

from dearkd.data.datasets import open_data
from dearkd.errors import UserError
from dearkd.run_folder.folder import RunFolder
from dearkd.training.progress import RunProgress

CE = {"student": "toy_student", "method": "ce", "stage1": 2, "stage2": 0}
LINE = ["train", "--method", "ce", "--fraction", "0.05", "--stage1", "1", "--stage2", "0"]
LINE += ["--set", "student_args.depth=1", "--set", "student_args.mhca_depth=1"]
LINE += ["--set", "trackers=[]", "--img-size", "16"]


def at_once(lines, folder):
    """Exit codes and last lines of commands that start together."""
    logs = [folder / f"log-{number}" for number in range(len(lines))]
    processes = [forked.start(line, log) for line, log in zip(lines, logs, strict=True)]
    codes = [forked.ended(process) for process in processes]
    return codes, [log.read_text().strip().splitlines()[-1] for log in logs]


def test_of_two_runs_in_one_folder_one_is_refused(tmp_path, moments, record_fault):
    for number in range(moments):
        line = [*LINE, "--out", tmp_path / f"run-{number}"]
        codes, words = at_once([line, line], tmp_path)
        assert sorted(codes) == [0, 2], words
        assert re.match(
            "error: .*(is in use by another|already holds a run)", words[codes.index(2)]
        )
        assert len(RunFolder(tmp_path / f"run-{number}").sessions()) == 1
    record_fault("two runs in one folder", times=moments, survived=moments)


def test_two_runs_that_choose_a_folder_at_once_choose_two(
    tmp_path, moments, record_fault, monkeypatch
):
    monkeypatch.chdir(tmp_path)
    for number in range(moments):
        codes, words = at_once([LINE, LINE], tmp_path)
        assert codes == [0, 0], words
        assert len(list(tmp_path.glob("runs/*/summary.json"))) == 2 * number + 2
    record_fault("two runs choose a folder at once", times=moments, survived=moments)


def photos(folder, good, bad=0):
    """Digits as files, and files that only look like images."""
    source = open_data("digits")[1]
    for index in range(good):
        row = index % len(source)
        place = folder / str(source.labels[row])
        place.mkdir(parents=True, exist_ok=True)
        source.image(row).save(place / f"{index}.png")
    for index in range(bad):
        (folder / str(index % 10) / f"bad-{index}.png").write_bytes(b"\x89PNG\r\n" + bytes(index))
    return folder


@pytest.mark.slow  # torch tells of the death wherever Python is then, in a destructor too
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
def test_a_loader_process_that_dies_is_told_and_the_run_goes_on(
    tmp_path, monkeypatch, record_fault
):
    data = photos(tmp_path / "photos", 120)
    options = {**CE, "data.train": str(data), "data.img_size": 16, "out": str(tmp_path / "run")}
    settings = ["data.batch_size=20", "data.validation=20", "checkpoint_minutes=1e-9"]

    def step(self, step, images, terms):
        if step == 2 and self.epoch == 1:
            for worker in psutil.Process().children():
                if "forkserver" not in " ".join(worker.cmdline()):
                    worker.send_signal(signal.SIGKILL)

    with monkeypatch.context() as patch:
        patch.setattr(RunProgress, "step", step)
        with pytest.raises(UserError, match=r"a loader process died .*go on with --resume"):
            quiet_train(options, [*settings, "data.workers=1"])
    run = RunFolder(tmp_path / "run")
    began = time.monotonic()
    quiet_train({}, resume=True, folder=run, config=run.read_config())
    quiet_train({**options, "out": str(tmp_path / "whole")}, [*settings, "data.workers=0"])
    assert run.model_file.read_bytes() == RunFolder(tmp_path / "whole").model_file.read_bytes()
    record_fault(
        "loader process dies", times=1, survived=1, seconds_to_go_on=[time.monotonic() - began] * 2
    )


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:resource_tracker")  # it may have gone with a killed test
def test_corrupt_images_by_the_hundred_cost_no_memory(tmp_path, record_fault):
    """The peak of the command with 400 of 1,200 images corrupt, beside the one with none."""
    peaks = []
    for bad in (0, 400):
        data = photos(tmp_path / f"photos-{bad}", 800, bad)
        line = [*LINE[:3], "--data", data, *LINE[5:], "--out", tmp_path / f"run-{bad}"]
        process = forked.start(line, tmp_path / "log")
        peaks.append(0)
        while process.exitcode is None:
            try:
                peaks[-1] = max(peaks[-1], psutil.Process(process.pid).memory_info().rss)
            except psutil.NoSuchProcess:
                break
            process.join(0.05)
        assert forked.ended(process) == 0, (tmp_path / "log").read_text()
    assert peaks[1] < peaks[0] + 30_000_000
    record_fault("400 corrupt images of 1,200", times=400, survived=400)


def test_a_clock_that_is_set_back_changes_nothing(tmp_path, monkeypatch, record_fault):
    settings = ["data.fraction=0.1", "data.batch_size=60", "checkpoint_minutes=1e-9"]
    quiet_train({**CE, "out": str(tmp_path / "whole")}, settings)
    now, calls = time.time, []

    def set_back():
        calls.append(1)
        return now() - 86_400 * (len(calls) > 1)

    monkeypatch.setattr(time, "time", set_back)
    quiet_train({**CE, "out": str(tmp_path / "run")}, settings)
    run, whole = RunFolder(tmp_path / "run"), RunFolder(tmp_path / "whole")
    assert run.model_file.read_bytes() == whole.model_file.read_bytes()
    seconds = [line["seconds"] for line in run.read_metrics()]
    assert 0 < seconds[0] < seconds[1] < 3600
    record_fault("clock set back", times=1, survived=1)

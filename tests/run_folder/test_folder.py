"""A new run's folder is its own, however many begin at once; a folder has one holder at a time."""

import json
import subprocess
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from typer.testing import CliRunner

from dearkd.cli.app import app
from dearkd.run_folder.folder import RunFolder, next_folder

RUN = ["--stage1", "1", "--stage2", "0", "--fraction", "0.02", "--set", "data.batch_size=8"]


def called(*args):
    return CliRunner().invoke(app, [str(arg) for arg in args])


def test_all_who_ask_at_once_get_a_new_folder_each(tmp_path):
    start = threading.Barrier(16)

    def take(_):
        start.wait()
        return [next_folder("run", tmp_path) for _ in range(20)]

    with ThreadPoolExecutor(16) as threads:
        taken = [folder for folders in threads.map(take, range(16)) for folder in folders]
    assert sorted(taken) == sorted(tmp_path / f"run-{number}" for number in range(1, 321))
    assert all(folder.is_dir() and not any(folder.iterdir()) for folder in taken)


def test_a_place_without_room_for_folders_is_named(tmp_path):
    (tmp_path / "runs").write_text("")
    with pytest.raises(OSError, match=r"cannot make a folder under .*runs .*--out"):
        next_folder("run", tmp_path / "runs")


def test_a_fresh_folder_is_free(tmp_path):
    folder = RunFolder(next_folder("run", tmp_path))
    folder.check_free(resume=False)
    with folder.locked(resume=False):
        assert folder.last_file.parent.is_dir()


@pytest.mark.parametrize(
    ("code", "args"),
    [
        (0, ["train", "--dry-run", *RUN]),
        (0, ["synthesize", "--dry-run", "--iters", "2"]),
        (2, ["train", *RUN, "--teacher", "no_such_model"]),
        (2, ["train", *RUN, "--set", "data.batch_size=7", "--set", "data.mixup=0.8"]),
        (2, ["synthesize", "--teacher", "no_such_model"]),
        (2, ["synthesize", "--classes", "99-100"]),
    ],
)
def test_what_does_not_begin_leaves_no_folder(code, args, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    result = called(*args)
    assert result.exit_code == code, result.output
    assert list(tmp_path.iterdir()) == []


def test_runs_without_a_name_take_one_folder_each(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    precision = ["--set", "precision=fp32", "--set", "teacher.precision=fp32"]
    precision += ["--set", "teacher.memory_format=contiguous", "--set", "memory_format=contiguous"]
    command = [sys.executable, "-m", "dearkd", "train", *RUN, *precision]
    runs = [subprocess.Popen(command, stdout=subprocess.DEVNULL) for _ in range(2)]
    assert [run.wait() for run in runs] == [0, 0]
    folders = sorted(Path("runs").iterdir())
    assert [folder.name for folder in folders] == ["dearkd-digits-1", "dearkd-digits-2"]
    assert all("top1" in json.loads((f / "summary.json").read_text()) for f in folders)


def test_a_run_that_came_between_is_not_written_over(tmp_path, monkeypatch):
    folder = RunFolder(tmp_path / "run")
    look = RunFolder.check_free

    def look_then_another_comes(self, resume):
        look(self, resume)
        self.path.mkdir(exist_ok=True)
        self.config_file.write_text("method: ce\n")

    monkeypatch.setattr(RunFolder, "check_free", look_then_another_comes)
    with pytest.raises(ValueError, match="already holds a run"), folder.locked(resume=False):
        pass

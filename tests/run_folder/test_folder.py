"""A new run's folder is its own, however many begin at once; a folder has one holder at a time."""

import errno
import os
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from commands import invoke
from PIL import Image

from dearkd.errors import UserError, WriteError
from dearkd.run_folder.folder import RunFolder, newest_unfinished, next_folder
from dearkd.run_folder.lock import _lock, held, is_held

RUN = ["--stage1", "1", "--stage2", "0", "--fraction", "0.02", "--set", "data.batch_size=8"]


def test_a_new_folder_can_be_typed_in_any_shell(tmp_path):
    """Data may be named by a pattern, which a shell would expand and Windows refuse."""
    folder = next_folder("dearkd-train-{000..146} *?.tar", tmp_path)
    assert folder.name == "dearkd-train--000..146-.tar-1"
    assert next_folder("ViT-Größe_1", tmp_path).name == "ViT-Größe_1-1"


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


def test_a_run_that_another_process_is_at_work_on_is_not_the_one_to_go_on_with(tmp_path):
    names = ("old", "new")
    for name in names:
        (tmp_path / name).mkdir()
        (tmp_path / name / "config.yaml").write_text("")
        os.utime(tmp_path / name / "config.yaml", (names.index(name), names.index(name)))
    assert newest_unfinished(tmp_path) == tmp_path / "new"
    with RunFolder(tmp_path / "new").locked(resume=True):
        assert newest_unfinished(tmp_path) == tmp_path / "old"
        with (
            RunFolder(tmp_path / "old").locked(resume=True),
            pytest.raises(UserError, match="no unfinished run"),
        ):
            newest_unfinished(tmp_path)
    assert newest_unfinished(tmp_path) == tmp_path / "new"


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
    result = invoke(*args)
    assert result.exit_code == code, result.output
    assert list(tmp_path.iterdir()) == []


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


def fail_in(folder, error, *, resume=False, saved=None):
    """A run that writes what runs write, fails, and perhaps has saved something before."""
    with pytest.raises(error), folder.locked(resume):
        folder.config_file.write_text("method: ce\n")
        folder.append_session({"device": "cpu"})
        folder.truncate_metrics(0)
        (folder.path / "logs" / "dearkd").mkdir(parents=True)
        if saved is not None:
            getattr(folder, saved).write_text('{"epoch": 0}\n')
        raise error


@pytest.mark.parametrize("error", [UserError, RuntimeError, KeyboardInterrupt])
def test_a_new_run_that_fails_before_it_learned_leaves_no_folder(tmp_path, error):
    fail_in(RunFolder(tmp_path / "named"), error)
    fail_in(RunFolder(next_folder("run", tmp_path), is_new=True), error)
    assert list(tmp_path.iterdir()) == []


def test_the_users_own_folder_is_left_as_it_was(tmp_path):
    (tmp_path / "empty").mkdir()
    fail_in(RunFolder(tmp_path / "empty"), UserError)
    assert list((tmp_path / "empty").iterdir()) == []
    own = tmp_path / "own"
    for name in ("logs", "checkpoint"):
        (own / name).mkdir(parents=True)
        (own / name / "mine.txt").touch()
    (own / "notes.txt").touch()
    before = sorted(own.rglob("*"))
    folder = RunFolder(own)
    fail_in(folder, UserError)
    (own / "logs" / "dearkd").rmdir()
    (own / "checkpoint" / "lock").unlink()
    assert sorted(own.rglob("*")) == before


@pytest.mark.parametrize(
    "saved", ["last_file", "best_file", "metrics_file", "model_file", "summary_file"]
)
def test_a_run_that_has_saved_anything_stays(tmp_path, saved):
    folder = RunFolder(next_folder("run", tmp_path), is_new=True)
    fail_in(folder, UserError, saved=saved)
    assert folder.config_file.exists()
    assert getattr(folder, saved).exists()


def test_a_resumed_run_stays(tmp_path):
    folder = RunFolder(tmp_path / "run")
    folder.path.mkdir()
    folder.config_file.write_text("method: ce\n")
    fail_in(folder, UserError, resume=True)
    assert folder.config_file.exists()


def test_a_run_that_finds_its_folder_in_use_removes_nothing(tmp_path):
    folder = RunFolder(tmp_path / "run")
    with folder.locked(resume=False):
        with pytest.raises(UserError, match="in use"), RunFolder(folder.path).locked(resume=False):
            pass
        assert (folder.path / "checkpoint" / "lock").exists()


def test_who_only_looks_whether_a_folder_is_held_keeps_nobody_out(tmp_path):
    look = (tmp_path / "lock").open("ab")
    assert _lock(look)  # as `is_held` does for a moment
    end = threading.Timer(0.05, look.close)
    end.start()
    with held(tmp_path, "lock"):
        assert is_held(tmp_path, "lock")
    end.join()
    assert not is_held(tmp_path, "lock")


@pytest.mark.skipif(os.name == "nt", reason="locks by another call there")
def test_a_file_system_without_locks_is_said_with_the_remedy(tmp_path, monkeypatch):
    """As NFS and Lustre may be mounted; here is none such to try."""
    import fcntl

    def unsupported(*_):
        raise OSError(errno.ENOLCK, os.strerror(errno.ENOLCK))

    monkeypatch.setattr(fcntl, "flock", unsupported)
    with (
        pytest.raises(WriteError, match=r"cannot lock .*no locks; choose a folder on another"),
        RunFolder(tmp_path / "run").locked(resume=False),
    ):
        pass


def test_damaged_lines_of_the_metrics_are_skipped(tmp_path):
    folder = RunFolder(tmp_path)
    folder.metrics_file.write_bytes(b'{"epoch": 0}\n5\n\xff\n{"epoch": 1}\n{"epo')
    assert folder.read_metrics() == [{"epoch": 0}, {"epoch": 1}]


def test_a_line_of_the_metrics_without_its_epoch_is_left_out_when_a_run_goes_on(tmp_path):
    folder = RunFolder(tmp_path)
    folder.metrics_file.write_text('{"epoch": 0}\n{"loss": 1.0}\n{"epoch": "1"}\n{"epoch": 1}\n')
    folder.truncate_metrics(1)
    assert folder.read_metrics() == [{"epoch": 0}]


@pytest.mark.parametrize("named", [True, False])
def test_a_bad_image_that_ends_a_run_leaves_no_folder(tmp_path, monkeypatch, named):
    monkeypatch.chdir(tmp_path)
    for number in range(8):
        file = tmp_path / "data" / "cat" / f"{number}.png"
        file.parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (16, 16)).save(file)
    file.write_bytes(b"no image")
    out = ["--out", "run"] if named else []
    command = ["train", "--method", "ce", "--data", "data", "--img-size", "16", *out]
    result = invoke(*command, "--set", "data.batch_size=4", "--on-bad-image", "fail")
    assert result.exit_code == 2, result.output
    assert not any(path.is_file() for path in tmp_path.rglob("*") if "data" not in path.parts)
    assert not Path("run").exists()
    assert not list(Path().glob("runs/*"))


def test_results_that_do_not_say_of_which_run_are_not_written_over(tmp_path):
    (tmp_path / "summary.json").write_text('{"mine": 1}')
    with pytest.raises(UserError, match=r"has a summary\.json, but no config\.yaml"):
        RunFolder(tmp_path).check_free(resume=False)


def test_no_run_is_begun_in_a_synthetic_set(tmp_path):
    (tmp_path / "manifest.json").write_text("{}")
    with pytest.raises(UserError, match="holds a synthetic set; choose another --out"):
        RunFolder(tmp_path).check_free(resume=False)

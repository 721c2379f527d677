"""A disk that is really full, or read-only: one line, the old files as they were, and the way on.

The disk is a tmpfs of its own, which takes root on Linux.
"""

import shlex
import subprocess
from contextlib import contextmanager

import pytest
from commands import invoke, refused
from conftest import FAST

from dearkd.run_folder.folder import RunFolder

ROOM = 6_000_000
TRAIN = ["train", "--method", "ce", "--student", "toy_student", "--fraction", "0.1"]
TRAIN += ["--stage1", "2", "--stage2", "0", "--go-on", "--set", "data.batch_size=60"]
TRAIN += [word for setting in FAST[:3] for word in ("--set", setting)]
TRAIN += ["--set", "checkpoint_minutes=1e-9"]
MADE = shlex.split("synthesize --classes 0-1 --per-class 4 --iters 2 --set images_per_class=2")
MADE += shlex.split("--set precision=fp32 --set layout=contiguous --set compile=never --go-on")


@pytest.fixture
def disk(tmp_path):
    """A folder that is a disk of its own."""
    folder = tmp_path / "disk"
    folder.mkdir()
    with mounted(folder):
        yield folder


@contextmanager
def mounted(folder):
    try:
        mount(folder, f"size={ROOM}")
    except (OSError, subprocess.CalledProcessError):
        pytest.skip("no tmpfs can be mounted here")
    try:
        yield
    finally:
        subprocess.run(["umount", folder], check=True)


def mount(folder, options):
    line = ["mount", "-t", "tmpfs", "-o", options, "tmpfs", folder]
    subprocess.run(line, check=True, capture_output=True)


@contextmanager
def room(disk, left):
    """So many bytes are left on the disk."""
    ballast = disk / "ballast"
    ballast.write_bytes(bytes(ROOM - left))
    try:
        yield
    finally:
        ballast.unlink()


def steps(most, moments, short):
    """Sizes of the room that is left: ``short`` by default, else so many up to ``most``."""
    return short if moments == 1 else [most * n // moments // 4096 * 4096 for n in range(moments)]


def told(result):
    """Whether the command did not end well, after a check that it said so in a line."""
    if result.exit_code == 0:
        return False
    assert result.exit_code == 2, result.output
    (line,) = result.stderr.strip().splitlines()
    assert line.startswith("error: ")
    assert "full" in line or "No space left" in line, line
    return True


def test_a_run_that_meets_a_full_disk_goes_on_when_there_is_room(
    disk, tmp_path, moments, record_fault
):
    """Whatever it was writing: configuration, metrics, checkpoint or weights."""
    assert invoke(*TRAIN, "--out", tmp_path / "whole").exit_code == 0
    whole = RunFolder(tmp_path / "whole").model_file.read_bytes()
    met = lost = 0
    for left in steps(1_200_000, moments, [0, 60_000, 400_000]):
        run = RunFolder(disk / "run")
        with room(disk, left):
            met += told(invoke(*TRAIN, "--out", run.path))
        finished = epoch(run)
        done = invoke(*TRAIN, "--out", run.path)
        assert done.exit_code == 0, done.output
        assert run.model_file.read_bytes() == whole
        lost += finished - run.sessions()[-1]["from_epoch"]
        subprocess.run(["rm", "-r", run.path], check=True)
    record_fault("disk full: run folder", times=met, survived=met, lost=lost)
    assert met and lost == 0


def epoch(run):
    said = []
    state = run.checkpoints.load({}, said.append)
    assert said == []
    return state["position"]["epoch"] if state else 0


def test_a_set_that_meets_a_full_disk_goes_on_when_there_is_room(
    disk, tmp_path, moments, record_fault
):
    assert invoke(*MADE, "--out", tmp_path / "whole").exit_code == 0
    whole = images(tmp_path / "whole")
    met = lost = 0
    for left in steps(120_000, moments, [0, 12_288]):
        with room(disk, left):
            met += told(invoke(*MADE, "--out", disk / "set"))
        finished = {file: file.stat().st_mtime_ns for file in disk.glob("set/*/*.png")}
        done = invoke(*MADE, "--out", disk / "set")
        assert done.exit_code == 0, done.output
        assert images(disk / "set") == whole
        lost += sum(file.stat().st_mtime_ns != at for file, at in finished.items())
        subprocess.run(["rm", "-r", disk / "set"], check=True)
    record_fault("disk full: images", times=met, survived=met, lost=lost)
    assert met and lost == 0


def images(folder):
    return [file.read_bytes() for file in sorted(folder.glob("*/*.png"))]


def test_a_report_that_finds_no_room_leaves_the_old_one(disk, toy_teacher, record_fault):
    page = disk / "page.html"
    page.write_bytes(b"old")
    line = ["report", toy_teacher, "--no-predictions", "--out", page]
    with room(disk, 8192):
        assert told(invoke(*line))
    assert page.read_bytes() == b"old"
    assert list(disk.iterdir()) == [page]
    assert invoke(*line).exit_code == 0
    assert page.stat().st_size > 8192
    record_fault("disk full: report", times=1, survived=1)


def test_an_export_that_finds_no_room_leaves_nothing(disk, toy_teacher, record_fault):
    line = ["export", toy_teacher, "--to", "timm", "--out", disk / "made"]
    with room(disk, 8192):
        assert told(invoke(*line))
    assert list(disk.iterdir()) == []
    done = invoke(*line)
    assert done.exit_code == 0, done.output
    record_fault("disk full: export", times=1, survived=1)


def test_a_read_only_disk_is_told_before_anything_is_trained(disk, record_fault):
    mount(disk, "remount,ro")
    for line in (TRAIN, MADE):
        assert "cannot" in refused(*line, "--out", disk / "run")
    assert list(disk.iterdir()) == []
    record_fault("disk read-only", times=2, survived=2)

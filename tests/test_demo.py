"""scripts/demo.py: its two lanes, with other commands in the place of dearkd's."""

import importlib.util
import sys
from pathlib import Path

import pytest

DEMO = Path(__file__).resolve().parents[1] / "scripts" / "demo.py"
LONG = "import time; time.sleep(1); print('the first lane', 'has ended')"


@pytest.fixture
def demo():
    spec = importlib.util.spec_from_file_location("demo", DEMO)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_a_lane_out_of_sight_that_fails_is_told_at_once(demo, tmp_path, monkeypatch, capfd):
    chapters = {"first": (tmp_path / "a", ["-c", LONG]), "second": (tmp_path / "b", ["-c", "x"])}
    for name, value in (
        *(("DEARKD", sys.executable), ("CHAPTERS", chapters)),
        *(("STUDENTS", ["first"]), ("DATA_FREE", ["second"])),
    ):
        monkeypatch.setattr(demo, name, value)
    log = tmp_path / "second.log"
    with pytest.raises(demo.CommandError):
        demo.make_side_by_side(log)
    told = capfd.readouterr().out
    assert f"failed: second; see {log}" in told.partition("the first lane has ended")[0]
    assert "NameError" in told


def test_a_second_call_writes_after_the_log_of_the_first(demo, tmp_path, monkeypatch, capfd):
    chapters = {name: (tmp_path / name, ["-c", "print('again', 1 + 1)"]) for name in "ab"}
    for name, value in (
        *(("DEARKD", sys.executable), ("CHAPTERS", chapters)),
        *(("STUDENTS", ["a"]), ("DATA_FREE", ["b"])),
    ):
        monkeypatch.setattr(demo, name, value)
    log = tmp_path / "b.log"
    log.write_text("before the interruption\n")
    demo.make_side_by_side(log)
    said = log.read_text()
    assert said.startswith("before the interruption\n") and "again 2" in said
    told = capfd.readouterr().out
    assert told.count("again 2") == 2 and "before the interruption" not in told

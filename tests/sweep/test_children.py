"""Children side by side: how many, with how many threads, and what a signal does."""

import os
import signal
import sys
import time

import pytest

from dearkd.run_folder.stop import Interrupted
from dearkd.sweep import children
from dearkd.sweep.children import Child, run_all, threads_each


@pytest.fixture(autouse=True)
def plain_python(monkeypatch):
    """Children run a line of Python, which takes no time to load."""
    monkeypatch.setattr(children, "COMMAND", (sys.executable, "-S", "-c"))
    monkeypatch.setattr(children, "POLL_SECONDS", 0.01)


def child(tmp_path, name, code):
    return Child(name, (code,), tmp_path / "logs" / f"{name}.log")


def test_so_many_run_at_a_time_in_their_order(tmp_path):
    running, most, told = set(), 0, []

    def begun(one):
        nonlocal most
        running.add(one.name)
        most = max(most, len(running))

    def ended(one, code):
        running.remove(one.name)
        told.append((one.name, code))

    codes = [0, 3, 0, 0]
    run = [child(tmp_path, f"c{i}", f"raise SystemExit({code})") for i, code in enumerate(codes)]
    run_all(run, 2, begun, ended)
    assert most == 2
    assert sorted(told) == [("c0", 0), ("c1", 3), ("c2", 0), ("c3", 0)]


def test_each_has_its_share_of_the_threads(tmp_path, monkeypatch):
    monkeypatch.setattr(children, "usable_cores", lambda: 8)
    monkeypatch.setenv("OMP_NUM_THREADS", "6")
    assert (threads_each(1), threads_each(3), threads_each(20)) == (6, 2, 1)
    monkeypatch.setenv("OMP_NUM_THREADS", "3,2")
    assert (threads_each(1), threads_each(4)) == (3, 2)
    for nonsense in ("", "all", "0"):
        monkeypatch.setenv("OMP_NUM_THREADS", nonsense)
        assert threads_each(2) == 4
    monkeypatch.delenv("OMP_NUM_THREADS")
    assert (threads_each(1), threads_each(2)) == (8, 4)
    one = child(tmp_path, "one", "import os; print(os.environ['OMP_NUM_THREADS'])")
    run_all([one], 2, lambda _: None, lambda *_: None)
    assert one.log.read_text() == "4\n"


@pytest.mark.parametrize("kind", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_reaches_the_children_and_none_is_begun_after_it(tmp_path, kind):
    ready, saved = tmp_path / "ready", tmp_path / "saved"
    code = f"""
import pathlib, signal, sys, time
def stop(*_):
    pathlib.Path({str(saved)!r}).touch()
    sys.exit(130)
signal.signal(signal.SIGTERM, stop)
pathlib.Path({str(ready)!r}).touch()
time.sleep(60)
"""
    run = [child(tmp_path, "long", code), child(tmp_path, "next", "")]
    told = []

    def begun(_):
        while not ready.exists():
            time.sleep(0.01)
        os.kill(os.getpid(), kind)

    with pytest.raises(Interrupted):
        run_all(run, 1, begun, lambda one, code: told.append((one.name, code)))
    assert saved.exists()
    assert told == [("long", 130)]


def test_an_error_of_ours_leaves_no_child_behind(tmp_path):
    started = []
    long = child(tmp_path, "long", "import time; time.sleep(60)")
    start = Child.start

    def begun(_):
        raise ZeroDivisionError

    def noted(self, threads):
        started.append(start(self, threads))
        return started[0]

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Child, "start", noted)
        with pytest.raises(ZeroDivisionError):
            run_all([long], 1, begun, lambda *_: None)
    assert started[0].returncode == -signal.SIGTERM


def test_the_last_words_are_the_error_or_the_last_line(tmp_path):
    one = child(tmp_path, "one", "print('a'); print('error: b; c'); print('d')")
    other = child(tmp_path, "other", "print('a'); print('d')")
    run_all([one, other], 1, lambda _: None, lambda *_: None)
    assert (one.last_words(), other.last_words()) == ("b; c", "d")


def test_a_log_keeps_what_was_said_before_and_the_last_words_are_new(tmp_path):
    for code in ("print('a'); print('error: b')", "print('d')"):
        one = child(tmp_path, "one", code)
        run_all([one], 1, lambda _: None, lambda *_: None)
    lines = one.log.read_text().splitlines()
    assert [line for line in lines if len(line) < 10] == ["a", "error: b", "", "d"]
    assert one.last_words() == "d"


def test_a_result_is_found_among_other_lines(tmp_path):
    code = "print('{odd'); print('{\\n  \"a\": {\"b\": 1}\\n}'); print('{x} is late }')"
    one, none = child(tmp_path, "one", code), child(tmp_path, "none", "print('{')")
    run_all([one, none], 1, lambda _: None, lambda *_: None)
    assert (one.last_object(), none.last_object()) == ({"a": {"b": 1}}, None)

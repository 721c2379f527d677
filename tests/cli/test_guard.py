"""What is meant for the user gets one line; bugs, a traceback; and the variable, always one."""

import errno

import numpy as np
import pytest
import torch
import typer

from dearkd.cli.guard import guarded
from dearkd.cli.options import console
from dearkd.config import load_config
from dearkd.errors import UserError
from dearkd.run_folder.stop import RequeueSignal
from synth.settings import SynthesisConfig


def guarded_error(error):
    def verb():
        raise error

    guarded(verb)()


@guarded
def mistaken():
    load_config(None, ["optim.lr=-1"])


def line_of(call, capsys):
    with pytest.raises(typer.Exit) as caught:
        call()
    assert caught.value.exit_code == 2
    (line,) = capsys.readouterr().err.splitlines()
    return line


def test_a_mistake_is_one_line(capsys):
    assert line_of(mistaken, capsys).startswith("error: optim.lr must be above 0")


def test_names_are_said_as_they_are_typed(capsys):
    """Rich would draw an emoji for a number between colons, and take brackets for its markup."""
    name = "shot-12:100:07[red]x[/b].png"
    assert line_of(lambda: guarded_error(UserError(name)), capsys) == f"error: {name}"
    with console.capture() as said:
        console.print(name, style="bold")
    assert said.get() == f"{name}\n"


def test_a_mistake_that_the_leaf_finds_is_one_line(capsys):
    line = line_of(guarded(lambda: SynthesisConfig(lr=-1.0)), capsys)
    assert line.startswith("error: lr must be above 0")


@pytest.mark.parametrize(
    ("name", "remedy"), [("teacher", "data.micro_batch"), ("analyze", "end what else")]
)
def test_a_full_device_has_a_remedy_that_the_verb_has(name, remedy, capsys):
    def full():
        raise torch.OutOfMemoryError("no room for 3 GB")

    full.__name__ = name
    assert remedy in line_of(guarded(full), capsys)


def test_a_schedulers_signal_is_no_ctrl_c():
    with pytest.raises(typer.Exit) as caught:
        guarded_error(RequeueSignal())
    assert caught.value.exit_code == 75


def test_a_full_or_forbidden_disk_is_one_line_wherever_it_is_met(capsys):
    for number, words in (
        (errno.ENOSPC, "make room"),
        (errno.EACCES, "check its permissions"),
        (errno.ENAMETOOLONG, "choose a shorter name"),
    ):
        line = line_of(lambda n=number: guarded_error(OSError(n, "no", "some.file")), capsys)
        assert "some.file" in line
        assert words in line


@pytest.mark.parametrize(
    "error",
    [
        ValueError("one of ours, not meant for the user"),
        OSError("nobody expected this"),
        FileNotFoundError(errno.ENOENT, "no such file", "assets/lost"),
        ImportError("cannot import name 'x'"),
    ],
)
def test_a_bug_keeps_its_traceback_whatever_its_class(error, capsys):
    with pytest.raises(type(error)):
        guarded_error(error)
    assert capsys.readouterr().err == ""


def test_a_librarys_own_error_keeps_its_traceback(capsys):
    with pytest.raises(ValueError, match="at least one array"):
        guarded(lambda: np.stack([]))()
    assert capsys.readouterr().err == ""


def test_the_traceback_of_a_mistake_can_be_asked_for(monkeypatch):
    monkeypatch.setenv("DEARKD_TRACEBACK", "1")
    with pytest.raises(ValueError, match=r"optim\.lr must be above 0"):
        mistaken()

"""Mistakes get one line; bugs, a traceback; and the environment variable, always one."""

import numpy as np
import pytest
import torch
import typer

from dearkd.cli.guard import guarded
from dearkd.config import load_config


@guarded
def mistaken():
    load_config(None, ["optim.lr=-1"])


@guarded
def broken():
    np.stack([])


def test_a_mistake_is_one_line(capsys):
    with pytest.raises(typer.Exit) as caught:
        mistaken()
    assert caught.value.exit_code == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("error: optim.lr must be above 0")


@pytest.mark.parametrize(
    ("name", "remedy"), [("teacher", "data.micro_batch"), ("analyze", "end what else")]
)
def test_a_full_device_has_a_remedy_that_the_verb_has(name, remedy, capsys):
    def full():
        raise torch.OutOfMemoryError("no room for 3 GB")

    full.__name__ = name
    with pytest.raises(typer.Exit):
        guarded(full)()
    (line,) = capsys.readouterr().err.splitlines()
    assert remedy in line


def test_a_librarys_own_error_keeps_its_traceback(capsys):
    with pytest.raises(ValueError, match="at least one array"):
        broken()
    assert capsys.readouterr().err == ""


def test_the_traceback_of_a_mistake_can_be_asked_for(monkeypatch):
    monkeypatch.setenv("DEARKD_TRACEBACK", "1")
    with pytest.raises(ValueError, match=r"optim\.lr must be above 0"):
        mistaken()

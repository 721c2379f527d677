"""Waiting for data is measured, told, and comes with what to change."""

import io
import time

import pytest
import torch
from conftest import FAST, FEW_DIGITS
from rich.console import Console

from dearkd.config import load_config
from dearkd.data.feed import faster_data
from dearkd.data.views import Views
from dearkd.run_folder.folder import RunFolder
from dearkd.training import train as launch

SECONDS = 0.25
STEPS, BATCH = 5, 100  # of FEW_DIGITS


def trained(folder, *settings):
    """(metrics, what was said) of two epochs of five steps."""
    options = {"method": "ce", "student": "toy_student", "stage1": 2, "stage2": 0}
    config = load_config(None, [*FAST, *FEW_DIGITS, *settings], {**options, "out": str(folder)})
    console = Console(file=io.StringIO(), width=300)
    launch.train(config, console=console)
    return RunFolder(folder).read_metrics(), console.file.getvalue()


def test_a_run_that_does_not_wait_says_nothing(tmp_path):
    metrics, said = trained(tmp_path / "run")
    assert [0 <= line["data_wait"] < 1 for line in metrics] == [True, True]
    assert "note: " not in said.split("->")[1]


def test_a_slow_disk_is_measured_told_and_answered_once(tmp_path, monkeypatch):
    own = Views.__getitem__

    def slow(self, keys):
        time.sleep(SECONDS)
        return own(self, keys)

    monkeypatch.setattr(Views, "__getitem__", slow)
    metrics, said = trained(tmp_path / "run")
    for line in metrics:
        assert 0 < line["data_wait"] <= 1
        seconds = STEPS * BATCH / line["images_per_second"]
        assert line["data_wait"] * seconds == pytest.approx(STEPS * SECONDS, rel=0.3)
    assert said.count("  waiting for data ") == 2
    assert said.count("% of the epoch was spent waiting for data; ") == 1


def test_the_remedy_fits_the_machine(monkeypatch):
    def remedy(device, *settings):
        given = ["data.img_size=224", "data.augment=deit", "data.views=cpu", *settings]
        return faster_data(load_config(None, given).data, torch.device(device))

    monkeypatch.setattr("dearkd.data.feed.usable_cores", lambda: 4)
    assert remedy("cuda", "data.workers=1").startswith("--set data.workers=4 has more processes")
    assert remedy("cuda").startswith("--set data.views=device leaves")
    assert remedy("cuda", "data.views=device").startswith("all 4 cores of this process load it")
    assert remedy("cpu").startswith("all 4 cores of this process load it")

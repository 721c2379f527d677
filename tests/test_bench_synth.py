"""scripts/bench_synth.py with one image of a class, which has no partner."""

import importlib
import json
import sys
from pathlib import Path

import pytest

SCRIPTS = Path(__file__).resolve().parents[1] / "scripts"
ONE = "--teacher toy_cnn --resolutions 16 --iterations 2 --steps 1 --compile never --per-class 1"


@pytest.fixture
def bench(monkeypatch):
    """Calls the script with such words."""
    monkeypatch.syspath_prepend(str(SCRIPTS))
    script = importlib.import_module("bench_synth")

    def call(*words):
        monkeypatch.setattr(sys, "argv", ["bench_synth.py", *ONE.split(), *words])
        script.main()

    return call


@pytest.mark.parametrize("more", [(), ("--per-class", "2", "--classes", "3")])
def test_terms_of_pairs_without_a_pair_are_told_in_one_line(bench, capsys, more):
    with pytest.raises(SystemExit) as end:
        bench(*more)
    assert end.value.code == 2
    line = capsys.readouterr().err.splitlines()[-1]
    assert "at least 2 classes of 2 images" in line
    assert line.endswith("or switch them off by --objective ep_weight=0 triplet_weight=0")


def test_without_these_terms_one_image_is_timed(bench, capsys):
    bench("--classes", "3", "--objective", "ep_weight=0", "triplet_weight=0")
    found = json.loads(capsys.readouterr().out)
    assert found["images"] == 1
    assert found["check"]["fp32_gradient_error"] < 1e-2

"""The choices that are typed are those of the configuration, and cost the help no time."""

import subprocess
import sys
import typing

import pytest
import typer
from omegaconf import OmegaConf
from typer.testing import CliRunner

from dearkd.cli.app import app
from dearkd.synthesis.moved import moved_settings
from dearkd.synthesis.settings import SynthesizeConfig

COMMAND = typer.main.get_command(app)


def completed(line):
    """What TAB offers."""
    words = line.split(" ")
    environment = {
        "_DEARKD_COMPLETE": "complete_bash",
        "COMP_WORDS": line,
        "COMP_CWORD": str(len(words) - 1),
    }
    return CliRunner().invoke(app, [], env=environment, prog_name="dearkd").stdout.split()


def test_tab_completes_the_choices_of_the_configuration():
    kinds = typing.get_type_hints(SynthesizeConfig)
    recipes = [kind for kind in typing.get_args(kinds["recipe"]) if kind is not type(None)]
    assert completed("dearkd synthesize --recipe ") == list(typing.get_args(recipes[0]))
    assert completed("dearkd synthesize --format ") == list(typing.get_args(kinds["image_format"]))
    assert completed("dearkd synthesize --format p") == ["png", "parquet"]


@pytest.mark.parametrize(
    ("option", "value", "choices"),
    [
        ("--format", "jpeg", "'png', 'webp', 'parquet'"),
        ("--recipe", "ours", "'paper', 'balanced'"),
    ],
)
def test_another_value_gets_one_line(option, value, choices):
    command = [sys.executable, "-m", "dearkd", "synthesize", option, value]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 2 and len(done.stderr.strip().splitlines()) == 1
    assert f"'{option}'" in done.stderr and f"'{value}' is not one of {choices}" in done.stderr


def test_help_loads_nothing_heavy():
    code = """
import sys
from typer.testing import CliRunner
sys.argv[0] = "bin/dearkd"
from dearkd.cli.app import app
assert CliRunner().invoke(app, ["synthesize", "--help"]).exit_code == 0
heavy = {"torch", "timm", "numpy", "PIL"} & set(sys.modules)
assert not heavy, heavy
"""
    subprocess.run([sys.executable, "-c", code], check=True)


def test_weights_typed_with_a_networks_new_name_are_kept(tmp_path):
    """They may be those that are stored, by which the network is known."""
    stored = "teacher: {name: resnet18, weights: /w.pth}"
    (tmp_path / "synthesize.yaml").write_text(stored, encoding="utf-8")
    (tmp_path / "settings.json").write_text("{}", encoding="utf-8")
    typed = OmegaConf.create({"teacher": {"name": "resnet18.x", "weights": "/w.pth"}})
    assert moved_settings(tmp_path, typed, go_on=False) == {"teacher.name": "resnet18.x"}
    del typed.teacher.weights
    moved = moved_settings(tmp_path, typed, go_on=False)
    assert moved == {"teacher.name": "resnet18.x", "teacher.weights": None}

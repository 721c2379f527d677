"""The command answers at once, teaches every verb, and completes what is typed."""

import os
import re
import subprocess
import sys
from pathlib import Path
from typing import get_args, get_type_hints

import pytest
import timm
import typer
from typer.testing import CliRunner

from dearkd.cli.app import STORY, app
from dearkd.cli.eval import evaluate
from dearkd.cli.export import export
from dearkd.cli.train import STUDENTS
from dearkd.config import TrainConfig
from dearkd.config_file import user_tree
from dearkd.export.export import Form
from dearkd.measures.lpips_embedding import LpipsNet
from dearkd.synthesis.settings import SynthesizeConfig
from dearkd.training.method_names import METHOD_NAMES
from dearkd.training.methods import METHODS

COMMAND = typer.main.get_command(app)
VERBS = list(COMMAND.commands)


def spans(text):
    """What stands in backticks and begins with the command's name."""
    return re.findall(r"`dearkd ([^`]+)`", re.sub(r"\s+", " ", text))


def parses(line):
    """Reads the line as the command would, without doing it; fails on an unknown option."""
    verb, *rest = [part.strip('"') for part in line.split()]
    COMMAND.commands[verb].make_context(verb, rest)


def test_help_and_version_load_nothing_heavy():
    code = """
import sys
sys.argv[0] = "bin/dearkd"
from typer.testing import CliRunner
from dearkd.cli.app import app
for line in ("--help", "--version", "train --help", "eval --help"):
    result = CliRunner().invoke(app, line.split())
    assert result.exit_code == 0, result.output
    assert "dearkd" in result.output
heavy = {"dearkd.models", "torch", "timm", "numpy", "PIL"} & set(sys.modules)
assert not heavy, heavy
"""
    subprocess.run([sys.executable, "-c", code], check=True)


def test_digits_are_read_without_loading_scikit_learn():
    """It takes as long to load as torch."""
    code = """
import gc, sys
from dearkd.data.datasets import open_data
open_data("digits")
assert "timm" in sys.modules and gc.isenabled()
assert not {"sklearn", "scipy", "pandas"} & set(sys.modules)
"""
    subprocess.run([sys.executable, "-c", code], check=True)


def test_the_story_has_every_verb_in_the_order_of_the_list():
    told = [line.split()[0] for line in spans(STORY)]
    assert [verb for verb in dict.fromkeys(told) if verb in VERBS] == VERBS
    for line in spans(STORY):
        if line.split()[0] in VERBS and "--help" not in line:
            parses(line)


@pytest.mark.parametrize("verb", VERBS)
def test_every_verb_has_a_worked_example_that_is_right(verb):
    text = COMMAND.commands[verb].help
    assert "**Example:**" in text
    examples = [line for line in spans(text) if " " in line or line == verb]
    assert any(line.split()[0] == verb for line in examples)
    for line in examples:
        parses(line)


def test_choices_shown_are_the_choices_there_are():
    """They are spelled out where nothing may be imported."""
    assert METHOD_NAMES.keys() == METHODS.keys()
    (method,) = [option for option in COMMAND.commands["train"].params if option.name == "method"]
    assert method.metavar == "|".join(METHODS)
    assert get_args(get_type_hints(export)["to"]) == get_args(Form)
    assert get_args(get_args(get_type_hints(evaluate)["lpips_net"])[0]) == get_args(LpipsNet)


def test_students_that_tab_shows_are_those_there_are():
    ours = timm.list_models("dearkd_*_patch*", exclude_filters="*_mhsa_*")
    assert sorted(STUDENTS) == sorted(ours)


def completions(words, number):
    environment = {**os.environ, "_DEARKD_COMPLETE": "complete_bash"}
    environment |= {"COMP_WORDS": words, "COMP_CWORD": str(number)}
    command = Path(sys.executable).with_name("dearkd")
    done = subprocess.run([command], env=environment, capture_output=True, text=True, check=False)
    return done.stdout.split()


def test_tab_completes_verbs_options_and_choices():
    assert completions("dearkd pre", 1) == ["predict"]
    assert "--fuse" in completions("dearkd export --f", 2)
    assert completions("dearkd export --to t", 3) == ["torch-export", "timm"]
    assert completions("dearkd train --method deit", 3) == ["deit-hard", "deit-soft", "deit"]
    assert completions("dearkd train --student dearkd_b", 3) == ["dearkd_base_patch16_224"]


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_completion_scripts_are_there(shell):
    environment = {"_DEARKD_COMPLETE": f"source_{shell}"}
    result = CliRunner().invoke(app, [], env=environment, prog_name="dearkd")
    assert "_DEARKD_COMPLETE=complete_" + shell in result.output


@pytest.mark.parametrize("verb", ["train", "teacher", "synthesize"])
def test_settings_named_in_the_help_are_fields_of_the_verbs_config(verb):
    kind = SynthesizeConfig if verb == "synthesize" else TrainConfig
    (option,) = [option for option in COMMAND.commands[verb].params if option.name == "settings"]
    settings = re.findall(r"\S+=[\d.e-]*\d", option.help)
    assert settings
    user_tree(kind, None, settings, {})

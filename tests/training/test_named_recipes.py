"""Recipes by name: what lies beneath the settings that are given, and when it is taken unasked."""

import json
from pathlib import Path

import pytest
import yaml
from commands import invoke, refused
from conftest import FAST_TEACHER

from dearkd.config import load_config
from dearkd.data.synthetic_set import MANIFEST_FILE
from dearkd.training.named_recipes import BEST as SETTINGS
from dearkd.training.recipe import addressed

CONFIGS = sorted(Path(__file__).parents[2].glob("configs/train/*.yaml"))
OURS = "method as in the paper (--recipe best, ours, did better on CIFAR-10)"
BEST = {"recipe": "best", "method": "dearkd", "stage1": 100, "stage2": 0}


@pytest.fixture
def synthetic(tmp_path):
    folder = tmp_path / "set"
    folder.mkdir()
    (folder / MANIFEST_FILE).write_text('{"images": []}')
    return str(folder)


def fields(config):
    return {name: getattr(config, name) for name in BEST}


def test_a_synthetic_set_is_met_with_best_where_nothing_is_said_of_how(synthetic):
    config = load_config(None, ["optim.lr=1e-3"], {"data.train": synthetic, "seed": 3})
    assert fields(config) == BEST
    assert (config.distill.logits, config.distill.class_weight) == ("soft", 0)
    distill = config.distill
    assert (distill.pair_preset, distill.hidden_weight) == ("early-middle-late", 50)
    assert distill.target_scale == "stage"
    assert (config.data.mixup, config.data.cutmix, config.data.train) == (0.8, 1.0, synthetic)


@pytest.mark.parametrize(
    "said",
    [
        *("method=dearkd", "stage1=40", "stage2=10", "recipe=paper"),
        *("distill.hidden_weight=1", "switch.fall=0.02"),
    ],
)
def test_whoever_says_how_has_the_paper(said, synthetic):
    given = {"data.train": synthetic}
    if "switch" in said:
        given |= {"switch.epochs": 50, "stage1": "auto"}
    config = load_config(None, [said], given)
    assert (config.recipe, config.method, config.data.mixup) == ("paper", "dearkd", None)
    assert config.distill.class_weight is None


def test_without_a_synthetic_set_it_is_the_paper():
    config = load_config(None, [])
    assert (config.recipe, config.method) == ("paper", "dearkd")


@pytest.mark.parametrize("file", CONFIGS, ids=lambda file: file.stem)
def test_every_published_recipe_is_the_papers(file, synthetic):
    typed = yaml.safe_load(file.read_text(encoding="utf-8"))
    config = load_config(file, [], {"data.train": synthetic})
    assert config.recipe == "paper"
    assert config.method == typed["method"]


def test_what_is_given_goes_over_a_recipe(synthetic):
    given = {"data.train": synthetic, "recipe": "best", "stage1": 7, "method": "dearkd"}
    config = load_config(None, ["data.mixup=0", "distill.temperature=2"], given)
    assert (config.stage1, config.stage2, config.data.mixup, config.data.cutmix) == (7, 0, 0, 1)
    assert (config.distill.temperature, config.distill.class_weight) == (2, 0)


@pytest.mark.parametrize(
    ("said", "preset", "weight", "scale"),
    [
        ("distill.pairs=[{block: 1, stage: 0}]", None, None, None),
        ("distill.pair_preset=last", "last", None, None),
        ("distill.hidden_weight=0", None, 0, None),
        ("distill.pair_preset=early-middle-late", "early-middle-late", 50, "stage"),
        ("distill.hidden_weight=3", "early-middle-late", 3, "stage"),
        ("distill.target_scale=none", "early-middle-late", 50, "none"),
    ],
)
def test_weight_and_scale_go_with_the_recipes_own_pairs(synthetic, said, preset, weight, scale):
    distill = load_config(None, [said], {"data.train": synthetic, "recipe": "best"}).distill
    assert (distill.pair_preset, distill.hidden_weight) == (preset, weight)
    assert (distill.target_scale, distill.logits) == (scale, "soft")


def test_best_has_one_method(synthetic):
    message = refused("train", "--data", synthetic, "--recipe", "best", "--method", "ce")
    assert "recipe=best has a method of its own, dearkd, got ce; leave one of them" in message


CHANGED = [{"distill.hidden_weight": 10.0}, {"method": "ce"}, {"stage1": 0}, {"optim.name": "muon"}]


@pytest.mark.parametrize("given", [{}, {"stage1": 250, "stage2": 50}, *CHANGED])
def test_the_papers_recipe_is_told_of_ours(given):
    told = addressed(load_config(None, (), given), needs_teacher=False)[1]
    assert told == ([] if given in CHANGED else [OURS])


def test_best_is_for_real_images_too_where_it_is_asked_for():
    config = load_config(None, ["stage1=3"], {"recipe": "best"})
    assert (config.method, config.stage1, config.stage2) == ("dearkd", 3, 0)
    assert (config.distill.logits, config.data.cutmix) == ("soft", 1.0)


def test_a_recipe_does_not_change_when_it_is_read_again(synthetic, tmp_path):
    from dearkd.config_file import to_yaml

    config = load_config(None, ["stage1=3"], {"data.train": synthetic, "recipe": "best"})
    (tmp_path / "config.yaml").write_text(to_yaml(config))
    (tmp_path / "set" / MANIFEST_FILE).unlink()
    assert load_config(tmp_path / "config.yaml") == config


def test_the_command_trains_a_synthetic_set_on_soft_labels_alone(toy_teacher, tmp_path):
    made = tmp_path / "set"
    line = ["synthesize", "--teacher", toy_teacher, "--res", 16, "--iters", 1, "--per-class", 2]
    assert invoke(*line, "--out", made, "--set", "compile=never").exit_code == 0
    small = ["--student", "toy_student", "--set", "trackers=[]", "--set", "stage1=1"]
    small += [word for setting in FAST_TEACHER for word in ("--set", setting)]
    line = ["train", "--data", made, "--teacher", toy_teacher, "--recipe", "best", *small]
    result = invoke(*line, "--eval-data", "digits", "--out", tmp_path / "run")
    assert result.exit_code == 0, result.output
    told = "recipe best: soft labels, features of three layers, one stage, mixed views, Muon,"
    assert told in result.output
    stored = yaml.safe_load((tmp_path / "run" / "config.yaml").read_text())
    assert stored["recipe"] == "best"
    assert stored["distill"]["logits"] == "soft"
    assert (stored["optim"]["name"], stored["optim"]["lr"]) == ("muon", 0.002)
    assert stored["distill"]["temperature"] == 4
    assert stored["distill"]["pair_preset"] == "early-middle-late"
    line = (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()[-1]
    assert len([name for name in json.loads(line) if name.startswith("hidden_")]) == 3
    assert stored["data"]["cutmix"] == SETTINGS["data"]["cutmix"]

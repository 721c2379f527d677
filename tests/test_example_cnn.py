"""scripts/example_cnn.py, which README tells newcomers to copy, does all that it says it does."""

import json
import shlex
from pathlib import Path

import pytest
import timm
import torch
from commands import invoke
from conftest import FAST, FAST_TEACHER
from PIL import Image

from dearkd.data.datasets import open_data
from dearkd.run_folder.files import save_model
from dearkd.trained.imports import import_files

EXAMPLE = Path(__file__).resolve().parents[1] / "scripts" / "example_cnn.py"
SET = [part for setting in FAST for part in ("--set", setting)]
TEACHER_SET = [part for setting in FAST_TEACHER for part in ("--set", setting)]
ARITHMETIC = ["--set", "precision=fp32", "--set", "layout=contiguous"]


def run(verb, *args):
    result = invoke(verb, *args, "--import", EXAMPLE)
    assert result.exit_code == 0, result.output


@pytest.mark.filterwarnings("ignore:Overwriting example_cnn")
def test_it_is_trained_teaches_dearkd_and_gives_images(tmp_path):
    cnn, student, images = tmp_path / "cnn", tmp_path / "student", tmp_path / "images"
    data = ["--data", "digits", "--fraction", "0.2"]
    run("teacher", "example_cnn", *data, "--epochs", "1", "--out", cnn, *SET)
    short = ["--stage1", "1", "--stage2", "1", "--student", "toy_student"]
    run("train", *data, "--teacher", cnn, *short, "--out", student, *SET, *TEACHER_SET)
    small = ["--res", "16", "--iters", "4", "--per-class", "2", "--recipe", "balanced"]
    run("synthesize", "--teacher", cnn, *small, "--out", images, *ARITHMETIC)

    stage1, stage2 = map(json.loads, (student / "metrics.jsonl").read_text().splitlines())
    assert stage1["hidden"] > 0  # the default method reads the network's hidden features
    assert "hidden" not in stage2
    assert len(json.loads((images / "manifest.json").read_text())["images"]) == 20


@pytest.mark.filterwarnings("ignore:Overwriting example_cnn")
def test_with_weights_of_ones_own_its_images_are_trained_on_beside_real_classes(tmp_path):
    """Its classes have no names then, and those of real images do."""
    torch.manual_seed(0)
    import_files([str(EXAMPLE)])
    network = timm.create_model("example_cnn", num_classes=10)
    torch.save(network.state_dict(), tmp_path / "own.pth")
    for name in ("ant", "bee", "cat", "dog", "elk", "fox", "gnu", "hen", "owl", "pig"):
        (tmp_path / "real" / name).mkdir(parents=True)
        Image.new("RGB", (32, 32)).save(tmp_path / "real" / name / "0.png")
    teacher = ["--teacher", "example_cnn", "--teacher-weights", tmp_path / "own.pth"]
    small = ["--res", "32", "--iters", "4", "--per-class", "2", "--recipe", "balanced"]
    run("synthesize", *teacher, *small, "--out", tmp_path / "images", *ARITHMETIC)
    data = ["--data", tmp_path / "images", "--eval-data", tmp_path / "real"]
    short = ["--recipe", "best", "--stage1", "1", "--student", "toy_student", "--img-size", "32"]
    few = ["--set", "data.batch_size=10"]
    run("train", *data, *teacher, *short, "--out", tmp_path / "run", *SET, *TEACHER_SET, *few)
    summary = json.loads((tmp_path / "run" / "summary.json").read_text())
    assert summary["top1"] is not None
    rounds = ["--res", "32", "--per-class", "2", "--epochs", "1", "--student", "toy_student"]
    few = ["--set", "train.data.batch_size=10", "--dry-run"]
    run("distill", *teacher, *rounds, *data[2:], "--out", tmp_path / "free", *few)


@pytest.mark.filterwarnings("ignore:Overwriting example_cnn")
@pytest.mark.parametrize("to", ["timm", "hf-folder"])
def test_it_is_exported_and_predicts_by_the_command_that_is_named(tmp_path, to):
    import_files([str(EXAMPLE)])
    metadata = {"arch": "example_cnn", "num_classes": 10, "img_size": 16}
    metadata |= {"mean": [0.5] * 3, "std": [0.5] * 3}
    network = timm.create_model("example_cnn", num_classes=10)
    save_model(tmp_path / "model.safetensors", network, metadata)
    result = invoke("export", tmp_path, "--to", to, "--out", tmp_path / to, "--import", EXAMPLE)
    assert result.exit_code == 0, result.output
    assert json.loads((tmp_path / to / "config.json").read_text())["num_features"] == 64
    named = f"dearkd predict {tmp_path / to} IMAGE --import {EXAMPLE}"
    assert f"try it: {named}\n" in result.stdout
    open_data("digits")[0].image(0).save(tmp_path / "digit.png")
    words = shlex.split(named.replace("IMAGE", str(tmp_path / "digit.png")))
    assert invoke(*words[1:]).exit_code == 0


def test_an_exported_folder_of_a_model_that_is_not_imported_is_told_so(tmp_path):
    metadata = {"arch": "nobodys_cnn", "num_classes": 10, "img_size": 16}
    metadata |= {"mean": [0.5] * 3, "std": [0.5] * 3}
    save_model(tmp_path / "model.safetensors", torch.nn.Linear(1, 1), metadata)
    result = invoke("predict", tmp_path, tmp_path / "digit.png")
    assert "unknown model 'nobodys_cnn'" in result.output
    assert "--import FILE" in result.output

"""`dearkd synthesize`: images from the embedded teacher, every mistake one line, resume."""

import dataclasses
import errno
import io
import json
import os
import shlex
import shutil
import time
import types
from pathlib import Path

import forked
import numpy as np
import pytest
import timm
import torch
from conftest import FAST, FAST_TEACHER
from rich.console import Console
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from timm.data.imagenet_info import ImageNetInfo
from typer.testing import CliRunner

from dearkd.cli.app import app
from dearkd.config import load_config
from dearkd.config_file import complete, user_tree
from dearkd.data.datasets import open_evaluation
from dearkd.data.synthetic_set import missing_images
from dearkd.errors import UserError
from dearkd.report.set_chapter import TERMS
from dearkd.run_folder.processes import process_accelerator
from dearkd.synthesis.class_selection import choose_classes
from dearkd.synthesis.conclusion import _advice, _train_command, _verdicts
from dearkd.synthesis.live import SynthesisProgress, clock
from dearkd.synthesis.set_folder import newest_unfinished_set
from dearkd.synthesis.settings import NetworkConfig, SynthesizeConfig
from dearkd.synthesis.setup import _check_same_classes, prepare
from dearkd.trained.resolve import EMBEDDED_WEIGHTS
from dearkd.training.batches import training_batches
from dearkd.training.build import build
from synth.classifier import Classifier
from synth.groups import batches_of
from synth.kernels import Kernels
from synth.objective_settings import ObjectiveConfig
from synth.settings import SynthesisConfig
from synth.stage import Step
from synth.synthesis import Prepared

SYNSETS = tuple(ImageNetInfo().label_names())
CONFIGS = sorted(Path(__file__).parents[2].glob("configs/synth/*.yaml"))
ARITHMETIC = ["--set", "precision=fp32", "--set", "layout=contiguous", "--set", "log_interval=2"]
SHORT = ["--iters", "4", "--per-class", "4", "--set", "images_per_class=2", *ARITHMETIC]


class Killed(BaseException):
    """As sudden as kill -9: nothing between the group and the end of the process runs."""


def invoke(*args):
    return CliRunner().invoke(app, [str(arg) for arg in args])


def made(*args):
    result = invoke("synthesize", *args)
    assert result.exit_code == 0, result.output
    return result.output


def refused(*args):
    """The one line on stderr of a command that must fail with exit code 2."""
    result = invoke("synthesize", *args)
    assert result.exit_code == 2, result.output
    lines = result.stderr.strip().splitlines()
    assert len(lines) == 1, result.stderr
    return lines[0]


def manifest(folder):
    return json.loads((folder / "manifest.json").read_text())


def hashes(folder):
    return {image["file"]: image["sha256"] for image in manifest(folder)["images"]}


@pytest.fixture(scope="module")
def digits(tmp_path_factory):
    """A set of classes 2, 5 and 7 in two groups, judged by a verifier."""
    folder = tmp_path_factory.mktemp("set") / "digits"
    judge = ["--verifier", EMBEDDED_WEIGHTS]
    return folder, made("--classes", "2,5,7", *SHORT, *judge, "--out", folder)


@pytest.fixture(scope="module")
def no_bn(tmp_path_factory):
    """Weights of a 7-class network without BatchNorm."""
    torch.manual_seed(0)
    file = tmp_path_factory.mktemp("weights") / "convnext.safetensors"
    save_file(timm.create_model("convnext_atto", num_classes=7).state_dict(), file)
    return file


def test_it_says_its_defaults_the_verdicts_and_the_next_command(digits):
    folder, output = digits
    assert "the embedded digits CNN" in output
    assert "resolutions 16" in output
    assert "recognised by the teacher digits: " in output
    assert f"recognised by the verifier {EMBEDDED_WEIGHTS}: " in output
    line = f"dearkd train --data {folder} --teacher digits --img-size 16"
    assert f"next: {line}\n" in output
    assert "mean distance within a class in its embedding (0-2): 0." in output
    content = manifest(folder)
    assert content["classes"]["indices"] == [2, 5, 7]
    assert len(content["images"]) == 12
    assert content["config"]["flip_probability"] == 0
    assert content["config"]["objective"]["ep_weight"] == 1.0


@pytest.mark.parametrize(("names", "least"), [(None, "5"), (tuple("zabcdefghi"), "e")])
def test_the_class_that_is_recognised_least_is_named(digits, names, least):
    content, setup = manifest(digits[0]), prepare(None, (), {"classes": [2, 5, 7]})
    setup = dataclasses.replace(
        setup, teacher=dataclasses.replace(setup.teacher, class_names=names)
    )
    shares = {"overall": 0.5, "per_class": {"2": 1.0, "5": 0.125, "7": 0.375}}
    quality = {"teacher": content["quality"]["teacher"] | {"recognition": shares}}
    line = next(_verdicts(content | {"quality": quality}, setup))
    assert line == f"recognised by the teacher digits: 50.0 % (least: class {least}, 12 %)"


@pytest.mark.parametrize(
    ("recognised", "weight", "said"),
    [
        (0.95, 1.0, None),
        (0.4, 1.0, "most images are not what"),
        (0.95, 0.1, None),
        (0.56, 0.1, "  their class was asked for with a weight of 0.1, so not all show it"),
        (0.4, 0.1, "  their class was asked for with a weight of 0.1, so not all show it"),
        (0.15, 0.1, "most images are not what"),  # of ten classes: as good as chance
    ],
)
def test_few_recognised_images_are_no_fault_where_their_class_weighed_little(
    recognised, weight, said
):
    config = prepare(None, [f"objective.ce_weight={weight}"]).config
    lines = list(_advice(recognised, 0.1, config))
    assert [line[: len(said or "")] for line in lines] == ([] if said is None else [said])


def test_a_set_of_one_step_says_that_it_shows_little(tmp_path):
    output = made("--classes", "2,5", *SHORT, "--iters", "1", "--out", tmp_path / "set")
    assert "most images are not what they were to become: try more --iters" in output


def test_the_next_command_trains_under_the_teachers_indices(digits):
    folder, _ = digits
    small = ["--set", "data.batch_size=4", "--student", "toy_student", "--img-size", "16"]
    result = invoke("train", "--data", folder, "--teacher", "digits", *small, "--dry-run")
    assert result.exit_code == 0, result.output
    assert "12 training images" in result.output
    options = {"data.train": str(folder), "teacher.name": "digits", "student": "toy_student"}
    parts = build(load_config(None, FAST, {**options, "data.img_size": 16}))
    assert parts.class_map == (2, 5, 7)
    assert parts.class_names == tuple("0123456789")
    assert parts.student.num_classes == 10
    assert parts.config.data.flip is False  # no image was mirrored in the making
    assert any("no mirrored views" in note for note in parts.choices)


@pytest.mark.parametrize("form", ["png", "parquet"])
def test_images_that_are_gone_are_told_of_and_made_again(form, tmp_path):
    folder = tmp_path / "set"
    made("--classes", "2,5,7", *SHORT, "--format", form, "--out", folder)
    before = hashes(folder)
    assert missing_images(str(folder)) is None
    if form == "png":
        shutil.rmtree(folder / "5")
        next((folder / "7").glob("*.png")).unlink()
        words = "lacks 5 of the 12 images that its manifest lists, of class 5 (4 of 4), 7 (1 of 4)"
    else:
        next((folder / "data").glob("*.parquet")).unlink()
        words = "lacks 6 of the 12 images that its manifest lists, of class 2 (2 of 4)"
    small = ["--set", "data.batch_size=4", "--student", "toy_student", "--img-size", "16"]
    output = invoke("train", "--data", folder, "--teacher", "digits", *small, "--dry-run").output
    assert f"warning: {folder} {words}" in output
    assert f"make them again: dearkd synthesize --resume --out {folder}" in output
    made("--resume", "--out", folder)
    assert missing_images(str(folder)) is None
    assert hashes(folder) == before


@pytest.mark.parametrize(
    ("data", "settings", "flip"),
    [
        ("digits", [], False),
        ("digits", ["data.augment=light"], True),
        ("set", [], False),
        ("set", ["data.flip=true"], True),
        ("set", ["data.augment=digits"], False),
        ("unfinished", [], False),
        ("mirrored", [], True),
        ("mirrored", ["data.flip=false"], False),
        ("foreign", [], True),
    ],
)
def test_views_are_mirrored_unless_the_images_never_were(digits, tmp_path, data, settings, flip):
    if data == "unfinished":
        shutil.copytree(digits[0], tmp_path / data)
        (tmp_path / data / "manifest.json").unlink()
    if data in ("mirrored", "foreign"):
        shutil.copytree(digits[0], tmp_path / data)
        content = manifest(digits[0])
        content["config"]["flip_probability"] = 0.5
        if data == "foreign":
            del content["config"]
        (tmp_path / data / "manifest.json").write_text(json.dumps(content))
    options = {
        "data.train": {"digits": "digits", "set": str(digits[0])}.get(data, str(tmp_path / data)),
        "data.img_size": 16,
        "student": "toy_student",
        "teacher.name": "digits",
    }
    config = load_config(None, [*FAST, "data.batch_size=4", *settings], options)
    assert build(config).config.data.flip is flip


def test_the_loader_mirrors_where_the_configuration_says_so():
    both = []
    for flip in ("true", "false"):
        settings = ["data.augment=light", "data.batch_size=32", f"data.flip={flip}"]
        parts = build(
            load_config(None, [*FAST, *settings], {"method": "ce", "student": "toy_student"})
        )
        batches, _ = training_batches(parts, process_accelerator())
        both.append(next(iter(batches(0, 0)))[0])
    same = (both[0] == both[1]).flatten(1).all(1)
    assert torch.equal(both[0][~same].flip(-1), both[1][~same])
    assert 8 < same.sum() < 24


def test_mirroring_by_what_never_mirrors_is_refused():
    options = {"method": "ce", "student": "toy_student"}
    with pytest.raises(ValueError, match=r"data.flip=true has no effect with data.augment=digits"):
        build(load_config(None, [*FAST, "data.flip=true"], options))


def test_a_set_of_parquet_files_is_trained_on_under_the_teachers_indices(tmp_path):
    folder = tmp_path / "my set"
    output = made(*SHORT, "--format", "parquet", "--out", folder)
    assert sorted(file.name for file in folder.glob("data/*")) == [
        "train-000000.parquet",
        "train-000001.parquet",
    ]
    line = shlex.split(output.splitlines()[-1].partition("next: ")[2])
    assert line[:4] == ["dearkd", "train", "--data", str(folder)]
    assert line[-2:] == ["--eval-data", "digits"]
    student = [
        "--student",
        "toy_student",
        "--stage1",
        "1",
        "--stage2",
        "1",
        "--out",
        tmp_path / "run",
    ]
    fast = [word for setting in (*FAST, *FAST_TEACHER) for word in ("--set", setting)]
    result = invoke(*line[1:], *student, *fast, "--set", "data.batch_size=4")
    assert result.exit_code == 0, result.output
    summary = json.loads((tmp_path / "run/summary.json").read_text())
    assert (summary["train_images"], summary["eval_images"]) == (40, 359)


@pytest.mark.parametrize(
    ("size", "words"),
    [
        (16, ["--img-size", "16"]),
        (32, []),
        (30, []),
        (96, ["--img-size", "96"]),
        (100, []),
        (224, []),
    ],
)
def test_the_next_command_names_a_size_that_a_student_takes(size, words):
    config = complete(SynthesizeConfig, {"resolutions": [size], "iterations": [1]})
    config = dataclasses.replace(config, teacher=NetworkConfig(name="resnet50"))
    line = _train_command(Path("a b"), config)
    assert line == shlex.join(["dearkd", "train", "--data", "a b", "--teacher", "resnet50", *words])


def test_a_killed_run_resumes_to_the_same_images(digits, tmp_path, monkeypatch):
    whole, _ = digits
    folder = tmp_path / "set"
    args = ["--classes", "2,5,7", *SHORT, "--verifier", EMBEDDED_WEIGHTS]

    def kill(self, images):
        raise Killed

    monkeypatch.setattr(SynthesisProgress, "group", kill)
    with pytest.raises(Killed):
        CliRunner().invoke(
            app, ["synthesize", *map(str, args), "--out", str(folder)], catch_exceptions=False
        )
    monkeypatch.undo()
    first = sorted(folder.glob("*/000000_*.png"))
    stamps = [file.stat().st_mtime_ns for file in first]
    assert len(first) == 6
    assert not (folder / "manifest.json").exists()
    assert "already holds a synthetic set" in refused(*args, "--out", folder)
    line = refused("--resume", "--per-class", "9", "--iters", "4", "--out", folder)
    assert f"stored in {folder}, which differ from per_class=9 (stored: 4); leave them" in line
    output = made("--resume", "--out", folder)
    assert "6 of 12 images are done" in output
    assert hashes(folder) == hashes(whole)
    assert [file.stat().st_mtime_ns for file in first] == stamps


def test_a_run_killed_before_its_first_group_goes_on(digits, tmp_path, monkeypatch):
    folder, args = tmp_path / "set", ["--classes", "2,5,7", *SHORT, "--verifier", EMBEDDED_WEIGHTS]

    def kill(*args, **kwargs):
        raise Killed

    for name in ("synth.agreement.choose_kernels", "synth.synthesis.plan_groups"):
        monkeypatch.setattr(name, kill)
        with pytest.raises(Killed):
            CliRunner().invoke(
                app, ["synthesize", *map(str, args), "--out", str(folder)], catch_exceptions=False
            )
        monkeypatch.undo()
        assert not (folder / "settings.json").exists()
    made("--resume", "--out", folder)  # and the second command above was not refused either
    assert hashes(folder) == hashes(digits[0])


def test_a_run_killed_while_it_writes_its_first_file_begins_anew(digits, tmp_path, monkeypatch):
    folder, args = tmp_path / "set", ["--classes", "2,5,7", *SHORT, "--verifier", EMBEDDED_WEIGHTS]
    left = {}

    def kill(handle):
        left.update({file: file.read_bytes() for file in folder.glob(".synthesize.yaml.*")})
        raise Killed

    monkeypatch.setattr(os, "fsync", kill)
    with pytest.raises(Killed):
        CliRunner().invoke(
            app, ["synthesize", *map(str, args), "--out", str(folder)], catch_exceptions=False
        )
    monkeypatch.undo()
    assert len(left) == 1
    for file, content in left.items():  # a real kill leaves no time to remove it
        file.write_bytes(content)
    made(*args, "--out", folder)
    assert hashes(folder) == hashes(digits[0]) and not list(folder.glob(".synthesize*"))


def test_an_unfinished_set_is_told_of(digits, tmp_path):
    shutil.copytree(digits[0], tmp_path / "set")
    (tmp_path / "set/manifest.json").unlink()
    small = ["--set", "data.batch_size=4", "--student", "toy_student", "--img-size", "16"]
    output = invoke("train", "--data", tmp_path / "set", "--method", "ce", *small, "--dry-run")
    assert f"warning: {tmp_path}/set is an unfinished synthetic set" in output.output
    assert f"finish it: dearkd synthesize --resume --out {tmp_path}/set" in output.output


def test_training_on_some_classes_is_judged_on_these(digits):
    options = {"data.train": str(digits[0]), "teacher.name": "digits", "student": "toy_student"}
    config = load_config(None, FAST, {**options, "data.evaluation": "digits", "data.img_size": 16})
    parts = build(config)
    whole = open_evaluation("digits")
    kept = np.isin(whole.labels, (2, 5, 7))
    assert len(parts.evaluation) == kept.sum() < len(whole)
    assert [(2, 5, 7)[label] for label in parts.evaluation.labels] == whole.labels[kept].tolist()
    words = f"evaluation on the {kept.sum()} of {len(whole)} images whose class is among those tr"
    assert any(words in note for note in parts.choices)


def test_a_teacher_that_saw_no_mirrored_images_makes_none(tmp_path, toy_teacher):
    for flip in (True, False):
        folder = tmp_path / str(flip)
        shutil.copytree(toy_teacher, folder)
        (folder / "config.yaml").write_text(f"data:\n  flip: {str(flip).lower()}\n")
        for name in (folder, folder / "model.safetensors"):
            setup = prepare(None, ["objective.ep_weight=1"], {"teacher.name": str(name)})
            assert setup.config.flip_probability == (0.5 if flip else 0.0)
            assert ("flip_probability 0.0" in setup.notes) is not flip


def test_a_damaged_settings_file_is_not_to_be_deleted(digits, tmp_path):
    shutil.copytree(digits[0], tmp_path / "set")
    (tmp_path / "set/settings.json").write_text("{")
    line = refused("--resume", "--out", tmp_path / "set")
    assert "settings.json is damaged" in line
    assert "; restore it, or name another folder" in line


@pytest.mark.parametrize("damaged", [1, 2])
def test_damaged_images_of_a_finished_set_are_named_and_made_again(damaged, digits, tmp_path):
    folder = tmp_path / "set"
    shutil.copytree(digits[0], folder)
    files = sorted(folder.glob("5/*.png"))[:damaged]
    for file in files:
        file.write_bytes(file.read_bytes()[:60])
    line = refused("--resume", "--out", folder)
    assert all(str(file) in line for file in files)
    assert " damaged (" in line and "and resume: " in line and "made again" in line
    for file in files:
        file.unlink()
    made("--resume", "--out", folder)
    assert hashes(folder) == hashes(digits[0])


def test_a_set_is_no_network(digits):
    line = refused("--teacher", digits[0])
    assert f"teacher {digits[0]} is a set of synthetic images, no network" in line


def test_weights_that_are_no_numbers_are_named(no_bn, tmp_path):
    state = load_file(no_bn)
    state["stem.0.bias"][0] = float("nan")
    save_file(state, tmp_path / "nan.safetensors")
    line = refused("--teacher", "convnext_atto", "--teacher-weights", tmp_path / "nan.safetensors")
    assert "holds values that are no numbers (NaN or infinite) in stem.0.bias" in line


def test_a_verifier_that_is_the_teacher_is_told_of(tmp_path):
    line = [*SHORT, "--classes", "0-1", "--verifier", "digits", "--out", tmp_path / "set"]
    assert "the verifier is the teacher itself: no second opinion" in made(*line)


def test_a_file_of_classes_by_name(tmp_path):
    names = ("crane", "C", "tiger", "C#", "tiger shark", "crane", "n01440764")
    teacher = types.SimpleNamespace(class_names=names, num_classes=len(names), name="toy")
    file = tmp_path / "names.txt"

    def chosen(text):
        file.write_text(text)
        return choose_classes(str(file), teacher)

    assert chosen("C#\nC # the older\n# none\n\ntiger shark\n0 crane\nn01440764 tench\n") == (
        (3, 1, 4, 0, 6)
    )
    imagenet = types.SimpleNamespace(class_names=SYNSETS, num_classes=1000, name="toy")
    file.write_text("goldfish\ntench, Tinca tinca\n7\n")
    assert choose_classes(str(file), imagenet) == (1, 0, 7)
    file.write_text("\ufeffgoldfish\n7\n")  # as Windows' editors begin a file
    assert choose_classes(str(file), imagenet) == (1, 7)
    for content, words in ((b"\xff", "is no UTF-8 text"), (b"# none", "names no class")):
        file.write_bytes(content)
        with pytest.raises(ValueError, match=f"names.txt {words}; write a class name a line"):
            choose_classes(str(file), teacher)
    with pytest.raises(ValueError, match="'crane', the name of the classes 0 and 5; give the in"):
        chosen("crane\n")
    with pytest.raises(ValueError, match="has class 'tiger lily', which toy does not know; did"):
        chosen("tiger lily\n")
    teacher = types.SimpleNamespace(class_names=("0", "1"), num_classes=2, name="toy")
    with pytest.raises(ValueError, match="has class '-1', which toy does not know"):
        chosen("-1\n")


def test_ctrl_c_says_how_to_go_on(tmp_path, monkeypatch):
    def stop(self, *step, **kind):
        raise KeyboardInterrupt

    monkeypatch.setattr(SynthesisProgress, "step", stop)
    monkeypatch.chdir(tmp_path)
    result = invoke("synthesize", *SHORT)
    assert result.exit_code == 130
    assert "go on with: dearkd synthesize --resume --out runs/synth-digits-1" in result.output
    monkeypatch.undo()
    monkeypatch.chdir(tmp_path)
    made("--resume")  # the newest unfinished
    assert len(manifest(Path("runs/synth-digits-1"))["images"]) == 40
    assert "no unfinished synthetic set under runs/" in refused("--resume")


def test_the_command_to_go_on_is_quoted_for_the_shell(tmp_path, monkeypatch):
    def stop(self, *step, **kind):
        raise KeyboardInterrupt

    monkeypatch.setattr(SynthesisProgress, "step", stop)
    folder = tmp_path / "Tom's set"
    output = invoke("synthesize", *SHORT, "--out", folder).output
    command = output.partition("go on with: ")[2].splitlines()[0]
    assert shlex.split(command) == ["dearkd", "synthesize", "--resume", "--out", str(folder)]


def test_sigterm_stops_like_ctrl_c_but_for_the_code(tmp_path):
    folder, many = tmp_path / "set", ["--iters", "4", "--per-class", "400", *ARITHMETIC]
    process = forked.start(["synthesize", *many, "--out", folder], tmp_path / "log")
    while process.is_alive() and not list(folder.glob(".parts/*.json")):
        time.sleep(0.05)
    process.terminate()
    assert forked.ended(process) == 75
    output = (tmp_path / "log").read_text()
    assert f"stopped; go on with: dearkd synthesize --resume --out {folder}" in output
    assert len(list(folder.glob("*/000000_*.png"))) == 40
    assert not (folder / "manifest.json").exists() and not list(folder.rglob("*.png.*.tmp"))


def test_a_full_disk_says_how_to_go_on(tmp_path, monkeypatch):
    def full(handle):
        if any((tmp_path / "set").glob("*/*")):
            raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    line = refused(*SHORT, "--out", tmp_path / "set")
    assert f"cannot go on in {tmp_path}/set (No space left on device); go on with: dearkd" in line
    monkeypatch.undo()
    made("--resume", "--out", tmp_path / "set")
    assert len(manifest(tmp_path / "set")["images"]) == 40


def test_a_competing_student_and_tuned_weights(tmp_path, toy_teacher):
    adaptive = ["--student", toy_teacher, "--auto-weights", "--set", "objective.auto_iterations=4"]
    adaptive += ["--set", "objective.adversary_weight=0.1"]
    made(*adaptive, "--classes", "0-1", *SHORT, "--out", tmp_path / "set")
    content = manifest(tmp_path / "set")
    assert content["config"]["objective"]["compete_weight"] == 0.2
    assert content["student"]["name"] == str(toy_teacher)
    assert content["groups"][0]["terms"].keys() == TERMS.keys()  # so that a report draws them all
    assert content["bn_weight"] != content["config"]["objective"]["bn_weight"]


def test_a_run_folder_is_a_teacher_and_a_file_names_classes(tmp_path, toy_teacher):
    names = tmp_path / "names.txt"
    names.write_text("7\n\n3 three  # a comment\n")
    settings = [f"objective.{name}=0" for name in ("ep_weight", "triplet_weight")]
    options = {"teacher.name": str(toy_teacher), "select": str(names)}
    setup = prepare(None, settings, options)
    assert setup.synthesis.classes == (7, 3)
    assert setup.config.resolutions == (16,)
    assert setup.config.iterations == (2000,)
    assert setup.config.per_class == 50


def test_a_large_teacher_gets_two_stages(no_bn):
    options = {"teacher.name": "convnext_atto", "teacher.weights": str(no_bn), "allow_no_bn": True}
    config = prepare(None, [], options).config
    assert config.resolutions == (112, 224)
    assert config.iterations == (2000, 2000)
    assert config.objective.ep_weight == 50


def test_a_recipe_sets_the_weights_that_are_not_given():
    ours = prepare(None, ["objective.bn_weight=2"], {"resolutions": [16]}).config
    assert (ours.recipe, ours.objective.bn_weight, ours.objective.bn_relative) == (
        "balanced",
        2,
        True,
    )
    assert ours.lr == 0.1  # the digits CNN's std is 0.5
    paper = prepare(None, [], {"recipe": "paper"}).config
    assert paper.objective == ObjectiveConfig()
    assert paper.lr == SynthesisConfig().lr
    large = prepare(None, [], {"resolutions": [112, 224]}).config
    assert large.objective.tv_weight < prepare(None, []).config.objective.tv_weight


@pytest.mark.parametrize("engine", ["inversion", "generator"])
def test_without_r_bn_a_recipe_has_none_of_its_settings(engine):
    setup = prepare(None, ["objective.bn_weight=0"], {"engine": engine})
    weights, plain = setup.config.objective, ObjectiveConfig()
    assert (weights.bn_weight, weights.bn_relative) == (0, plain.bn_relative)
    assert weights.bn_first_multiplier == plain.bn_first_multiplier
    assert weights.ep_weight != plain.ep_weight  # the rest of the recipe stays
    assert not any("bn_" in note for note in setup.notes)


def test_a_size_far_from_the_teachers_own_is_warned_of():
    words = "warning: digits learned from 16-px images and may recognise little"
    for size, warned in ((16, False), (64, False), (224, True)):
        notes = prepare(None, [], {"resolutions": [size]}).notes
        assert any(words in note for note in notes) is warned


def test_bare_defaults_shrink_with_the_resolution():
    small, large = prepare(None, []).config, prepare(None, [], {"resolutions": [112, 224]}).config
    assert (small.per_class, small.iterations) == (100, (500,))
    assert (large.per_class, large.iterations) == (4, (150, 150))
    assert prepare(None, [], {"verifier.name": "digits"}).verifier.num_classes == 10
    given = prepare(None, ["iterations=[7]", "per_class=9", "flip_probability=0.5"]).config
    assert (given.per_class, given.iterations, given.flip_probability) == (9, (7,), 0.5)


@pytest.mark.parametrize(("room", "shape"), [(80, (4, 10, 2)), (12, (4, 3, 1)), (5, (2, 2, 1))])
def test_images_per_batch_chooses_groups(room, shape):
    config = prepare(None, [], {"images_per_batch": room}).config
    assert (config.images_per_class, config.classes_per_group, config.groups_per_batch) == shape


@pytest.mark.parametrize("per_class", [2, 3, 5, 7, 50])
@pytest.mark.parametrize("classes", ["all", "0-2", "0-1", "0-4"])
@pytest.mark.parametrize("room", [4, 6, 8, 9, 13, 40, 100])
def test_images_per_batch_are_never_exceeded(room, classes, per_class):
    options = {"images_per_batch": room, "per_class": per_class, "select": classes}
    least = (3 if per_class % 2 else 2) * (3 if classes in ("0-2", "0-4") else 2)
    if room < least:
        with pytest.raises(ValueError, match=f"has at least {least}; use {least}"):
            prepare(None, [], options)
        return
    setup = prepare(None, [], options)
    batches = batches_of(setup.groups, setup.config.groups_per_batch)
    assert max(len(batch) * len(batch[0].targets) for batch in batches) <= room


@pytest.mark.parametrize("options", [{"images_per_batch": 8}, {"images_per_batch": 13}, {}])
def test_classes_count_whichever_setting_names_them(options):
    one = prepare(None, ["classes=[0,1,2]"], options)
    other = prepare(None, [], {**options, "select": "0-2"})
    assert one.synthesis == other.synthesis
    batches = batches_of(one.groups, one.config.groups_per_batch)
    room = options.get("images_per_batch", 40)
    assert max(len(batch) * len(batch[0].targets) for batch in batches) <= room


def test_a_set_that_was_begun_when_such_classes_were_not_counted_goes_on(tmp_path):
    groups = {"images_per_class": 4, "classes_per_group": 2, "groups_per_batch": 1}
    settings = {"classes": [0, 1, 2], "images_per_batch": 8, "per_class": 4}
    settings |= {"resolutions": [16], "iterations": [4]}
    file = tmp_path / "synthesize.yaml"
    file.write_text(json.dumps({**settings, **groups}))
    assert len(prepare(file, [], stored=True).groups[0].targets) == 12


def test_a_set_that_was_begun_when_an_idle_allowance_was_taken_goes_on(tmp_path):
    file = tmp_path / "synthesize.yaml"
    file.write_text("allow_no_bn: true\nper_class: 4\nresolutions: [16]\niterations: [4]\n")
    assert prepare(file, [], stored=True).config.allow_no_bn
    with pytest.raises(UserError, match="--allow-no-bn has no effect"):
        prepare(file, [])


@pytest.fixture
def two_cnns(tmp_path, toy_teacher):
    """Two run folders in ``tmp_path/nets``, ``cnn`` and ``second``, and a file of class names."""
    nets = tmp_path / "nets"
    nets.mkdir()
    shutil.copyfile(toy_teacher / "model.safetensors", nets / "toy.safetensors")
    shutil.copytree(toy_teacher, nets / "cnn")
    shutil.copytree(toy_teacher, nets / "second")
    weights = {name: tensor.clone() for name, tensor in load_file(nets / "toy.safetensors").items()}
    first = next(name for name in weights if name.endswith("weight"))
    weights[first] += 0.01
    with safe_open(nets / "toy.safetensors", "pt") as stored:
        save_file(weights, nets / "second/model.safetensors", stored.metadata())
    (nets / "names.txt").write_text("2\n5\n7\n")
    return nets


def test_a_set_of_relative_paths_goes_on_from_any_folder(two_cnns, tmp_path, monkeypatch):
    monkeypatch.chdir(two_cnns)
    teachers = ["--teacher", "cnn", "--teacher", "second", "--verifier", "second"]
    args = [*teachers, "--classes", "names.txt", *SHORT, "--out", "../set"]
    assert "12 images from cnn and second" in made(*args)
    whole = hashes(tmp_path / "set")
    monkeypatch.chdir(tmp_path)
    (tmp_path / "set/manifest.json").unlink()
    next((tmp_path / "set").glob("*/*.png")).unlink()
    made("--resume", "--out", "set")
    assert hashes(tmp_path / "set") == whole
    checks = json.loads(invoke("verify", "set", "--json").stdout)["checks"]
    assert [check["verdict"] for check in checks] == ["holds"] * 5
    monkeypatch.chdir(two_cnns)
    shutil.rmtree("second")  # a finished set needs its networks no more
    assert "is finished" in made(*args, "--go-on")


def test_networks_of_a_begun_set_may_move(two_cnns, tmp_path, monkeypatch):
    folder, old = tmp_path / "set", ["--teacher", two_cnns / "cnn", "--teacher"]
    made(*old, two_cnns / "second", "--classes", "2,5,7", *SHORT, "--out", folder)
    whole = hashes(folder)
    (folder / "manifest.json").unlink()
    next(folder.glob("*/*.png")).unlink()
    (two_cnns / "second").rename(tmp_path / "moved")
    line = refused("--resume", "--out", folder)
    assert f"if it has moved: dearkd synthesize --resume --out {folder} --teacher NEW" in line
    twins = ["--teacher", two_cnns / "cnn", "--teacher", EMBEDDED_WEIGHTS]
    line = refused("--resume", "--out", folder, *twins)
    assert "was made with other_teachers.0." in line and "resume with the same" in line
    monkeypatch.chdir(tmp_path)
    made("--resume", "--out", folder, *old, "moved")
    assert hashes(folder) == whole
    (folder / "manifest.json").unlink()
    made("--resume", "--out", folder)  # it has taken the new place over
    assert hashes(folder) == whole


MISTAKES = [
    (["--per-class", "9" * 20], "--per-class must be at most 1000000, got 9999999"),
    (["--set", "teacher.name=3"], "unknown teacher '3'"),
    (["--set", "imports=[3]"], "--import 3 does not exist"),
    (
        ["--teacher", "digits", "--set", "other_teachers=[{name: digits, weight: w.pth}]"],
        "unknown config key 'weight'; did you mean",
    ),
    (["--teacher", "digits", "--set", "other_teachers=[{name: 3}]"], "unknown teacher '3'"),
    (["--teacher", "resnet5"], "unknown teacher 'resnet5'; did you mean"),
    (["--verifier", "resnet5"], "unknown verifier 'resnet5'; did you mean"),
    (["--teacher", "no/folder"], "no/folder does not exist"),
    (["--teacher-weights", "w.pth"], "w.pth needs --teacher, the model they are for"),
    (["--set", "verifier.weights=w.pth"], "--verifier-weights w.pth needs --verifier"),
    (["--per-class", "1"], "no positive; use --per-class 2, or --set objective.ep_weight=0 --set"),
    (
        ["--classes", "3"],
        "no negative; raise it, or use --set objective.ep_weight=0 --set objective",
    ),
    (["--set", "image_format=jpeg"], "'jpeg', expected one of ['png', 'webp', 'parquet']"),
    (["--set", "recipe=ours"], "recipe: Invalid value 'ours', expected one of ['paper', 'balan"),
    (["--set", "precision=half"], "expected one of ['auto', 'fp32', 'bf16', 'fastest']"),
    (["--classes", "5-12"], "classes 5-12 are not among the teacher's 10; give a range in 0-9"),
    (["--classes", "cats"], "classes 'cats' are no file, nor a range; give all"),
    (["--classes", ""], "classes '' are no file, nor a range; give all"),
    (["--set", "select=12"], "classes 12 are not among the teacher's 10"),
    (["--classes", "5-2"], "classes 5-2 run backwards; write 2-5"),
    (["--teacher", "digits", "--teacher-weights", "x"], "digits has its own, leave them out"),
    (["--classes", "1,1"], "classes names 1 more than once"),
    (["--set", "classes=[1,2]", "--classes", "1-2"], "name classes twice"),
    (["--res", "big"], "--res wants whole numbers, one a stage, as in 112,224; got 'big'"),
    (["--res", "16,8", "--iters", "2,2"], "--res must not fall, got [16, 8]; write --res 8,16"),
    (["--res", "0"], "--res of every stage must be at least 8, got 0"),
    (["--res", "16,9000", "--iters", "2,2"], "--res of every stage must be at most 8192, got 9000"),
    (["--iters", "1000000000"], "--iters of every stage must be at most 100000, got 1000000000"),
    (["--allow-no-bn"], "--allow-no-bn has no effect: digits has BatchNorm2d; leave it out"),
    (
        ["--res", "16,32", "--iters", "4"],
        "as in 112,224 and 500,500; got [16, 32] and [4]",
    ),
    (["--iters", "-4"], "--iters wants whole numbers, one a stage, as in 2000,2000"),
    (["--fast", "--iters", "50"], "--fast sets the iterations; leave --iters out, or --fast"),
    (["--images-per-batch", "3"], "images_per_batch must be at least 4"),
    (["--engine", "generator", "--images-per-batch", "0"], "images_per_batch must be at least 4"),
    (["--images-per-batch", "8", "--set", "groups_per_batch=9"], "leave one of them out"),
    (["--set", "objective.bn=1"], "unknown config key 'objective.bn'; known in objective: ce"),
    (["--set", "optim.lr=1"], "unknown config key 'optim.lr'; did you mean 'lr'?"),
    (["--set", "lr=nan"], "lr must be above 0 and at most 10, got nan"),
    (["--per-class", "0"], "--per-class must be at least 2, got 0"),
    (["--per-class", "0", "--images-per-batch", "40"], "--per-class must be at least 2, got 0"),
    (["--set", "images_per_class=0", "--images-per-batch", "40"], "images_per_class must be at le"),
    (["--set", "classes_per_group=0", "--images-per-batch", "40"], "classes_per_group must be at "),
    (["--set", "resolutions=[]"], "as in 112,224 and 500,500; got [] and [500]"),
    (["--set", "objective.bn_weight=1e39", *SHORT], "lower lr or the weights"),
    (["--student", EMBEDDED_WEIGHTS, "--set", "objective.compete_weight=0"], "has no effect"),
    (["nothing.yaml"], "config nothing.yaml does not exist"),
    (["--import", "mine.py"], "--import mine.py does not exist"),
    (["--resume", "--out", "empty"], "nothing to resume in empty: it does not exist"),
]


@pytest.mark.parametrize(
    ("args", "words"), MISTAKES, ids=[" ".join(map(str, m[0])) for m in MISTAKES]
)
def test_a_mistake_gets_one_line(args, words, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert words in refused(*args)


def test_a_file_with_an_unknown_class_is_refused(tmp_path):
    (tmp_path / "names.txt").write_text("1\ntench\n")
    line = refused("--classes", tmp_path / "names.txt")
    assert "names.txt has class 'tench', which digits does not know" in line


def test_networks_that_do_not_fit_are_refused(no_bn):
    named = ["--teacher", "convnext_atto", "--teacher-weights", no_bn]
    line = refused(*named)
    assert "convnext_atto has no BatchNorm2d" in line
    assert "resnet50, regnety_160" in line
    assert "or --allow-no-bn to go on" in line
    judge = ["--verifier", "convnext_atto", "--verifier-weights", no_bn]
    assert "verifier convnext_atto has 7 classes, the teacher 10" in refused(*judge)
    assert "cannot take 16-pixel" in refused(*named, "--allow-no-bn", "--res", "16", "--iters", "2")


def test_images_far_below_the_teachers_size_are_noted_before_they_are_made(tmp_path):
    weights = tmp_path / "cnn.safetensors"
    save_file(timm.create_model("test_resnet", num_classes=2).state_dict(), weights)
    line = ["synthesize", "--teacher", "test_resnet", "--teacher-weights", weights]
    line += ["--iters", "2", "--per-class", "2", "--out", tmp_path / "set", "--dry-run", "--res"]
    small, large = (invoke(*line, size) for size in ("64", "80"))
    assert (small.exit_code, large.exit_code) == (0, 0), small.output + large.output
    assert "note: test_resnet was trained at 160 px" in small.output
    assert "make them at 160 and train on them with --img-size 64" in " ".join(small.output.split())
    assert "was trained at" not in large.output


def test_settings_of_batch_norm_need_it(no_bn):
    named = ["--teacher", "convnext_atto", "--teacher-weights", no_bn, "--allow-no-bn"]
    named += ["--res", "32", "--iters", "2", "--dry-run"]
    for setting in ("bn_weight=3", "bn_relative=true", "bn_first_multiplier=10"):
        line = refused(*named, "--set", f"objective.{setting}")
        assert f"objective.{setting.partition('=')[0]} has no effect: convnext_atto has no" in line


def test_auto_weights_need_batch_norm(no_bn):
    named = ["--teacher", "convnext_atto", "--teacher-weights", no_bn, "--allow-no-bn"]
    line = refused(*named, "--auto-weights", "--res", "32", "--iters", "2", "--dry-run")
    assert "auto_weights tunes bn_weight, but convnext_atto has no BatchNorm2d" in line


def test_a_student_out_of_reach_names_its_own_setting(monkeypatch):
    monkeypatch.setattr("dearkd.trained.open.is_reachable", lambda url: False)
    line = refused("--student", "resnet10t", "--set", "objective.compete_weight=0.2")
    assert "no weights for student 'resnet10t'" in line
    assert "(--set student.weights=FILE)" in line


def test_folders_that_are_taken_are_refused(tmp_path, digits):
    file = tmp_path / "file"
    file.write_text("")
    assert f"--out {file} is a file" in refused("--out", file)
    assert f"cannot write to {file}/below" in refused("--out", file / "below", *SHORT)
    assert f"{tmp_path} is not empty and holds no synthetic set" in refused("--out", tmp_path)
    assert "already holds a synthetic set" in refused("--out", digits[0])
    assert "leave x.yaml out" in refused("x.yaml", "--resume", "--out", digits[0])


def test_bare_resume_passes_over_sets_that_another_process_works_on(tmp_path):
    from dearkd.run_folder.lock import held

    for age, name in enumerate(("new", "old")):
        (tmp_path / name).mkdir()
        (tmp_path / name / "synthesize.yaml").write_text("{}")
        os.utime(tmp_path / name / "synthesize.yaml", (100 - age, 100 - age))
    assert newest_unfinished_set(tmp_path) == tmp_path / "new"
    with held(tmp_path / "new", ".lock.tmp"):
        assert newest_unfinished_set(tmp_path) == tmp_path / "old"


def test_a_folder_in_use_is_refused(tmp_path):
    from dearkd.run_folder.lock import held

    with held(tmp_path / "set", ".lock.tmp"):
        assert "is in use by another running process" in refused("--out", tmp_path / "set", *SHORT)


def test_networks_that_take_other_channels_are_refused_before_images_are_made(tmp_path):
    grey = Classifier(
        name="grey",
        network=timm.create_model("test_resnet", in_chans=1, num_classes=10),
        mean=(0.5,),
        std=(0.5,),
        img_size=16,
        num_classes=10,
    )
    teacher = dataclasses.replace(grey, name="colours", mean=(0.5,) * 3, std=(0.5,) * 3)
    with pytest.raises(UserError, match="verifier grey takes images of 1 channel, the teacher 3"):
        _check_same_classes("verifier", grey, teacher)
    _check_same_classes("verifier", teacher, grey)  # grey images are shown in all of its channels


def test_time_left_is_told_from_pixels():
    stages = ((8, 10), (16, 10))
    text = io.StringIO()
    console = Console(file=text, force_terminal=True, width=160)
    kernels = Kernels(device="cpu", threads=1, precision="fp32", channels_last=False)
    with SynthesisProgress(console, stages) as progress:
        progress.begin(
            Prepared(kernels=kernels, bn_weight=1.0, images=8, images_here=8, iterations_here=40)
        )
        done = []
        for batch, stage in ((0, 0), (0, 1), (1, 0), (1, 1)):
            size = stages[stage][0]
            step = Step(
                stage=stage,
                iteration=10,
                resolution=size,
                terms={"objective": [2.0, 4.0], "l2": [1.0, 1.0]},
                grad_norms={},
                images=torch.empty(0),
                stopped=(None, None),
            )
            progress.step(step, 20 * batch + 10 * stage + 10, warming_up=False)
            done.append(progress._work(step, 20 * batch + 10 * stage + 10) / progress.total)
            progress.group(2)
        progress.step(step, 40, warming_up=True)
    assert done == [0.1, 0.5, 0.6, 1.0]
    assert "warm-up, stage 2/2, 16 px" in text.getvalue()
    assert "objective 3" in text.getvalue()
    assert "iterations/s" in text.getvalue()
    assert clock(3661.5) == "1:01:01"


@pytest.mark.parametrize("file", CONFIGS, ids=lambda file: file.stem)
def test_every_config_loads_and_tells_its_story(file):
    config = complete(SynthesizeConfig, user_tree(SynthesizeConfig, file, (), {}))
    assert config.teacher.name is not None
    weights = config.objective
    assert weights.intra_divergence != file.stem.endswith("_deepinversion")
    text = file.read_text()
    assert len(text.splitlines()) <= 40
    for word in ("# Command", "# Hardware", "# Time", "# Expected"):
        assert word in text


def test_there_are_configs_and_digits_is_the_bare_run():
    names = {file.stem for file in CONFIGS}
    assert {"digits", "cifar10_cpu", "imagenet_lite0", "imagenet_resnet50"} <= names
    spelled_out = next(file for file in CONFIGS if file.stem == "digits")
    assert prepare(spelled_out, []).config == prepare(None, []).config
    drawn = next(file for file in CONFIGS if file.stem == "digits_generator")
    assert prepare(drawn, []).config == prepare(None, [], {"engine": "generator"}).config

"""Images, teacher and run may move between two sessions of a run, and can't change."""

import json
import shutil

import pytest
import torch
from commands import invoke, refused
from conftest import FAST, FAST_TEACHER, KilledError
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from dearkd.data.datasets import open_data
from dearkd.report.configurations import alike
from dearkd.report.contents import Run
from dearkd.run_folder.folder import RunFolder
from dearkd.training.loop import Trainer

SETTINGS = [word for setting in [*FAST, *FAST_TEACHER] for word in ("--set", setting)]


def photos(folder, count=40):
    source = open_data("digits")[1]
    for index in range(count):
        place = folder / str(source.labels[index])
        place.mkdir(parents=True, exist_ok=True)
        source.image(index).save(place / f"{index}.png")
    return folder


@pytest.fixture(scope="module")
def teacher(tmp_path_factory):
    """The folder of a CNN that has learned something."""
    out = tmp_path_factory.mktemp("teacher") / "cnn"
    line = ["teacher", "toy_cnn", "--data", "digits", "--epochs", "1", "--out", out]
    result = invoke(*line, "--fraction", "0.3", "--set", "trackers=[]")
    assert result.exit_code == 0, result.output
    return out


@pytest.fixture
def line(tmp_path, teacher):
    """A whole command; its data and teacher lie in a place of their own."""
    photos(tmp_path / "here" / "photos")
    shutil.copytree(teacher, tmp_path / "here" / "cnn")
    options = "train --method deit-soft --student toy_student --img-size 16 --stage1 3 --stage2 0"
    batch = ["--set", "data.batch_size=20", *SETTINGS, "--set", "data.batch_size=20"]
    return [*options.split(), *batch, "--out", tmp_path / "run", *places(tmp_path / "here")]


def places(root):
    data = root / "photos"
    return ["--data", data, "--eval-data", data, "--teacher", root / "cnn"]


def stopped(line, monkeypatch):
    """The command, killed once its first epoch is saved."""
    save = Trainer._save

    def killed(self, *rest):
        save(self, *rest)
        raise KilledError

    with monkeypatch.context() as patch:
        patch.setattr(Trainer, "_save", killed)
        assert isinstance(invoke(*line).exception, KilledError)


def done(*line):
    result = invoke(*line)
    assert result.exit_code == 0, result.output
    return RunFolder(line[line.index("--out") + 1])


def test_all_may_move_and_the_run_ends_with_the_same_weights(tmp_path, line, monkeypatch):
    whole = done(*line[:-7], tmp_path / "whole", *places(tmp_path / "here"))
    stopped(line, monkeypatch)
    (tmp_path / "here").rename(tmp_path / "there")
    (tmp_path / "run").rename(tmp_path / "moved")
    assert "here" in refused("train", "--resume", "--out", tmp_path / "moved")
    there = places(tmp_path / "there")
    run = done("train", "--resume", "--out", tmp_path / "moved", *there)
    weights, other = (load_file(one.model_file) for one in (run, whole))
    assert all(torch.equal(weights[name], value) for name, value in other.items())
    config = run.read_config()
    assert (config.data.train, config.teacher.name) == tuple(map(str, (there[1], there[5])))
    assert invoke("verify", tmp_path / "moved").exit_code == 0


def test_the_whole_command_goes_on_from_another_place(tmp_path, line, monkeypatch):
    stopped(line, monkeypatch)
    (tmp_path / "here").rename(tmp_path / "there")
    done(*line[:-6], *places(tmp_path / "there"), "--go-on")
    again = refused(*line[:-6], *places(tmp_path / "there"), "--go-on", "--seed", "1")
    assert "seed=1 (stored: 0)" in again


def test_other_images_are_refused(tmp_path, line, monkeypatch):
    stopped(line, monkeypatch)
    photos(tmp_path / "others", 39)
    resume = ["train", "--resume", "--out", tmp_path / "run"]
    told = refused(*resume, "--data", tmp_path / "others")
    assert "data.train names other training images than the run began with" in told
    assert "name those, or start anew with another --out" in told
    told = refused(*resume, "--eval-data", tmp_path / "others")
    assert "data.evaluation names other evaluation images" in told
    next((tmp_path / "here" / "photos").rglob("*.png")).unlink()  # in its own place, too
    assert "training images than the run began with" in refused(*resume)


def test_another_teacher_is_refused(tmp_path, line, monkeypatch):
    stopped(line, monkeypatch)
    shutil.copytree(tmp_path / "here" / "cnn", tmp_path / "other")
    model = RunFolder(tmp_path / "other").model_file
    with safe_open(model, "pt") as file:
        metadata = file.metadata()
    weights = {name: value + 1 for name, value in load_file(model).items()}
    save_file(weights, model, metadata)
    told = refused("train", "--resume", "--out", tmp_path / "run", "--teacher", tmp_path / "other")
    assert "teacher.name names another teacher than the run began with" in told


def test_a_run_that_noted_nothing_stays_in_its_place(tmp_path, line, monkeypatch):
    stopped(line, monkeypatch)
    run = RunFolder(tmp_path / "run")
    sessions = [{k: v for k, v in one.items() if k != "places"} for one in run.sessions()]
    run.sessions_file.write_text("".join(json.dumps(one) + "\n" for one in sessions))
    photos(tmp_path / "copy")
    resume = ["train", "--resume", "--out", tmp_path / "run"]
    assert "differ from data.train=" in refused(*resume, "--data", tmp_path / "copy")
    done(*resume)


def test_runs_of_the_same_images_elsewhere_are_of_one_configuration():
    def run(seed, place, print_):
        config = {"seed": seed, "data": {"train": place}}
        noted = {"data.train": print_} if print_ else {}
        summary = {"sessions": [{"places": noted}]}
        return Run(None, place, config, [], summary, {})

    same = [run(0, "/a", "1"), run(1, "/b", "1")]
    assert len(alike(same, ("seed",))) == 1
    assert len(alike([run(0, "/a", "1"), run(1, "/b", "2")], ("seed",))) == 2
    assert len(alike([run(0, "/a", ""), run(1, "/b", "")], ("seed",))) == 2

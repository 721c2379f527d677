"""Images, teacher and run may move between two sessions of a run, and can't change."""

import json
import shutil

import pytest
import torch
from commands import invoke, refused
from conftest import FAST, FAST_TEACHER, KilledError, photo_classes
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from dearkd import train
from dearkd.errors import UserError
from dearkd.models.teacher import Teacher
from dearkd.run_folder.folder import RunFolder
from dearkd.run_folder.moved import noted_fingerprints
from dearkd.trained.open import open_trained
from dearkd.trained.resolve import resolve
from dearkd.training.fingerprints import check_fingerprints
from dearkd.training.loop import Trainer

SETTINGS = [word for setting in [*FAST, *FAST_TEACHER] for word in ("--set", setting)]


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
    photo_classes(tmp_path / "here" / "photos")
    shutil.copytree(teacher, tmp_path / "here" / "cnn")
    options = "train --method deit-soft --student toy_student --img-size 16 --stage1 2 --stage2 0"
    batch = [*SETTINGS, "--set", "data.batch_size=20", "--out", tmp_path / "run"]
    return [*options.split(), *batch, *places(tmp_path / "here")]


def at(line, root):
    """The same command with images and teacher below another folder."""
    return [*line[: line.index("--data")], *places(root)]


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


@pytest.mark.parametrize("found", [5, None, {"data.train": 3}])
def test_damaged_fingerprints_are_told_in_one_line(found):
    with pytest.raises(UserError, match=r"sessions\.jsonl is damaged \(fingerprints"):
        noted_fingerprints([{"fingerprints": found}])


def test_a_fingerprint_that_is_not_known_here_is_left_alone():
    check_fingerprints({"data.train": "a"}, {"data.train": "a", "of later versions": "b"})
    with pytest.raises(UserError, match=r"data\.train: not the training images"):
        check_fingerprints({"data.train": "a"}, {"data.train": "b"})


def test_all_may_move_and_the_run_ends_with_the_same_weights(tmp_path, line, monkeypatch):
    whole = done(*[tmp_path / "whole" if word == tmp_path / "run" else word for word in line])
    stopped(line, monkeypatch)
    (tmp_path / "here").rename(tmp_path / "there")
    (tmp_path / "run").rename(tmp_path / "moved here")
    told = refused("train", "--resume", "--out", tmp_path / "moved here")
    assert "here" in told
    assert f"it has moved: dearkd train --resume --out '{tmp_path}/moved here' --data NEW" in told
    there = places(tmp_path / "there")
    run = done("train", "--resume", "--out", tmp_path / "moved here", *there)
    weights, other = (load_file(one.model_file) for one in (run, whole))
    assert all(torch.equal(weights[name], value) for name, value in other.items())
    config = run.read_config()
    assert (config.data.train, config.teacher.name) == tuple(map(str, (there[1], there[5])))
    assert invoke("verify", tmp_path / "moved here").exit_code == 0


def test_the_whole_command_goes_on_from_another_place(tmp_path, line, monkeypatch):
    stopped(line, monkeypatch)
    (tmp_path / "here").rename(tmp_path / "there")
    done(*at(line, tmp_path / "there"), "--go-on")
    again = refused(*at(line, tmp_path / "there"), "--go-on", "--seed", "1")
    assert "seed=1 (stored: 0)" in again


def test_other_images_are_refused(tmp_path, line, monkeypatch):
    stopped(line, monkeypatch)
    photo_classes(tmp_path / "others", 39)
    resume = ["train", "--resume", "--out", tmp_path / "run"]
    told = refused(*resume, "--data", tmp_path / "others")
    assert "data.train: not the training images that the run began with" in told
    assert "or start anew with another --out" in told
    told = refused(*resume, "--eval-data", tmp_path / "others")
    assert "data.evaluation: not the evaluation images" in told
    next((tmp_path / "here" / "photos").rglob("*.png")).unlink()  # in its own place, too
    assert "not the training images" in refused(*resume)


def test_another_teacher_is_refused(tmp_path, line, monkeypatch):
    stopped(line, monkeypatch)
    shutil.copytree(tmp_path / "here" / "cnn", tmp_path / "other")
    model = RunFolder(tmp_path / "other").model_file
    with safe_open(model, "pt") as file:
        metadata = file.metadata()
    weights = {name: value + 1 for name, value in load_file(model).items()}
    save_file(weights, model, metadata)
    told = refused("train", "--resume", "--out", tmp_path / "run", "--teacher", tmp_path / "other")
    assert "teacher.name: not the teacher that the run began with" in told


def test_labels_and_normalisation_count(tmp_path, line, monkeypatch):
    stopped(line, monkeypatch)
    resume = ["train", "--resume", "--out", tmp_path / "run"]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(
            "dearkd.training.fingerprints._of_images", lambda source: source.fingerprint()
        )
        assert "not the training images" in refused(*resume)
    teacher = open_trained(resolve(str(tmp_path / "here" / "cnn"), "teacher"))
    half = (0.5,) * 3
    other = Teacher(teacher.network, student_mean=half, student_std=half, mean=(0.1,) * 3, std=half)
    with pytest.raises(UserError, match="not the teacher"):
        train(out=tmp_path / "run", resume=True, teacher=other)


def test_a_run_that_began_without_evaluation_images_has_none(tmp_path, line, monkeypatch):
    place = line.index("--eval-data")
    stopped([*line[:place], *line[place + 2 :]], monkeypatch)
    more = ["--eval-data", tmp_path / "here" / "photos"]
    told = refused("train", "--resume", "--out", tmp_path / "run", *more)
    assert "the run began without evaluation images; leave data.evaluation out" in told


def test_in_its_second_stage_a_run_needs_no_teacher_and_stores_no_other(
    tmp_path, line, monkeypatch
):
    two = ["--method", "dearkd", "--stage1", "1", "--stage2", "2"]
    stopped([*line, *two], monkeypatch)
    shutil.rmtree(tmp_path / "here" / "cnn")
    before = RunFolder(tmp_path / "run").read_config().teacher
    result = invoke("train", "--resume", "--out", tmp_path / "run", "--teacher", "resnet18")
    assert result.exit_code == 0, result.output
    assert "note: no teacher takes part any more, and resnet18 is not opened" in result.stdout
    assert RunFolder(tmp_path / "run").read_config().teacher == before


def test_a_dry_run_stores_nothing_and_python_can_say_where_they_lie(tmp_path, line, monkeypatch):
    stopped(line, monkeypatch)
    (tmp_path / "here").rename(tmp_path / "there")
    run = RunFolder(tmp_path / "run")
    before = run.config_file.read_bytes()
    there = places(tmp_path / "there")
    told = invoke("train", "--resume", "--out", run.path, *there, "--dry-run")
    assert told.exit_code == 0, told.output
    assert run.config_file.read_bytes() == before
    options = {"data": there[1], "eval_data": there[3], "teacher": there[5]}
    train(out=run.path, resume=True, **options)
    assert run.read_config().data.evaluation == str(there[3])
    assert len(run.sessions()) == 2


def test_a_run_that_noted_nothing_stays_in_its_place(tmp_path, line, monkeypatch):
    stopped(line, monkeypatch)
    run = RunFolder(tmp_path / "run")
    sessions = [{k: v for k, v in one.items() if k != "fingerprints"} for one in run.sessions()]
    run.sessions_file.write_text("".join(json.dumps(one) + "\n" for one in sessions))
    photo_classes(tmp_path / "copy")
    resume = ["train", "--resume", "--out", tmp_path / "run"]
    assert "differ from data.train=" in refused(*resume, "--data", tmp_path / "copy")
    done(*resume)

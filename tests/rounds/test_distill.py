"""`dearkd distill`: rounds of images and training, and going on with them."""

import dataclasses
import errno
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path

import pytest
import timm
import torch
import yaml
from commands import invoke, refused
from conftest import photo_classes
from omegaconf import OmegaConf
from safetensors.torch import load_file, save_file

from dearkd.config_file import complete
from dearkd.errors import UserError
from dearkd.pages.page import Plots, Table
from dearkd.report.collect import collect
from dearkd.report.curves_chapter import curve_section
from dearkd.report.epoch_views import epoch_views
from dearkd.report.gap_chapter import gap_section
from dearkd.report.rounds_chapter import rounds_section
from dearkd.report.set_ranking import rankings
from dearkd.rounds import distill as door
from dearkd.rounds import plan as planning
from dearkd.rounds.folder import LOCK, Round, finished_rounds, newest_unfinished_rounds
from dearkd.rounds.settings import RoundsConfig, image_options, training, with_rooted_paths
from dearkd.run_folder.folder import RunFolder
from dearkd.run_folder.lock import held
from dearkd.run_folder.processes import process_state
from dearkd.synthesis import forecast as forecasting
from dearkd.synthesis.forecast import Forecast
from dearkd.synthesis.live import SynthesisProgress
from dearkd.training.loop import Trainer
from synth.writer import Writer

SETTINGS = [
    *("synth.precision=fp32", "synth.layout=contiguous"),
    *("synth.iterations=[2]", "train.trackers=[]", "train.precision=fp32"),
    *("train.memory_format=contiguous", "train.teacher.precision=fp32"),
    "train.teacher.memory_format=contiguous",
]
SETTINGS = [word for setting in SETTINGS for word in ("--set", setting)]
SMALL = ["--student", "toy_student", "--per-class", 8, "--epochs", 2, *SETTINGS]


class Killed(BaseException):
    """As sudden as kill -9: nothing of ours runs after it."""


def distilled(*args):
    result = invoke("distill", *args)
    assert result.exit_code == 0, result.output + result.stderr
    return result.output


def summary(folder):
    return json.loads((folder / "summary.json").read_text())


def hashes(folder):
    manifest = json.loads((folder / "manifest.json").read_text())
    return {image["file"]: image["sha256"] for image in manifest["images"]}


@pytest.fixture(scope="module")
def brief():
    """Trials of one step each."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(forecasting, "TRIAL_SECONDS", 0.0)
        yield


@pytest.fixture(scope="module")
def one_round(brief, tmp_path_factory):
    """A finished run of one round, and what it said."""
    folder = tmp_path_factory.mktemp("rounds") / "run"
    return folder, distilled("--rounds", 1, *SMALL, "--out", folder)


@pytest.fixture(scope="module")
def two_rounds(one_round, tmp_path_factory):
    """The same run, gone on with to a second round, never interrupted; and what it said."""
    folder = tmp_path_factory.mktemp("rounds") / "run"
    shutil.copytree(one_round[0], folder)
    return folder, distilled("--rounds", 2, *SMALL, "--out", folder)


def test_a_round_is_images_and_training_by_the_two_doors(one_round):
    folder, output = one_round
    assert "teacher: the embedded digits CNN" in output
    assert "judged on the real digits" in output
    assert "round 1 of 1, images; about" in output
    assert "next: dearkd report" in output
    assert "dearkd train --data" not in output  # which the synthesis says when it is alone
    config = RunFolder(folder).read_config()
    assert (config.recipe, config.method, config.stage1, config.stage2) == (
        *("best", "dearkd", 2, 0),
    )
    assert (config.data.img_size, config.student, config.out) == (16, "toy_student", str(folder))
    assert config.data.flip is False  # no mirrored digits
    assert invoke("eval", folder, "--json").exit_code == 0
    assert rounds_section(collect([folder / "round-1" / "student"])) is None
    assert rankings(collect([folder])) == []


def test_the_second_rounds_images_are_made_against_the_first_student(two_rounds):
    folder, output = two_rounds
    made = json.loads((folder / "round-2" / "set" / "manifest.json").read_text())
    assert made["student"]["name"] == str(folder / "round-1" / "student")
    assert made["config"]["seed"] == 1_000_000
    weights = made["config"]["objective"]
    assert (weights["adversary_weight"], weights["compete_weight"]) == (1.1, 0)
    assert "adversary" in made["groups"][0]["terms"]
    first = json.loads((folder / "round-1" / "set" / "manifest.json").read_text())
    assert first["student"] is None
    assert not set(hashes(folder / "round-1" / "set").values()) & set(
        hashes(folder / "round-2" / "set").values()
    )
    assert "round 1 of" not in output  # it was finished
    assert "round 2 of 2, training; about" in output


def test_the_second_student_goes_on_from_the_first_on_all_images(two_rounds):
    folder, _ = two_rounds
    second = Round(folder, 2).student
    config = second.read_config()
    assert config.init == str(folder / "round-1" / "student")
    assert config.data.train == f"{folder}/round-{{1..2}}/set"
    assert summary(second.path)["train_images"] == 160


def test_the_run_is_an_ordinary_run_of_the_last_student(two_rounds):
    folder, _ = two_rounds
    run, last = RunFolder(folder), Round(folder, 2).student
    assert run.model_file.read_bytes() == last.model_file.read_bytes()
    assert run.read_config() == dataclasses.replace(last.read_config(), out=str(folder))
    whole = summary(folder)
    assert whole["top1"] == summary(last.path)["top1"]
    assert (whole["epochs"], whole["stages"]) == (4, {"round 1": 2, "round 2": 2})
    assert [(entry["new_images"], entry["train_images"]) for entry in whole["rounds"]] == [
        *((80, 80), (80, 160)),
    ]
    assert all(0 <= entry["teacher_agreement"] <= 1 for entry in whole["rounds"])
    lines = run.read_metrics()
    assert [(line["epoch"], line["stage"]) for line in lines] == [
        *((0, "round 1"), (1, "round 1"), (2, "round 2"), (3, "round 2")),
    ]
    assert sorted(line["seconds"] for line in lines) == [line["seconds"] for line in lines]
    assert whole["best_top1"] == max(line["top1"] for line in lines)
    assert lines[whole["best_epoch"] - 1]["top1"] == whole["best_top1"]
    result = invoke("verify", folder)
    assert result.exit_code == 0, result.output
    assert "no check failed" in result.output


def test_the_report_shows_the_curve_over_rounds(two_rounds):
    folder, _ = two_rounds
    report = collect([folder])
    assert [item.path.parent.name for item in report.sets] == ["round-1", "round-2"]
    section = rounds_section(report)
    (table,) = [block for block in section.blocks if isinstance(block, Table)]
    assert [row[1:3] + row[4:6] for row in table.rows] == [
        *(["1", "80", "80", "2"], ["2", "80", "160", "2"]),
    ]
    assert "Agreement with the teacher" in str(section)
    assert epoch_views(report.runs[0]) == [80, 80, 160, 160]
    gap = gap_section(report, lambda item: None)
    (plots,) = [block for block in gap.blocks if isinstance(block, Plots)]
    assert [plot.title for plot in plots.plots] == [
        "round-1/set: its images, what they teach, and what is missing"
    ]
    assert list(plots.plots[0].figure.data[0].x) == [0.08, 0.16, 0.32, 0.48]
    assert "labels alone" not in curve_section(report).lead
    assert "Uprights of run mark its rounds." in curve_section(report).lead


def test_a_finished_run_is_left_as_it_is(two_rounds):
    folder, _ = two_rounds
    before = {file: file.stat().st_mtime_ns for file in folder.rglob("*")}
    again = distilled("--rounds", 2, *SMALL, "--out", folder)
    assert again == f"{folder} is finished; there is nothing left to do\n"
    assert distilled("--resume", "--out", folder) == again
    assert {file: file.stat().st_mtime_ns for file in folder.rglob("*")} == before
    line = refused("distill", "--out", folder, "--seed", 1, "--rounds", 1)
    assert "which differ from seed=1 (stored: 0), rounds=1 (stored: 2); leave them out" in line


def full(*args, **kwargs):
    raise OSError(errno.ENOSPC, "No space left on device")


def killed(*args, **kwargs):
    raise Killed


def terminated(*args, **kwargs):
    os.kill(os.getpid(), signal.SIGTERM)
    time.sleep(0.05)


def cut(patch, after, call):
    """Lets a method do its work, and then what ``call`` does."""
    owner, name = after
    work = getattr(owner, name)

    def both(*args, **kwargs):
        work(*args, **kwargs)
        call()

    patch.setattr(owner, name, both)


SET, STUDENT = (Writer, "write_part"), (Trainer, "_save")


def test_every_interruption_ends_in_the_same_student(one_round, two_rounds, tmp_path, monkeypatch):
    """Lost images; SIGTERM, a full disk and a kill in either part; a kill before the summary."""
    whole, _ = two_rounds
    folder = tmp_path / "run"
    shutil.copytree(one_round[0], folder)
    gone = folder / "round-1" / "set" / "3" / "000000_000.png"
    gone.unlink()
    config = complete(RoundsConfig, yaml.safe_load((whole / "distill.yaml").read_text()))
    plan = planning.Plan(config, 80, (1.0, 1.0), (1.0, 1.0), ())
    monkeypatch.setattr(door, "plan", lambda *args, **options: plan)
    typed = ["distill", "--rounds", 2, *SMALL, "--out", folder]
    on = f"go on with: dearkd distill --resume --out {folder}"

    def stopped(after, call):
        with monkeypatch.context() as patch:
            cut(patch, after, call)
            return invoke(*typed)

    result = stopped((door, "_make_images"), terminated)
    assert result.exit_code == 75 and on in result.output
    assert "round 1 has lost 1 image, which is made again" in result.output
    assert gone.is_file() and hashes(folder / "round-2" / "set")
    shutil.rmtree(folder / "round-2" / "set")
    for after in (SET, STUDENT):
        if after is STUDENT:
            with pytest.raises(Killed):  # in the first epoch, before a checkpoint
                stopped((RunFolder, "append_metrics"), killed)
        result = stopped(after, terminated)
        assert result.exit_code == 75 and result.output.rstrip().endswith(on)
        result = stopped(after, full)
        assert result.exit_code == 2
        line = result.stderr.strip().splitlines()[-1]
        assert line.startswith("error: cannot go on in") and line.endswith(on)
    with pytest.raises(Killed):  # of the whole, when all else is written
        stopped((RunFolder, "write_config"), killed)
    assert Round(folder, 2).has_student
    assert finished_rounds(folder) == 1
    left = folder / ".distill.yaml.tmp99"
    left.touch()
    distilled(*typed[1:])
    assert not left.exists()
    assert RunFolder(folder).model_file.read_bytes() == RunFolder(whole).model_file.read_bytes()
    for number in (1, 2):
        made = f"round-{number}/set"
        assert hashes(folder / made) == hashes(whole / made)
    keys = ("epoch", "stage", "loss", "top1")
    curves = [
        [[line[key] for key in keys] for line in RunFolder(one).read_metrics()]
        for one in (folder, whole)
    ]
    assert curves[0] == curves[1]


def test_damaged_results_of_a_round_are_made_again_or_told(one_round, tmp_path, monkeypatch):
    folder = tmp_path / "run"
    shutil.copytree(one_round[0], folder)
    config = complete(RoundsConfig, yaml.safe_load((folder / "distill.yaml").read_text()))
    plan = planning.Plan(config, 80, (1.0,), (1.0,), ())
    monkeypatch.setattr(door, "plan", lambda *args, **options: plan)
    before, manifest = summary(folder), folder / "round-1/set/manifest.json"
    listed, student = manifest.read_text(), folder / "round-1/student"
    (folder / "summary.json").unlink()
    manifest.write_text('{"quality": null}')
    line = refused("distill", "--resume", "--out", folder)
    assert f"{manifest} is not one that dearkd writes" in line and "or delete it" in line
    (student / "summary.json").rename(tmp_path / "summary.json")
    output = distilled("--resume", "--out", folder)
    assert "round 1 has lost its manifest, which is made again" in output
    assert json.loads(manifest.read_text())["images"] == json.loads(listed)["images"]
    assert summary(folder)["top1"] == before["top1"]
    (folder / "summary.json").unlink()
    sound, lines = (student / "summary.json").read_text(), student / "metrics.jsonl"
    for content in ("[]", "{}", sound.replace('"train_images"', '"images"')):
        (student / "summary.json").write_text(content)
        line = refused("distill", "--resume", "--out", folder)
        assert f"{student / 'summary.json'} is not one that dearkd writes" in line
    (student / "summary.json").write_text(sound)
    lines.write_text(lines.read_text() + '{"epoch": "x"}\n{"loss": 1}\n')
    distilled("--resume", "--out", folder)
    assert summary(folder)["epochs"] == before["epochs"] == len(RunFolder(folder).read_metrics())


def test_a_run_may_move_in_either_part_of_a_round(one_round, two_rounds, tmp_path, monkeypatch):
    whole, _ = two_rounds
    shutil.copytree(one_round[0], tmp_path / "a")
    config = complete(RoundsConfig, yaml.safe_load((whole / "distill.yaml").read_text()))
    plan = planning.Plan(config, 80, (1.0, 1.0), (1.0, 1.0), ())
    monkeypatch.setattr(door, "plan", lambda *args, **options: plan)
    stops = {"a": (SET, terminated), "b": ((RunFolder, "append_metrics"), killed)}
    for place, (after, call) in stops.items():
        with monkeypatch.context() as patch, suppress(Killed):
            cut(patch, after, call)
            invoke("distill", "--rounds", 2, "--out", tmp_path / place)
        assert not Round(tmp_path / place, 2).has_student
        (tmp_path / place).rename(tmp_path / chr(ord(place) + 1))
    last = tmp_path / "c"
    assert Round(last, 2).has_begun_student
    assert not (last / "round-2" / "student" / "checkpoint" / "last.pt").exists()
    (last / "round-2" / "set" / "3" / "000000_000.png").unlink()
    distilled("--resume", "--out", last)
    assert RunFolder(last).model_file.read_bytes() == RunFolder(whole).model_file.read_bytes()
    assert hashes(last / "round-2" / "set") == hashes(whole / "round-2" / "set")


def test_the_teacher_may_move_in_either_part_and_can_not_change(
    brief, toy_teacher, tmp_path, monkeypatch
):
    run = tmp_path / "run"
    resume = ["distill", "--resume", "--out", run]
    places = [tmp_path / name for name in "abcd"]
    shutil.copytree(toy_teacher, places[0])
    begin = ["distill", "--teacher", places[0], *SMALL, "--out", run]
    stops = [(begin, (SynthesisProgress, "group")), ([*resume, "--teacher", places[1]], STUDENT)]
    stops.append(([*resume, "--teacher", places[2]], None))
    for place, (typed, after) in zip(places, stops, strict=False):
        if typed is not begin:
            line = refused(*resume)
            assert f"if it has moved: dearkd distill --resume --out {run} --teacher NEW" in line
            line = refused(*resume, "--teacher", "digits")
            assert f"--teacher digits is not the network that {run} began with" in line
        with monkeypatch.context() as patch, suppress(Killed):
            if after is not None:
                cut(patch, after, terminated)
            result = invoke(*typed)
        assert result.exit_code == (0 if after is None else 75), result.output
        assert yaml.safe_load((run / "distill.yaml").read_text())["teacher"]["name"] == str(place)
        place.rename(places[places.index(place) + 1])
    assert RunFolder(run / "round-1" / "student").read_config().teacher.name == str(places[2])
    line = refused(*resume[:1], *resume[2:], "--teacher", places[3])  # a finished one stays
    assert f"which differ from teacher.name={places[3]}" in line


def test_a_dry_run_shows_the_whole_and_writes_nothing(brief, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    output = distilled("--rounds", 3, *SMALL, "--dry-run")
    assert "rounds: 3" in output
    assert "student: toy_student" in output
    assert output.count("to do") == 6
    assert "in all for what is left" in output
    assert "out: null" in output
    assert "out: free" in distilled(*SMALL, "--dry-run", "--out", "free")
    assert not list(tmp_path.iterdir())


def test_the_time_of_the_whole_is_that_of_its_parts(monkeypatch):
    seen = []

    def forecast(setup, device, work):
        weight = setup.synthesis.objective.adversary_weight
        seen.append((setup.student is not None, weight))
        return Forecast(9.0 if weight else 7.0, None, 1.0, {}, None)

    monkeypatch.setattr(planning, "forecast", forecast)
    monkeypatch.setattr(planning, "_training_costs", lambda *args: (10.0, 40.0))
    settings = {"student": "toy_student", "per_class": 8, "epochs": 5, "rounds": 3}
    plan = planning.plan(complete(RoundsConfig, settings), process_state())
    assert seen == [(False, 0.0), (True, 1.1)]
    assert plan.images == 80
    assert plan.set_seconds == (7.0, 9.0, 9.0)
    assert plan.student_seconds == (10.0, 20.0, 30.0)
    assert plan.config.res == 16
    off = complete(RoundsConfig, {**settings, "adversary_weight": 0})
    assert planning.plan(off, process_state()).set_seconds == (7.0, 7.0, 7.0)
    assert "student.name" not in image_options(off, Round(Path("run"), 2))[1]


DRAWN = ["--set", "synth.engine=generator", "--set"]
MISTAKES = [
    (["--rounds", "0"], "rounds must be at least 1 and at most 1000, got 0"),
    (["--set", "round=2"], "unknown config key 'round'; did you mean 'rounds'?"),
    (["--set", "train.data.train=digits"], "train.data.train is decided by the rounds (it is the"),
    (["--set", "synth.objective.adversary_weight=1"], "decided by the rounds (set adversary_weigh"),
    (["--set", "train={data.validation: 0.1}"], "train.data.validation is decided by the rounds"),
    (["--set", "synth={teacher.name: x}"], "synth.teacher is decided by the rounds (--teacher na"),
    (["--set", "synth.verifier=x"], "verifier must have fields, got x; write it as {KEY: VALUE}"),
    (["--set", "synth.iteratons=[3]"], "unknown config key 'iteratons'; did you mean 'iterations'"),
    (["--set", "synth.foo=null"], "unknown config key 'foo'"),
    (["--set", "train.optim.lrr=null"], "unknown config key 'optim.lrr'"),
    (["--set", "synth.seed=null"], "synth.seed is decided by the rounds (give --seed)"),
    (["--set", "synth.select=null"], "select: "),
    (["--set", "train.optim.lrr=1"], "unknown config key 'optim.lrr'; did you mean 'optim.lr'?"),
    (
        [*DRAWN, "synth.lr=0.1"],
        "--set synth.lr=0.1 has no effect with --set synth.engine=generator",
    ),
    (
        [*DRAWN, "synth.fast=true"],
        "--set synth.fast=true is for --set synth.engine=inversion; leave",
    ),
    (["--set", "synth.recipe=ours"], "'paper', 'balanced'"),
    (["--set", "train.method=dearkdd"], "'dearkdd'"),
    (["--student", "toy_studen"], "unknown student 'toy_studen'; did you mean 'toy_student'?"),
    (
        [*DRAWN[:2], "--res", "130"],
        "of 16-128 pixels a side, a multiple of 4, got --res 130; write --res 128",
    ),
    (["--eval-data", "nowhere"], "data 'nowhere' does not exist"),
    (["--teacher", ""], "--teacher names nothing, got ''; give a run folder or a timm name"),
    (["--teacher", "digits", "--teacher", "digits"], "are the same network; name it once"),
    (["--resume"], "no unfinished run in rounds under runs/; name one with --out FOLDER"),
    (
        ["--resume", "--out", "gone"],
        "nothing to resume in gone: it does not exist; name",
    ),
    (["--out", "a[b]"], "has *, ?, [ or {1..2} in it, which name several folders; choose another"),
    (["--out", "taken"], "taken is not empty and holds no run in rounds; choose another --out"),
    (["--out", "taken/file"], "--out taken/file is a file; choose a folder"),
]


@pytest.mark.parametrize(
    ("args", "words"), MISTAKES, ids=[" ".join(map(str, m[0])) for m in MISTAKES]
)
def test_a_mistake_gets_one_line(args, words, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "taken").mkdir()
    (tmp_path / "taken" / "file").touch()
    assert words in refused("distill", *args)
    assert [entry.name for entry in tmp_path.rglob("*")] == ["taken", "file"]


def test_teachers_that_do_not_fit_are_refused(tmp_path):
    torch.manual_seed(0)
    plain, few = tmp_path / "convnext.safetensors", tmp_path / "few.safetensors"
    save_file(timm.create_model("convnext_atto", num_classes=10).state_dict(), plain)
    save_file(timm.create_model("resnet10t", num_classes=7).state_dict(), few)
    named = ["--teacher", "convnext_atto", "--teacher-weights", plain, "--out", tmp_path / "run"]
    line = refused("distill", *named)
    assert "convnext_atto has no BatchNorm2d" in line
    assert "--set synth.allow_no_bn=true to go on with the priors alone" in line
    other = "other_teachers=[{name: resnet10t, weights: " + str(few) + "}]"
    line = refused("distill", "--teacher", "digits", "--set", other, "--out", tmp_path / "run")
    assert "teacher resnet10t has 7 classes, teacher digits 10; it must know the same ones" in line
    assert not (tmp_path / "run").exists()


def test_the_newest_unfinished_run_goes_on(tmp_path):
    for begun, name in enumerate(("old", "new", "done"), start=1):
        (tmp_path / name).mkdir()
        file = tmp_path / name / "distill.yaml"
        file.write_text("rounds: 1")
        os.utime(file, (begun, begun))
    (tmp_path / "done" / "summary.json").write_text('{"rounds": [{}]}')
    assert newest_unfinished_rounds(tmp_path) == tmp_path / "new"


def test_what_is_spoiled_or_at_work_is_passed_over(tmp_path):
    for begun, name in enumerate(("old", "at work", "spoiled"), start=1):
        (tmp_path / name).mkdir()
        file = tmp_path / name / "distill.yaml"
        file.write_text("rounds: 1")
        os.utime(file, (begun, begun))
    (tmp_path / "spoiled" / "summary.json").write_text('{"rounds": [{}]}')
    for content in (b"student: \xff", b"5"):
        (tmp_path / "spoiled" / "distill.yaml").write_bytes(content)
        os.utime(tmp_path / "spoiled" / "distill.yaml", (0, 0))
        with held(tmp_path / "at work", LOCK):
            assert newest_unfinished_rounds(tmp_path) == tmp_path / "old"


def finished_by_hand(folder, text):
    """A run of one round that is finished, as far as the door looks."""
    folder.mkdir()
    (folder / "distill.yaml").write_text(text)
    (folder / "summary.json").write_text('{"rounds": [{}]}')
    return folder


def test_the_same_command_again_may_leave_open_what_was_chosen(tmp_path):
    run = finished_by_hand(tmp_path / "run", "student: dearkd_mini_patch4_32\nrounds: 1\n")
    assert "is finished" in distilled("--student", "cnn", "--out", run)
    line = refused("distill", "--student", "toy_student", "--out", run)
    assert "differ from student=toy_student (stored: dearkd_mini_patch4_32)" in line


def test_a_configuration_without_rounds_has_one(tmp_path, monkeypatch):
    run = finished_by_hand(tmp_path / "run", "seed: 3\n")
    assert "is finished" in distilled("--seed", 3, "--out", run)
    (run / "distill.yaml").write_text("rounds: '1'\n")
    assert "is finished" in distilled("--out", run)
    with pytest.raises(UserError, match="no unfinished run in rounds"):
        newest_unfinished_rounds(tmp_path)


def test_other_verbs_leave_a_run_in_rounds_alone(tmp_path):
    (tmp_path / "distill.yaml").write_text("rounds: 1")
    for words in (["--data", "digits", "--student", "toy_student"], ["--resume"]):
        line = refused("train", *words, "--out", tmp_path)
        assert f"{tmp_path} holds a run in rounds; go on with it by dearkd distill --re" in line
    assert [file.name for file in tmp_path.iterdir()] == ["distill.yaml"]


@pytest.fixture
def planned(tmp_path, monkeypatch):
    """Plans a run in one round of a CNN of three classes; nothing is tried."""
    torch.manual_seed(0)
    monkeypatch.setattr(planning, "forecast", lambda *args: Forecast(1.0, None, 1.0, {}, None))
    monkeypatch.setattr(planning, "_training_costs", lambda *args: (1.0, 1.0))

    def plan(name="resnet10t", **given):
        file = tmp_path / "cnn.safetensors"
        save_file(timm.create_model(name, num_classes=3).state_dict(), file)
        teacher = {"name": name, "weights": str(file)}
        whole = {"teacher": teacher, "per_class": 4, "rounds": 1, **given}
        return planning.plan(complete(RoundsConfig, whole), process_state())

    return plan


@pytest.mark.parametrize(
    ("cnn", "engine", "size"),
    # 176 px halved for the generator are 88, no whole patches of 16; nor are EfficientNet-B2's 260.
    [
        ("resnet10t", "generator", 80),
        ("resnet10t", "inversion", 176),
        ("tf_efficientnet_b2", "inversion", 256),
    ],
)
def test_a_size_that_no_student_has_is_rounded_down(planned, cnn, engine, size):
    plan = planned(cnn, synth={"engine": engine})
    assert (plan.config.res, plan.config.student) == (size, "dearkd_tiny_patch16_224")
    assert (plan.config.epochs, plan.config.evaluation) == (100, None)
    assert f"student dearkd_tiny_patch16_224, {size} px, 100 epochs a round" in plan.notes


@pytest.mark.parametrize(
    ("given", "wanted"),
    [
        ({}, {"recipe": "balanced", "resolutions": [88, 176]}),
        ({"res": 32}, {"recipe": "balanced", "resolutions": [32]}),
        ({"synth": {"recipe": "paper"}}, {"recipe": "paper", "resolutions": [88, 176]}),
        ({"synth": {"engine": "generator"}, "res": 96}, {"recipe": None, "resolutions": [96]}),
    ],
)
def test_images_are_inverted_by_the_balanced_recipe_unless_another_is_named(planned, given, wanted):
    _, options = image_options(planned(**given).config, Round(Path("run"), 1))
    assert {key: options.get(key) for key in wanted} == wanted


def test_large_images_against_a_student_have_its_size_in_every_stage(planned, monkeypatch):
    seen = []

    @torch.no_grad()
    def forecast(setup, device, work):
        sizes = setup.synthesis.resolutions
        seen.append((setup.student is not None, sizes, setup.synthesis.iterations))
        for size in sizes if setup.student is not None else ():
            setup.student.network(torch.zeros(1, 3, size, size))
        return Forecast(1.0, None, 1.0, {}, None)

    monkeypatch.setattr(planning, "forecast", forecast)
    config = planned(rounds=2, synth={"iterations": [3, 5]}).config
    assert seen == [(False, (88, 176), (3, 5)), (True, (176, 176), (3, 5))]
    sizes = [image_options(config, Round(Path("run"), n))[1]["resolutions"] for n in (1, 2)]
    assert sizes == [[88, 176], [176, 176]]
    alone = dataclasses.replace(config, adversary_weight=0.0)
    assert image_options(alone, Round(Path("run"), 2))[1]["resolutions"] == [88, 176]


def test_a_null_is_a_value_of_the_parts():
    """The recipe ``best`` has a preset of pairs; null is none."""
    config = complete(RoundsConfig, {"train": {"distill": {"pair_preset": None}}})
    assert training(config, Round(Path("run"), 1)).distill.pair_preset is None


def test_each_round_keeps_its_labels_in_a_folder_of_its_own():
    """Images and seed are of a cache's identity, and every round has others."""
    config = complete(RoundsConfig, {"train": {"cache_labels": "/kept"}, "student": "toy_student"})
    places = [training(config, Round(Path("run"), number)).cache_labels for number in (1, 2)]
    assert places == ["/kept/round-1", "/kept/round-2"]
    config = complete(RoundsConfig, {"train": {"cache_labels": 3}})  # as YAML has a folder 3
    assert training(config, Round(Path("run"), 1)).cache_labels == "3/round-1"


def test_a_run_that_another_command_began_meanwhile_keeps_its_settings(tmp_path, monkeypatch):
    folder, stored = tmp_path / "run", "seed: 1\nrounds: 2\n"

    def plan(config, state, **options):
        folder.mkdir()
        (folder / "distill.yaml").write_text(stored)
        return planning.Plan(config, 80, (1.0,), (1.0,), ())

    monkeypatch.setattr(door, "plan", plan)
    line = refused("distill", "--seed", 0, "--out", folder)
    assert "which differ from seed=0 (stored: 1); leave them out" in line
    assert (folder / "distill.yaml").read_text() == stored


def test_paths_of_the_parts_are_kept_from_the_root(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for name in ("judge", "weights.pth", "names.txt"):
        (tmp_path / name).touch()
    verifier = {"name": "judge", "weights": "weights.pth"}
    given = {
        "synth": {"verifier": verifier, "select": "names.txt"},
        "train": {"cache_labels": "kept"},
    }
    root = str(tmp_path)
    found = with_rooted_paths(OmegaConf.create(given))
    assert found.synth.verifier == {"name": f"{root}/judge", "weights": f"{root}/weights.pth"}
    assert (found.synth.select, found.train.cache_labels) == (f"{root}/names.txt", f"{root}/kept")
    (tmp_path / "all").mkdir()
    for select in ("all", "0-99"):
        assert with_rooted_paths(OmegaConf.create({"synth": {"select": select}})).synth.select == (
            select
        )


def test_a_run_by_a_generator_goes_on_by_it(brief, tmp_path):
    """Begun when a generator was the only way, so that nothing names it."""
    drawn = ["synth.engine=generator", "synth.generator.width=4", "synth.generator.latent_dim=8"]
    drawn = [word for setting in drawn for word in ("--set", setting)]
    drawn += ["--per-class", 4, "--epochs", 1]
    folder = tmp_path / "run"
    distilled("--rounds", 1, *SMALL, *drawn, "--out", folder)
    file = folder / "distill.yaml"
    stored = yaml.safe_load(file.read_text())
    del stored["synth"]["engine"]
    file.write_text(yaml.safe_dump(stored))
    distilled("--resume", "--rounds", 2, "--out", folder)
    for number in (1, 2):
        made = json.loads((folder / f"round-{number}" / "set" / "manifest.json").read_text())
        assert made["config"]["engine"] == "generator"
        assert ("adversary" in made["groups"][0]["terms"]) == (number == 2)


def test_without_real_images_a_round_says_how_far_it_agrees(brief, toy_teacher, tmp_path):
    words = ["--teacher", toy_teacher, "--student", "toy_student", "--per-class", 4]
    words += ["--rounds", 1, "--epochs", 1, *SETTINGS, "--out", tmp_path / "run"]
    output = distilled(*words)
    assert "round 1: 40 images, agrees with the teacher on" in output
    assert "done in 1 round: no top-1" in output
    assert summary(tmp_path / "run")["best_epoch"] is None
    report = collect([tmp_path / "run"])
    assert rounds_section(report).blocks
    assert invoke("verify", tmp_path / "run").exit_code == 0


@pytest.mark.slow
def test_kill_9_in_both_parts_ends_in_the_same_student(tmp_path):
    """The installed command, killed once while it makes images and once while it trains."""
    words = ["--rounds", 1, "--per-class", 16, "--epochs", 2, *SETTINGS]
    words = [sys.executable, "-m", "dearkd", "distill", *map(str, words), "--out"]

    def run(name):
        return subprocess.Popen([*words, str(tmp_path / name)], stdout=subprocess.DEVNULL)

    assert run("whole").wait() == 0
    for sign in ("round-1/set/.parts/*.json", "round-1/student/checkpoint/last.pt"):
        process = run("killed")
        while not list((tmp_path / "killed").glob(sign)):
            assert process.poll() is None
            time.sleep(0.02)
        process.kill()
        process.wait()
        assert not (tmp_path / "killed" / "model.safetensors").exists()
    assert run("killed").wait() == 0
    whole, ours = (load_file(tmp_path / name / "model.safetensors") for name in ("whole", "killed"))
    assert whole.keys() == ours.keys()
    assert all(torch.equal(whole[name], ours[name]) for name in whole)
    stored = yaml.safe_load((tmp_path / "killed" / "distill.yaml").read_text())
    assert stored["student"] == "dearkd_mini_patch4_32"


def test_the_evaluation_images_may_move_and_can_not_change(
    brief, toy_teacher, tmp_path, monkeypatch
):
    run, (here, there, other) = tmp_path / "run", [tmp_path / name for name in "abc"]
    photo_classes(here)
    photo_classes(other, 30)
    words = ["--teacher", toy_teacher, "--eval-data", here, *SMALL, "--out", run]
    with monkeypatch.context() as patch:
        cut(patch, STUDENT, terminated)
        assert invoke("distill", *words).exit_code == 75
    here.rename(there)
    resume = ["distill", "--resume", "--out", run]
    line = refused(*resume)
    assert f"if it has moved: dearkd distill --resume --out {run} --teacher NEW" in line
    assert "--eval-data NEW" in line
    line = refused(*resume, "--eval-data", other)
    assert "--eval-data: not the evaluation images that the run began with" in line
    distilled(*resume[1:], "--eval-data", there)
    line = refused("distill", "--rounds", 2, "--out", run, "--eval-data", other)
    assert "--eval-data: not the evaluation images that the run began with" in line
    assert not (run / "round-2").exists()
    assert yaml.safe_load((run / "distill.yaml").read_text())["evaluation"] == str(there)
    assert RunFolder(run / "round-1" / "student").read_config().data.evaluation == str(there)

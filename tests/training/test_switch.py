"""``stage1: auto``: the rule, and a run that it ends as the same run of typed lengths."""

import io
import json
import shutil
from itertools import pairwise

import numpy as np
import pytest
from commands import invoke, refused
from conftest import FAST, FAST_TEACHER
from rich.console import Console

from dearkd import train
from dearkd.config import load_config
from dearkd.errors import UserError
from dearkd.report.collect import collect
from dearkd.report.curves_chapter import curve_section
from dearkd.run_folder.folder import RunFolder
from dearkd.training import train as launch
from dearkd.training.progress import RunProgress
from dearkd.training.switch import SwitchRule, relative_fall

EPOCHS = 8
AUTO = {"student": "toy_student", "stage1": "auto", "stage2": 1, "switch.epochs": EPOCHS}
SETTINGS = ["data.mixup=0.8", "optim.drop_path=0.1", "switch.least=0.3", "eval_every=8"]
SETTINGS += ["data.fraction=0.2", "data.batch_size=90"]
STEPS = 3  # 287 digits in batches of 90


class Killed(BaseException):
    """As sudden as kill -9."""


def run(out, teacher, settings=(), said=None, **options):
    given = {**AUTO, "teacher.name": str(teacher), "out": str(out), **options}
    config = load_config(None, [*FAST, *FAST_TEACHER, *SETTINGS, *settings], given)
    launch.train(config, console=Console(file=said or io.StringIO(), width=500))
    return out


def resumed(folder):
    run = RunFolder(folder)
    launch.train(run.read_config(), console=Console(file=io.StringIO()), folder=run, resume=True)


def lengths(folder):
    return json.loads((folder / "summary.json").read_text())["stages"]


def hidden(folder):
    return [line["hidden"] for line in RunFolder(folder).read_metrics() if "hidden" in line]


def weights(folder):
    return (folder / "model.safetensors").read_bytes()


@pytest.fixture(scope="module")
def bounded(tmp_path_factory, toy_teacher):
    """A run whose hidden loss falls to the end, so that stage 1 takes all that it may."""
    return run(tmp_path_factory.mktemp("auto") / "run", toy_teacher, ["switch.fall=0"])


@pytest.fixture(scope="module")
def fall(bounded):
    """A share that the hidden loss of that run first falls by less than after five epochs."""
    losses = hidden(bounded)
    falls = [(a - b) / a for a, b in pairwise(losses)]
    assert min(falls[1:3]) > falls[3], "choose a smoother run"
    return (min(falls[1:3]) + falls[3]) / 2


@pytest.fixture(scope="module")
def ended(tmp_path_factory, toy_teacher, fall):
    """A run that the rule ends, and what was said in it."""
    said = io.StringIO()
    place = tmp_path_factory.mktemp("auto") / "run"
    return run(place, toy_teacher, [f"switch.fall={fall}"], said), said.getvalue()


@pytest.mark.parametrize("window", [1, 3])
def test_relative_fall_is_that_of_two_means(window):
    losses = np.random.default_rng(0).uniform(1, 2, 9).tolist()
    before, after = losses[-2 * window : len(losses) - window], losses[-window:]
    assert relative_fall(losses, window) == pytest.approx(1 - np.mean(after) / np.mean(before))
    assert relative_fall(losses[: 2 * window - 1], window) is None
    assert relative_fall([0.0] * 2 * window, window) == 0
    assert relative_fall([1.0] * window + [2.0] * window, window) == -1
    with pytest.raises(ValueError, match="window must be at least 1, got 0"):
        relative_fall(losses, 0)


def test_a_rule_once_met_does_not_depend_on_what_comes_later_and_waits_for_its_least():
    flat = SwitchRule(least=5, window=1, fall=0.02)
    assert [flat.is_met([1.0] * count) for count in range(3, 7)] == [False, False, True, True]
    falling = [2.0**-epoch for epoch in range(9)]
    assert not flat.is_met(falling)
    assert flat.is_met([*falling, falling[-1]])
    assert not SwitchRule(least=0, window=4, fall=0.5).is_met(falling[:7])  # two windows are eight


def test_stage_1_takes_its_most_while_the_hidden_loss_falls(bounded):
    assert lengths(bounded) == {"stage1": EPOCHS - 1, "stage2": 1}


def test_the_rule_ends_stage_1_and_stage_2_takes_the_rest(ended, fall):
    folder, said = ended
    assert lengths(folder) == {"stage1": 5, "stage2": EPOCHS - 5}
    stages = [line["stage"] for line in RunFolder(folder).read_metrics()]
    assert stages == ["stage1"] * 5 + ["stage2"] * 3
    assert f"stage1 ended after 5 of {EPOCHS} epochs: hidden fell by" in said
    assert "stage 1 has 3 to 7 of 8 epochs" in said
    assert RunFolder(folder).read_config().stage1 == "auto"


def test_a_run_that_the_rule_ended_is_the_run_of_these_lengths(ended, tmp_path, toy_teacher):
    given = {"stage1": 5, "stage2": EPOCHS - 5, "switch.epochs": None}
    typed = run(tmp_path / "run", toy_teacher, ["switch.least=0.3"], **given)
    assert weights(typed) == weights(ended[0])
    assert lengths(typed) == lengths(ended[0])


@pytest.mark.parametrize("step", [2 * STEPS + 1, 5 * STEPS, 7 * STEPS])
def test_a_killed_run_decides_as_an_unkilled_one(
    step, ended, fall, tmp_path, toy_teacher, monkeypatch
):
    count = 0

    def stepped(*_):
        nonlocal count
        count += 1
        if count == step:
            raise Killed

    folder = tmp_path / "run"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(RunProgress, "step", stepped)
        with pytest.raises(Killed):
            run(folder, toy_teacher, [f"switch.fall={fall}", "checkpoint_minutes=1e-9"])
    if step > 5 * STEPS:
        monkeypatch.setattr("dearkd.training.build.open_teacher", None)  # nobody asks any more
    resumed(folder)
    assert weights(folder) == weights(ended[0])
    assert lengths(folder) == lengths(ended[0])


def test_a_run_killed_between_the_stages_goes_on_with_the_second(
    ended, fall, tmp_path, toy_teacher, monkeypatch
):
    folder, begun = tmp_path / "run", []

    def begin(self, position, total_epochs, steps):
        begun.append(position.stage)
        if position.stage == "stage2":
            raise Killed

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(RunProgress, "begin", begin)
        with pytest.raises(Killed):
            run(folder, toy_teacher, [f"switch.fall={fall}"])
    assert begun == ["stage1"] * 5 + ["stage2"]
    monkeypatch.setattr("dearkd.training.build.open_teacher", None)
    resumed(folder)
    assert weights(folder) == weights(ended[0])


def test_the_report_says_who_decided(ended, bounded, tmp_path):
    for name, folder in (("ended", ended[0]), ("bounded", bounded)):
        shutil.copytree(folder, tmp_path / name)
    report = collect([tmp_path / "ended", tmp_path / "bounded"])
    sentence = curve_section(report).lead
    assert f"Of ended the hidden loss decided that, after epoch 5 of {EPOCHS}." in sentence
    assert f"Of bounded the hidden loss decided that, after epoch 7 of {EPOCHS}." in sentence
    (tmp_path / "ended" / "summary.json").unlink()
    assert collect([tmp_path / "ended"]).runs[0].status == f"unfinished: epoch 8 of {EPOCHS}"


def test_auto_is_typed_in_the_shell_and_from_python(tmp_path, toy_teacher):
    quick = [part for setting in [*FAST, *FAST_TEACHER] for part in ("--set", setting)]
    line = ["train", "--student", "toy_student", "--teacher", toy_teacher, "--fraction", "0.2"]
    line += ["--stage1", "auto", "--epochs", "4", "--stage2", "1", "--set", "switch.fall=1"]
    bare = ["--stage2", "0", "--cache-labels", tmp_path / "labels", "--dry-run"]
    dry = invoke(*line, *quick, *bare)
    assert dry.exit_code == 0, dry.output
    assert "at most about" in dry.output
    assert "none of at most 960 views known" in dry.output
    result = invoke(*line, *quick, "--out", tmp_path / "shell")
    assert result.exit_code == 0, result.output
    assert lengths(tmp_path / "shell") == {"stage1": 2, "stage2": 2}
    fields = {"student": "toy_student", "data__fraction": 0.2, "trackers": []}
    fields |= {"stage1": "auto", "epochs": 4, "stage2": 1, "switch__fall": 1.0}
    python = train(teacher=str(toy_teacher), out=tmp_path / "python", **fields)
    assert python.summary["stages"] == {"stage1": 2, "stage2": 2}


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("--method deit-hard", "stage1=auto has no effect with deit-hard, which has no hidden"),
        ("--method ce", "stage1=auto has no effect with ce"),
        ("--set distill.hidden_weight=0", "stage1=auto has no effect with distill.hidden_weight=0"),
        ("--epochs 10", "of 10 epochs stage2=10 leaves 0, and stage 1 must be able to have more"),
        ("--set switch.fall=-1", "switch.fall must be at least 0 and at most 1, got -1"),
    ],
)
def test_auto_where_it_has_nothing_to_decide_is_refused(line, message, tmp_path):
    words = line.split() if "--epochs" in line else ["--epochs", "20", *line.split()]
    out = tmp_path / "run"
    assert message in refused("train", "--stage1", "auto", *words, "--out", out)
    assert not out.exists()


def test_a_term_that_an_imported_objective_lacks_is_named():
    rule = SwitchRule(least=1, window=1, fall=0.1)
    assert rule.watched({"hidden": 0.5, "loss": 2.0}) == 0.5
    with pytest.raises(UserError, match=r"'hidden' of the objective, which has class, loss;"):
        rule.watched({"loss": 2.0, "class": 1.0})

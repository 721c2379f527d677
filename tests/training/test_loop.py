"""The loop: learns, leaves the teacher alone, and a killed run ends where an unkilled one does."""

import hashlib
import json
import os
import shutil
import signal
import weakref

import pytest
import torch
from conftest import FAST, quiet_train
from PIL import Image
from safetensors.torch import load_file

from dearkd.config import load_config
from dearkd.run_folder.folder import RunFolder
from dearkd.run_folder.stop import Interrupted
from dearkd.training import loop
from dearkd.training import train as launch
from dearkd.training.batches import training_batches
from dearkd.training.build import build
from dearkd.training.progress import RunProgress

SHORT = {"student": "toy_student", "stage1": 2, "stage2": 2}
FEW = ["data.fraction=0.16", "data.batch_size=72"]
STEPS = 3  # 230 digits in batches of 72
SETTINGS = ["data.mixup=0.8", "data.cutmix=1.0", "optim.drop_path=0.1", "optim.ema_decay=0.9"]
SETTINGS += FEW


class Killed(BaseException):
    """As sudden as kill -9: nothing between the step and the end of the process runs."""


def kill_at(monkeypatch, step_of_run):
    """Ends the process, as it were, right after that optimizer step."""
    count = 0

    def step(self, step, images, terms):
        nonlocal count
        count += 1
        if count == step_of_run:
            raise Killed

    monkeypatch.setattr(RunProgress, "step", step)


def checksum(folder):
    return hashlib.sha256((folder / "model.safetensors").read_bytes()).hexdigest()


@pytest.fixture(scope="module")
def uninterrupted(tmp_path_factory, toy_teacher):
    folder = tmp_path_factory.mktemp("whole") / "run"
    quiet_train({**SHORT, "teacher.name": str(toy_teacher), "out": str(folder)}, SETTINGS)
    return folder


@pytest.mark.parametrize(
    "step",
    [2, STEPS + 2, 2 * STEPS, 2 * STEPS + 1, 3 * STEPS],
    ids=["first", "epoch2", "switch", "after-switch", "epoch-end"],
)
def test_a_killed_run_ends_with_the_same_bits(
    step, monkeypatch, tmp_path, toy_teacher, uninterrupted
):
    folder = tmp_path / "run"
    options = {**SHORT, "teacher.name": str(toy_teacher), "out": str(folder)}
    kill_at(monkeypatch, step)
    with pytest.raises(Killed):  # checkpoint_minutes this small: one after every step
        quiet_train(options, [*SETTINGS, "checkpoint_minutes=1e-9"])
    monkeypatch.undo()
    run = RunFolder(folder)
    launch.train(run.read_config(), console=_console(), folder=run, resume=True)
    assert checksum(folder) == checksum(uninterrupted)
    ours, theirs = run.read_metrics(), RunFolder(uninterrupted).read_metrics()
    timings = {"seconds", "images_per_second", "data_wait"}
    strip = [{k: v for k, v in line.items() if k not in timings} for line in ours]
    assert strip == [{k: v for k, v in line.items() if k not in timings} for line in theirs]


def test_a_run_killed_before_it_saved_anything_starts_anew(tmp_path, uninterrupted):
    run = RunFolder(tmp_path / "run")  # what kill -9 leaves: the configuration alone
    run.path.mkdir()
    shutil.copy(RunFolder(uninterrupted).config_file, run.config_file)
    launch.train(run.read_config(), console=_console(), folder=run, resume=True)
    assert checksum(run.path) == checksum(uninterrupted)


@pytest.mark.parametrize(
    "optimizer",
    [["optim.name=sgd", "optim.lr=0.05"], ["optim.name=muon", "optim.lr=0.01"]],
    ids=["sgd", "muon"],
)
def test_a_killed_run_of_any_optimizer_ends_with_the_same_bits(optimizer, monkeypatch, tmp_path):
    options = {"method": "ce", "student": "toy_cnn", "stage1": 2, "stage2": 0}
    settings = [*optimizer, *FEW, "checkpoint_minutes=1e-9"]
    quiet_train({**options, "out": str(tmp_path / "whole")}, settings)
    kill_at(monkeypatch, STEPS + 2)
    with pytest.raises(Killed):
        quiet_train({**options, "out": str(tmp_path / "run")}, settings)
    monkeypatch.undo()
    run = RunFolder(tmp_path / "run")
    launch.train(run.read_config(), console=_console(), folder=run, resume=True)
    assert checksum(tmp_path / "run") == checksum(tmp_path / "whole")


def test_same_seed_same_bits_and_another_seed_others(tmp_path, toy_teacher, uninterrupted):
    for name, seed in (("same", 0), ("other", 1)):
        out = tmp_path / name
        options = {**SHORT, "teacher.name": str(toy_teacher), "out": str(out), "seed": seed}
        quiet_train(options, SETTINGS)
    assert checksum(tmp_path / "same") == checksum(uninterrupted)
    assert checksum(tmp_path / "other") != checksum(uninterrupted)


def test_run_folder_holds_what_it_promises(uninterrupted):
    summary = json.loads((uninterrupted / "summary.json").read_text())
    lines = RunFolder(uninterrupted).read_metrics()
    assert [line["stage"] for line in lines] == ["stage1", "stage1", "stage2", "stage2"]
    assert {"hidden", "class", "distillation", "teacher_agreement"} <= lines[0].keys()
    assert "hidden" not in lines[-1]
    assert summary["top1"] == lines[-1]["top1"]
    assert summary["best_top1"] == max(line["top1"] for line in lines)
    assert summary["heads"].keys() == {"class", "distillation", "logits", "softmax"}
    assert {"torch", "timm"} <= summary["versions"].keys()
    import timm

    model = timm.create_model(
        "toy_student", num_classes=10, checkpoint_path=str(uninterrupted / "model.safetensors")
    )
    assert torch.equal(
        model.head.weight, load_file(uninterrupted / "model.safetensors")["head.weight"]
    )


def test_one_cosine_runs_over_both_stages(uninterrupted):
    rates = [line["lr"] for line in RunFolder(uninterrupted).read_metrics()]
    assert rates == sorted(rates, reverse=True)
    assert rates[-1] == pytest.approx(1e-5)


def watch_the_teacher(monkeypatch):
    """Notes at each epoch whether the teacher lives, and checks that it does not change."""
    seen = {"alive": [], "teacher": lambda: None}
    real_build = launch.build

    def watching(config, **known):
        parts = real_build(config, **known)
        if parts.teacher is not None:
            seen["teacher"] = weakref.ref(parts.teacher)
            seen["before"] = {k: v.clone() for k, v in parts.teacher.state_dict().items()}
        return parts

    def begin(self, position, total_epochs, steps):
        teacher = seen["teacher"]()
        seen["alive"].append((position.stage, teacher is not None))
        if teacher is not None:
            after = teacher.state_dict()
            assert all(torch.equal(after[k], v) for k, v in seen["before"].items())
            assert not teacher.training

    monkeypatch.setattr(launch, "build", watching)
    monkeypatch.setattr(RunProgress, "begin", begin)
    return seen["alive"]


STAGES = [("stage1", True), ("stage1", True), ("stage2", False), ("stage2", False)]


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_teacher_is_untouched_and_freed_at_the_stage_switch(
    precision, tmp_path, toy_teacher, monkeypatch
):
    alive = watch_the_teacher(monkeypatch)
    options = {**SHORT, "teacher.name": str(toy_teacher), "out": str(tmp_path / "run")}
    few = ["data.fraction=0.02", "data.batch_size=28", "data.validation=20"]
    quiet_train(options, [f"precision={precision}", *few])
    assert alive == STAGES


def test_a_run_resumed_in_stage_2_keeps_no_teacher(tmp_path, toy_teacher, monkeypatch):
    folder = tmp_path / "run"
    with pytest.MonkeyPatch.context() as patch:
        kill_at(patch, 2 * STEPS + 2)
        with pytest.raises(Killed):
            quiet_train({**SHORT, "teacher.name": str(toy_teacher), "out": str(folder)}, SETTINGS)
    alive = watch_the_teacher(monkeypatch)
    run = RunFolder(folder)
    monkeypatch.setattr("dearkd.training.build.open_teacher", None)  # nobody asks for it any more
    launch.train(run.read_config(), console=_console(), folder=run, resume=True)
    assert alive == STAGES[2:]


@pytest.mark.parametrize("method", ["dearkd", "deit-hard", "deit-soft", "ce"])
def test_every_method_overfits_a_few_images(method, tmp_path, toy_teacher):
    options = {"student": "toy_student", "method": method, "stage1": 2, "stage2": 2}
    if method != "ce":
        options["teacher.name"] = str(toy_teacher)
    few = ["data.fraction=0.04", "data.batch_size=56", "data.augment=none", "optim.name=muon"]
    few += ["optim.lr=2e-2", "optim.drop_path=0", "data.smoothing=0"]
    few += ["data.keep_steps=true", "eval_every=5"]  # 25 steps an epoch
    quiet_train({**options, "out": str(tmp_path / "run")}, few)
    lines = RunFolder(tmp_path / "run").read_metrics()
    assert lines[-1]["class"] < 0.1 * lines[0]["class"]


@pytest.mark.parametrize(
    ("options", "settings", "whole"),
    [
        ({"stage1": 1, "stage2": 0}, [], [True]),
        ({"stage1": 1, "stage2": 1}, [], [False, False]),
        ({"stage1": "auto", "stage2": 0, "switch.epochs": 3}, ["switch.fall=1"], [False, False]),
        ({"stage1": 1, "stage2": 0}, ["data.micro_batch=20"], [False]),
        ({"stage1": 1, "stage2": 0}, ["data.micro_batch=auto"], [False]),
    ],
)
def test_a_step_is_whole_in_one_pass_of_one_stage(
    tmp_path, toy_teacher, monkeypatch, options, settings, whole
):
    """What may be replayed as CUDA graphs; a CPU compiles it in any case."""
    told = []

    def compile_step(objective, optimizer, device, *, whole):
        told.append(whole)

    monkeypatch.setattr(loop, "compile_step", compile_step)
    options |= {"teacher.name": str(toy_teacher), "out": str(tmp_path / "run")}
    settings = [*settings, "compile=true", "data.fraction=0.1", "data.batch_size=60"]
    quiet_train({**SHORT, **options}, settings)
    assert told == whole


def test_accumulated_steps_equal_whole_ones(tmp_path, toy_teacher):
    lengths = {"stage1": 1, "stage2": 1}
    for name, extra in (("whole", []), ("parts", ["data.micro_batch=36"])):
        options = {**SHORT, **lengths, "teacher.name": str(toy_teacher)}
        quiet_train({**options, "out": str(tmp_path / name)}, [*FEW, *extra])
    whole, parts = (RunFolder(tmp_path / name).read_metrics() for name in ("whole", "parts"))
    for ours, theirs in zip(parts, whole, strict=True):
        assert ours["loss"] == pytest.approx(theirs["loss"], rel=1e-3)


def test_interrupt_saves_and_resumes(tmp_path, toy_teacher, monkeypatch, uninterrupted):
    folder = tmp_path / "run"
    options = {**SHORT, "teacher.name": str(toy_teacher), "out": str(folder)}

    def step(self, step, images, terms):
        if step == 2 and self.epoch == 2:
            os.kill(os.getpid(), signal.SIGINT)

    monkeypatch.setattr(RunProgress, "step", step)
    with pytest.raises(Interrupted):
        quiet_train(options, SETTINGS)
    monkeypatch.undo()
    run = RunFolder(folder)
    launch.train(run.read_config(), console=_console(), folder=run, resume=True)
    assert checksum(folder) == checksum(uninterrupted)


def test_interrupt_is_heard_with_one_step_an_epoch(tmp_path, monkeypatch):
    folder = tmp_path / "run"
    options = {"student": "toy_student", "method": "ce", "stage1": 4, "stage2": 0}

    def step(self, step, images, terms):
        if self.epoch == 1:
            os.kill(os.getpid(), signal.SIGTERM)

    monkeypatch.setattr(RunProgress, "step", step)
    with pytest.raises(Interrupted):
        quiet_train({**options, "out": str(folder)}, ["data.fraction=0.1", "data.batch_size=140"])
    assert [line["epoch"] for line in RunFolder(folder).read_metrics()] == [0, 1]


def test_a_kill_between_log_line_and_checkpoint_leaves_no_double_line(
    tmp_path, toy_teacher, monkeypatch, uninterrupted
):
    folder = tmp_path / "run"
    options = {**SHORT, "teacher.name": str(toy_teacher), "out": str(folder)}

    def end(self, line):
        raise Killed

    monkeypatch.setattr(RunProgress, "end", end)
    with pytest.raises(Killed):
        quiet_train(options, SETTINGS)
    monkeypatch.undo()
    run = RunFolder(folder)
    assert [line["epoch"] for line in run.read_metrics()] == [0]
    (folder / ".model.safetensors.tmp123").write_text("left by a kill")
    launch.train(run.read_config(), console=_console(), folder=run, resume=True)
    assert [line["epoch"] for line in run.read_metrics()] == [0, 1, 2, 3]
    assert checksum(folder) == checksum(uninterrupted)
    assert not list(folder.rglob(".*.tmp*"))


def test_a_checkpoint_of_another_run_is_refused(tmp_path, toy_teacher, uninterrupted):
    folder = tmp_path / "run"
    options = {**SHORT, "teacher.name": str(toy_teacher), "out": str(folder)}
    with pytest.MonkeyPatch.context() as patch:
        kill_at(patch, 3)
        with pytest.raises(Killed):
            quiet_train(options, [*SETTINGS, "checkpoint_minutes=1e-9"])
    run = RunFolder(folder)
    saved = torch.load(run.last_file, weights_only=True)
    del saved["objective"]["aligners.0.norm.weight"]
    torch.save(saved, run.last_file)
    with pytest.raises(ValueError, match=r"last\.pt is of another run: aligners\.0\.norm\.weight"):
        launch.train(run.read_config(), console=_console(), folder=run, resume=True)


def test_a_loss_that_is_not_finite_stops_the_run_and_keeps_the_checkpoint(tmp_path, monkeypatch):
    folder = tmp_path / "run"
    options = {"student": "toy_student", "method": "ce", "stage1": 3, "stage2": 0}

    def spoil(self, position, total_epochs, steps):
        if position.epoch == 1:
            with torch.no_grad():
                trainers[0].student.head.weight.fill_(float("nan"))

    trainers = []
    real = launch.Trainer

    def remembered(**kwargs):
        trainers.append(real(**kwargs))
        return trainers[0]

    monkeypatch.setattr(launch, "Trainer", remembered)
    monkeypatch.setattr(RunProgress, "begin", spoil)
    with pytest.raises(ValueError, match=r"nan in epoch 1.*optim\.lr below 0\.001"):
        quiet_train({**options, "out": str(folder)})
    saved = torch.load(RunFolder(folder).last_file, weights_only=True)
    assert saved["position"]["epoch"] == 1
    assert torch.isfinite(saved["objective"]["student.head.weight"]).all()


def test_fine_tuning_starts_from_the_run_at_another_size(uninterrupted):
    options = {"method": "ce", "init": str(uninterrupted), "data.img_size": 24}
    student = build(load_config(None, FAST, options)).student
    before = load_file(uninterrupted / "model.safetensors")
    assert student.pos_embed.shape[1] == 2 + 36
    assert torch.equal(student.pos_embed[:, :2], before["pos_embed"][:, :2])
    same = [name for name in before if name != "pos_embed"]
    assert all(torch.equal(student.state_dict()[name], before[name]) for name in same)
    assert student.eval()(torch.zeros(2, 3, 24, 24)).shape == (2, 10)


def test_fine_tuning_on_other_classes_replaces_the_heads(uninterrupted, tmp_path):
    for name in ("cat", "dog", "owl"):
        (tmp_path / name).mkdir()
        Image.new("RGB", (16, 16)).save(tmp_path / name / "0.png")
    options = {"method": "ce", "init": str(uninterrupted), "data.train": str(tmp_path)}
    student = build(load_config(None, FAST, {**options, "data.img_size": 16})).student
    before = load_file(uninterrupted / "model.safetensors")
    assert student.head.weight.shape == student.head_dist.weight.shape == (3, 24)
    assert torch.equal(student.blocks[2].mlp.fc1.weight, before["blocks.2.mlp.fc1.weight"])


def test_keep_steps_makes_as_many_steps_of_fewer_images():
    config = load_config(
        None,
        [*FAST, "data.keep_steps=true"],
        {"method": "ce", "student": "toy_student", "data.fraction": 0.1},
    )
    from accelerate import Accelerator

    parts = build(config)
    batches, _ = training_batches(parts, Accelerator())
    assert len(parts.train) < 150
    assert batches.steps == 5  # 1,438 digits in batches of 240


def _console():
    import io

    from rich.console import Console

    return Console(file=io.StringIO())

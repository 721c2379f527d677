"""NaN wherever it may come from, and a damaged checkpoint: a good one is never lost."""

import io
import shutil
from itertools import chain

import pytest
import torch
from conftest import quiet_train
from rich.console import Console
from safetensors.torch import load_file

from dearkd.errors import UserError
from dearkd.run_folder.files import load_checkpoint, read_metadata, save_tensors
from dearkd.run_folder.folder import RunFolder
from dearkd.training import train as launch
from dearkd.training.loop import Trainer
from dearkd.training.passes import Passes
from dearkd.training.progress import RunProgress

FEW = ["data.fraction=0.16", "data.batch_size=72"]
STEPS = 3  # 230 digits in batches of 72
OPTIONS = {"student": "toy_student", "method": "ce", "stage1": 2, "stage2": 0}
EVERY_STEP = [*FEW, "checkpoint_minutes=1e-9"]


class KilledError(BaseException):
    """Nothing between the step and the end of the process runs."""


def spoiled_after(step_of_run, spoil, monkeypatch):
    """Has ``spoil`` done to the trainer right after that optimizer step."""
    real = Trainer._step

    def step(self, objective, optimizer):
        images = real(self, objective, optimizer)
        if self._global_step() + 1 == step_of_run:
            spoil(self, objective, optimizer)
        return images

    monkeypatch.setattr(Trainer, "_step", step)


def killed_at(step_of_run, folder, monkeypatch, options=OPTIONS):
    count = 0

    def step(self, step, images, terms):
        nonlocal count
        count += 1
        if count == step_of_run:
            raise KilledError

    with monkeypatch.context() as patch:
        patch.setattr(RunProgress, "step", step)
        with pytest.raises(KilledError):
            quiet_train({**options, "out": str(folder)}, EVERY_STEP)


def gone_on(folder):
    """What it says, and the run's weights."""
    run, said = RunFolder(folder), io.StringIO()
    console = Console(file=said, width=10_000)
    launch.train(run.read_config(), console=console, folder=run, resume=True)
    return said.getvalue(), run.model_file.read_bytes()


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    folder = tmp_path_factory.mktemp("whole") / "run"
    quiet_train({**OPTIONS, "out": str(folder)}, FEW)
    return RunFolder(folder).model_file.read_bytes()


def cut_short(file):
    file.write_bytes(file.read_bytes()[:-1000])


def flipped(file):
    content = bytearray(file.read_bytes())
    content[len(content) // 2] ^= 1
    file.write_bytes(content)


def emptied(file):
    file.write_bytes(b"")


@pytest.mark.parametrize(
    ("step", "damage"),
    [(3, cut_short), (STEPS + 1, flipped), (STEPS + 2, emptied)],
    ids=["cut-short", "flipped-over-the-epoch", "emptied"],
)
def test_a_run_goes_on_from_the_checkpoint_before_a_damaged_one(
    step, damage, tmp_path, monkeypatch, whole
):
    folder = tmp_path / "run"
    killed_at(step, folder, monkeypatch)
    damage(RunFolder(folder).last_file)
    said, weights = gone_on(folder)
    assert "going on from" in said and "previous.pt, the one before it" in said
    assert weights == whole
    epochs = [line["epoch"] for line in RunFolder(folder).read_metrics()]
    assert epochs == [0, 1]


def test_the_checkpoint_of_another_model_is_told_and_passed_over(tmp_path, monkeypatch, whole):
    folder, other = tmp_path / "run", tmp_path / "other"
    killed_at(3, folder, monkeypatch)
    killed_at(2, other, monkeypatch, {**OPTIONS, "student": "toy_cnn"})
    run = RunFolder(folder)
    run.last_file.write_bytes(RunFolder(other).last_file.read_bytes())
    said, weights = gone_on(folder)
    assert "its student is toy_cnn, and this one's is toy_student" in said
    assert weights == whole


def test_weights_of_another_shape_are_told_in_one_line(tmp_path, monkeypatch):
    """As an older version's checkpoint, which does not say of which run it is."""
    folder = tmp_path / "run"
    killed_at(2, folder, monkeypatch)
    run = RunFolder(folder)
    state = load_checkpoint(run.last_file)
    del state["run"]
    state["objective"]["student.head.weight"] = torch.zeros(3, 24)
    torch.save(state, run.last_file)
    with pytest.raises(UserError, match=r"last\.pt is of another run: head\.weight does not fit"):
        gone_on(folder)


def set_weight(trainer, objective, optimizer):
    with torch.no_grad():
        trainer.student.head.weight[0, 0] = float("nan")


def set_statistic(trainer, objective, optimizer):
    buffers = dict(trainer.student.named_buffers())
    next(value for name, value in buffers.items() if "running_var" in name)[0] = float("inf")


def set_moment(trainer, objective, optimizer):
    next(iter(optimizer.state.values()))["exp_avg_sq"].view(-1)[0] = float("inf")


@pytest.mark.parametrize(
    ("spoil", "words", "student"),
    [
        (set_weight, "a weight is", "toy_student"),
        (set_statistic, "a statistic of BatchNorm is", "toy_cnn"),
        (set_moment, "a moment of the optimizer is", "toy_student"),
    ],
    ids=["weight", "statistic", "moment"],
)
@pytest.mark.parametrize("step", [STEPS + 2, 2 * STEPS], ids=["inside", "last"])
def test_what_the_last_step_broke_never_replaces_a_good_checkpoint(
    step, spoil, words, student, tmp_path, monkeypatch
):
    spoiled_after(step, spoil, monkeypatch)
    options = {**OPTIONS, "student": student, "out": str(tmp_path / "run")}
    with pytest.raises(UserError, match=f"{words} no longer a finite number in epoch 1"):
        quiet_train(options, EVERY_STEP)
    run = RunFolder(tmp_path / "run")
    position = load_checkpoint(run.last_file)["position"]
    assert position["epoch"] * STEPS + position["step"] == step - 1
    assert not run.model_file.exists()
    assert [line["epoch"] for line in run.read_metrics()] == [0]


@pytest.mark.parametrize("step", [STEPS + 2, 2 * STEPS], ids=["inside", "last"])
def test_a_batch_that_is_not_finite_is_refused_before_the_save(step, tmp_path, monkeypatch):
    real = Passes.step

    def spoiled(self, objective, position):
        batch = next(self.feed)
        if position.epoch * STEPS + position.step + 1 == step:
            batch[0][0, 0, 0, 0] = float("nan")
        self.feed = chain([batch], self.feed)
        return real(self, objective, position)

    monkeypatch.setattr(Passes, "step", spoiled)
    with pytest.raises(
        UserError, match=r"class is nan in epoch 1, step \d; the last checkpoint is"
    ):
        quiet_train({**OPTIONS, "out": str(tmp_path / "run")}, EVERY_STEP)
    position = load_checkpoint(RunFolder(tmp_path / "run").last_file)["position"]
    assert position["epoch"] * STEPS + position["step"] == step - 1


def test_a_teacher_with_nan_is_refused_before_training(tmp_path, toy_teacher):
    teacher = shutil.copytree(toy_teacher, tmp_path / "teacher")
    file = RunFolder(teacher).model_file
    state, metadata = load_file(file), read_metadata(file)
    name = next(name for name in state if name.endswith("weight"))
    state[name].view(-1)[0] = float("nan")
    save_tensors(file, state, metadata)
    options = {"student": "toy_student", "teacher.name": str(teacher)}
    with pytest.raises(UserError, match=rf"NaN or infinite\) in {name}"):
        quiet_train({**options, "out": str(tmp_path / "run")})
    assert not (tmp_path / "run").exists()

"""``data.micro_batch=auto``: out of memory is no end, and the run is that of the size it found."""

import pytest
import torch
from conftest import FAST, quiet_train
from torch import nn

from dearkd.config import load_config
from dearkd.errors import UserError
from dearkd.models.vit import DearKDVisionTransformer
from dearkd.run_folder.files import load_checkpoint
from dearkd.run_folder.folder import RunFolder
from dearkd.training.batches import epoch_order
from dearkd.training.build import build
from dearkd.training.methods import METHODS, Method
from dearkd.training.passes import Passes
from dearkd.training.progress import RunProgress

CE = {"method": "ce", "student": "toy_student", "stage1": 2, "stage2": 0}
SETTINGS = ["data.batch_size=60", "data.fraction=0.1", "data.mixup=0.8", "optim.ema_decay=0.9"]
ERRORS = (
    torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB"),
    RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to allocate 9 bytes."),
    RuntimeError("could not create a primitive"),
)


def full_above(most, monkeypatch, error=ERRORS[0], first=0):
    """A device that holds passes of so many images, from a step of the run on."""
    real = Passes._made

    def passes(self, objective, position):
        def backward(loss, **kwargs):
            views = self.config.data.batch_size // self.accumulate
            if position.epoch * self.steps + position.step >= first and views > most:
                raise error
            type(self.accelerator).backward(self.accelerator, loss, **kwargs)

        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(self.accelerator, "backward", backward)
            return real(self, objective, position)

    monkeypatch.setattr(Passes, "_made", passes)


def weights(folder):
    return RunFolder(folder).model_file.read_bytes()


@pytest.mark.parametrize(
    ("student", "error"),
    [("toy_student", ERRORS[0]), ("toy_cnn", ERRORS[1]), ("toy_student", ERRORS[2])],
    ids=["cuda", "cpu", "onednn"],
)
def test_it_is_the_run_of_which_that_size_was_typed(student, error, tmp_path, monkeypatch):
    """Half of 60 does not fit either, and 15 is odd."""
    for micro in (12, "auto"):
        if micro == "auto":
            full_above(20, monkeypatch, error)
        options = {**CE, "student": student, "out": str(tmp_path / str(micro))}
        quiet_train(options, [*SETTINGS, f"data.micro_batch={micro}"])
    assert weights(tmp_path / "auto") == weights(tmp_path / "12")
    ours, theirs = (RunFolder(tmp_path / name).read_metrics() for name in ("auto", "12"))
    assert [line["class"] for line in ours] == [line["class"] for line in theirs]


class Counting(nn.Module):
    """Weighs its loss by the passes so far."""

    def __init__(self, student, teacher):
        super().__init__()
        self.student, self.teacher = student, teacher
        self.register_buffer("passes", torch.zeros(()))
        student.set_distilled_training(True)

    def forward(self, images, targets):
        self.passes += 1
        logits, _ = self.student(images)
        loss = self.passes * nn.functional.cross_entropy(logits, self.teacher(images).logits)
        return {"loss": loss}


def test_what_a_method_of_ones_own_counts_is_counted_once(tmp_path, toy_teacher, monkeypatch):
    monkeypatch.setitem(METHODS, "counting", Method(Counting))
    options = {**CE, "method": "counting", "stage1": 1, "teacher.name": str(toy_teacher)}
    for micro in (30, "auto"):
        if micro == "auto":
            full_above(40, monkeypatch)
        quiet_train(
            {**options, "out": str(tmp_path / str(micro))}, [*SETTINGS, f"data.micro_batch={micro}"]
        )
    assert weights(tmp_path / "auto") == weights(tmp_path / "30")


def test_where_memory_suffices_it_is_the_run_of_whole_batches(tmp_path):
    for name, extra in (("whole", []), ("auto", ["data.micro_batch=auto"])):
        quiet_train({**CE, "out": str(tmp_path / name)}, [*SETTINGS, *extra])
    assert weights(tmp_path / "auto") == weights(tmp_path / "whole")


def test_both_stages_and_a_resume_go_on_with_the_size_that_was_found(
    tmp_path, toy_teacher, monkeypatch
):
    options = {"student": "toy_student", "teacher.name": str(toy_teacher), "stage1": 1, "stage2": 1}
    quiet_train({**options, "out": str(tmp_path / "typed")}, [*SETTINGS, "data.micro_batch=30"])
    tries, steps = [], []
    full_above(40, monkeypatch)
    real = Passes._recut
    monkeypatch.setattr(
        Passes, "_recut", lambda self, *given: (real(self, *given), tries.append(self.accumulate))
    )

    def step(self, step, images, terms):
        steps.append(step)
        if len(steps) == 2:
            raise KeyboardInterrupt

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(RunProgress, "step", step)
        extra = [*SETTINGS, "data.micro_batch=auto", "checkpoint_minutes=1e-9"]
        quiet_train({**options, "out": str(tmp_path / "auto")}, extra)
    run = RunFolder(tmp_path / "auto")
    assert load_checkpoint(run.last_file)["position"]["micro_batch"] == 30
    quiet_train({}, resume=True, folder=run, config=run.read_config())
    assert weights(tmp_path / "auto") == weights(tmp_path / "typed")
    assert tries == [2]  # passes a step; found once


def test_a_step_that_is_made_anew_leaves_nothing_of_its_first_try(tmp_path, monkeypatch):
    """Memory runs out in the fourth step, the second of its epoch."""
    full_above(30, monkeypatch, first=3)
    quiet_train({**CE, "out": str(tmp_path / "run")}, [*SETTINGS, "data.micro_batch=auto"])
    assert [line["epoch"] for line in RunFolder(tmp_path / "run").read_metrics()] == [0, 1]


def test_two_views_that_do_not_fit_end_the_run_in_one_line(tmp_path, monkeypatch):
    full_above(0, monkeypatch)
    with pytest.raises(
        UserError, match=r"out of memory with 2 views a pass, .* data\.batch_size=60; choose"
    ):
        quiet_train({**CE, "out": str(tmp_path / "run")}, [*SETTINGS, "data.micro_batch=auto"])


def test_another_error_is_not_taken_for_it(tmp_path, monkeypatch):
    def failing(self, *args, **kwargs):
        raise RuntimeError("a bug")

    monkeypatch.setattr(DearKDVisionTransformer, "forward", failing)
    with pytest.raises(RuntimeError, match="a bug"):
        quiet_train({**CE, "out": str(tmp_path / "run")}, [*SETTINGS, "data.micro_batch=auto"])


def test_an_odd_size_is_refused_by_its_name():
    odd = [*FAST, "data.micro_batch=3", "data.batch_size=6"]
    with pytest.raises(UserError, match=r"data\.micro_batch must be even .* got 3; use an"):
        epoch_order(build(load_config(None, odd, CE)), 0, 1)


def test_several_processes_are_refused():
    parts = build(load_config(None, [*FAST, "data.micro_batch=auto"], CE))
    assert epoch_order(parts, 0, 1)[1] == 1
    with pytest.raises(UserError, match=r"micro_batch=auto is for one process, and there are 2"):
        epoch_order(parts, 0, 2)

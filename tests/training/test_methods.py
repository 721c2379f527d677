"""Methods by name: their settings, one of the user's own, arguments of the student."""

import json
import re
import textwrap
from typing import Any, Literal

import pytest
import torch
from conftest import FAST, opened, quiet_train
from torch import nn

from dearkd.config import load_config
from dearkd.errors import UserError
from dearkd.export.export import export_run
from dearkd.objectives import CrossEntropy
from dearkd.run_folder.folder import RunFolder
from dearkd.training.build import build
from dearkd.training.methods import METHODS, Method, check_method
from dearkd.training.settings import DistillConfig

QUICK = {"student": "toy_student", "stage1": 1, "stage2": 0, "data.fraction": 0.3}
OWN = """
    import torch
    from torch import nn
    from dearkd.training.methods import METHODS, Method

    class Sharper(nn.Module):
        def __init__(self, student, teacher, hidden_weight=1.0, sharpness=1.0):
            super().__init__()
            self.student, self.teacher = student, teacher
            self.weight, self.sharpness = hidden_weight, sharpness
            student.set_distilled_training(True)

        def forward(self, images, targets):
            logits, _ = self.student(images)
            wanted = (self.sharpness * self.teacher(images).logits).softmax(-1)
            loss = self.weight * nn.functional.cross_entropy(logits, wanted)
            return {"loss": loss, "soft": loss.detach()}

    METHODS["sharper"] = Method(Sharper)
"""


def test_settings_belong_to_the_method_whose_objective_has_them():
    fields = set(DistillConfig.__dataclass_fields__)
    owned = {name for method in METHODS.values() for name in method.settings}
    assert owned == fields
    assert {"pairs", "hidden_weight"} <= set(METHODS["dearkd"].settings)
    assert not METHODS["ce"].has_teacher


def test_a_method_of_ones_own_comes_by_import(tmp_path, toy_teacher, monkeypatch, quiet_console):
    monkeypatch.setitem(
        METHODS, "sharper", METHODS["ce"]
    )  # put back, that is taken out, at the end
    monkeypatch.delitem(METHODS, "sharper")
    file = tmp_path / "sharper.py"
    file.write_text(textwrap.dedent(OWN))
    run = tmp_path / "run"
    options = {**QUICK, "method": "sharper", "teacher.name": str(toy_teacher), "out": str(run)}
    options["imports"] = [str(file)]
    quiet_train(options, ["method_args.sharpness=2", "distill.hidden_weight=0.5"])
    (line,) = RunFolder(run).read_metrics()
    assert line["soft"] == line["loss"]
    assert json.loads((run / "summary.json").read_text())["method"] == "sharper"
    for settings, words in (
        (["method_args.softness=2"], "has no argument 'softness'.*it has: sharpness"),
        (
            ["distill.alpha=0.5"],
            "is for method dearkd, .* and has no effect with sharper",
        ),
        (["method_args.hidden_weight=2"], "set distill.hidden_weight"),
    ):
        with pytest.raises(UserError, match=words):
            quiet_train({**options, "out": str(tmp_path / "no")}, settings)
    export_run(run, console=quiet_console, to="hf-folder", out=tmp_path / "card")
    assert "sharper" in (tmp_path / "card" / "README.md").read_text()


def test_a_default_that_the_configuration_would_override_is_refused(monkeypatch):
    class Warm(nn.Module):
        def __init__(self, student, teacher, temperature=4.0, pairs=(1,)):
            super().__init__()

    monkeypatch.setitem(METHODS, "warm", Method(Warm))
    with pytest.raises(UserError, match=r"pairs=\(1,\) .* distill\.pairs is \[\]"):
        check_method("warm", DistillConfig(), {})


class Typed(nn.Module):
    """A method with an argument of every plain type, one that must be given, and others."""

    def __init__(
        self,
        student: nn.Module,
        layers: int,
        share: float = 0.5,
        sure: bool = False,
        name: str = "",
        mode: Literal["mean", "sum"] = "mean",
        anything: Any = None,
        untyped=None,
    ) -> None:
        super().__init__()


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({}, "method typed needs an argument 'layers'; give it by --set method_args.layers=VALUE"),
        ({"layers": "three"}, "method_args.layers must be a whole number, got 'three'"),
        ({"layers": 2.5}, "method_args.layers must be a whole number, got 2.5"),
        ({"layers": True}, "method_args.layers must be a whole number, got True"),
        ({"layers": None}, "method_args.layers must be a whole number, got None"),
        ({"layers": 1, "share": "half"}, "method_args.share must be a number, got 'half'"),
        ({"layers": 1, "share": True}, "method_args.share must be a number, got True"),
        ({"layers": 1, "sure": 1}, "method_args.sure must be true or false, got 1"),
        ({"layers": 1, "name": 7}, "method_args.name must be a text, got 7"),
        ({"layers": 1, "mode": "max"}, "method_args.mode must be mean or sum, got 'max'"),
    ],
)
def test_arguments_of_another_type_are_refused(arguments, words, monkeypatch):
    monkeypatch.setitem(METHODS, "typed", Method(Typed))
    with pytest.raises(UserError, match=re.escape(words)):
        check_method("typed", DistillConfig(), arguments)


def test_arguments_that_fit_are_taken(monkeypatch):
    monkeypatch.setitem(METHODS, "typed", Method(Typed))
    given = {"layers": 3, "share": 1, "sure": True, "name": "x", "mode": "sum", "untyped": [1]}
    check_method("typed", DistillConfig(), {**given, "anything": {}})


def test_annotations_that_only_a_type_checker_can_read_are_not_checked(monkeypatch):
    class Lazy(nn.Module):
        def __init__(self, student, layers: "Unknown" = 1):
            super().__init__()

    monkeypatch.setitem(METHODS, "lazy", Method(Lazy))
    check_method("lazy", DistillConfig(), {"layers": "three"})


def test_an_unknown_method_is_told_the_nearest():
    with pytest.raises(UserError, match="unknown method 'dearkt'; did you mean 'dearkd'"):
        check_method("dearkt", DistillConfig(), {})


def test_arguments_of_the_student_are_kept_with_the_weights(tmp_path, quiet_console):
    run = tmp_path / "run"
    settings = ["student_args.mhca_depth=1", "student_args.mhca_fusion=gated"]
    quiet_train({**QUICK, "method": "ce", "out": str(run)}, settings)
    trained = opened(run)
    kinds = [type(block.attn).__name__ for block in trained.network.blocks]
    assert kinds == ["GatedMultiHeadConvAttention", "Attention", "Attention"]
    assert trained.metadata["args"] == {"mhca_depth": 1, "mhca_fusion": "gated"}
    again = tmp_path / "again"
    config = load_config(None, FAST, {"method": "ce", "init": str(run), "data.img_size": 16})
    built = build(config)
    assert built.config.student_args == {"mhca_depth": 1, "mhca_fusion": "gated"}
    gate = built.student.blocks[0].attn.position_gate
    assert torch.equal(gate, trained.network.blocks[0].attn.position_gate)
    quiet_train({**QUICK, "method": "ce", "init": str(run), "out": str(again)}, settings)
    folder = export_run(run, console=quiet_console, to="timm", out=tmp_path / "timm")
    images = torch.randn(2, 3, 16, 16)
    with torch.no_grad():
        assert torch.equal(opened(folder).network(images), trained.network(images))


def test_arguments_that_the_data_decides_are_refused(tmp_path):
    for name in ("num_classes", "in_chans", "checkpoint_path"):
        with pytest.raises(UserError, match=rf"student_args\.{name} is decided by the data"):
            quiet_train({**QUICK, "method": "ce"}, [f"student_args.{name}=3"])
    with pytest.raises(UserError, match=r"cannot be built with .*colour"):
        quiet_train({**QUICK, "method": "ce"}, ["student_args.colour=3"])
    with pytest.raises(UserError, match=r"cannot be built with .*'norm_layer': 'colour'"):
        quiet_train({**QUICK, "method": "ce"}, ["student_args.norm_layer=colour"])


class BrokenGradient(nn.Module):
    """A loss that is always finite; from one step on its gradient is not."""

    last = 0

    def __init__(self, student: nn.Module) -> None:
        super().__init__()
        self.plain, self.student, self.steps = CrossEntropy(student), student, 0

    def forward(self, images, targets):
        terms = self.plain(images, targets)
        self.steps += 1
        if self.steps == self.last:
            zero = (self.student.cls_token * 0).sum()
            terms["loss"] = terms["loss"] + zero.sqrt()  # 0, with an infinite slope
        return terms


@pytest.mark.parametrize("epoch", [1, 2])
def test_weights_that_the_last_step_broke_are_never_saved(epoch, tmp_path, monkeypatch):
    """The loss of a step is that of the weights before it: it does not show what it made."""
    monkeypatch.setitem(METHODS, "broken", Method(BrokenGradient))
    options = {**QUICK, "method": "broken", "stage1": 2, "out": str(tmp_path / "run")}
    steps = 1437 * 3 // 10 // 200
    monkeypatch.setattr(BrokenGradient, "last", epoch * steps)
    with pytest.raises(UserError, match="a weight is no longer a finite number"):
        quiet_train(options, ["data.batch_size=200"])
    run = RunFolder(tmp_path / "run")
    assert not run.model_file.exists()
    assert not run.summary_file.exists()
    assert len(run.read_metrics()) == epoch - 1
    if epoch == 2:
        state = torch.load(run.last_file, weights_only=True)["objective"]
        assert all(value.isfinite().all() for value in state.values())

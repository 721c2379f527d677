"""The doors from Python, as a notebook uses them: quiet, typed like the options, usable twice."""

from pathlib import Path

import pytest
import torch

import dearkd
from dearkd.errors import UserError
from dearkd.models.cnn import SmallResNet
from dearkd.models.teacher import Teacher

QUICK = {"student": "toy_student", "stage1": 1, "stage2": 1, "data__fraction": 0.2, "trackers": []}

ARITHMETIC = {"precision": "fp32", "memory_format": "contiguous"}
ARITHMETIC |= {f"teacher__{name}": value for name, value in ARITHMETIC.items()}
"""Which is measured otherwise."""


def test_readmes_example(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    run = dearkd.train(data="digits", teacher="digits", data__img_size=16, **QUICK)
    assert run.folder.parts[0] == "runs"
    assert 0 <= run.summary["top1"] <= 100
    assert [line["stage"] for line in run.metrics] == ["stage1", "stage2"]
    assert run.config.teacher.name == "digits"
    assert run.teacher.num_classes == 10
    with torch.no_grad():
        assert run.model(torch.zeros(2, 3, 16, 16)).shape == (2, 10)
    scores = dearkd.evaluate(run)
    assert scores["logits"]["top1"] == pytest.approx(run.summary["top1"])
    images = dearkd.synthesize(
        teacher="digits", per_class=2, iters=3, res=[16], select="0-1", compile="never"
    )
    assert len(images.manifest["images"]) == 4
    settings = {"data__img_size": 16, **QUICK, **ARITHMETIC}
    again = dearkd.train(data=images.folder, teacher="digits", **settings)
    assert again.summary["train_images"] == 2  # of each class one: a fifth, at least one
    assert capsys.readouterr().out == ""


def test_a_teacher_made_in_python_leads_to_a_run(tmp_path):
    torch.manual_seed(0)
    network = SmallResNet(layers=(1, 1, 1, 1), channels=(8, 8, 8, 8), num_classes=10)
    half = (0.5, 0.5, 0.5)
    teacher = Teacher(
        network, mean=half, std=half, student_mean=half, student_std=half, img_size=16
    )
    settings = {"method": "deit-hard", "out": tmp_path / "run", **QUICK, **ARITHMETIC}
    run = dearkd.train(data="digits", teacher=teacher, **settings)
    assert run.folder == tmp_path / "run"
    assert run.summary["teacher"] is None
    assert "teacher_agreement" in run.metrics[0]


def test_a_field_that_is_none_goes_over_the_file(tmp_path):
    file = tmp_path / "run.yaml"
    file.write_text("optim: {ema_decay: 0.9}\ndata: {evaluation: digits}\n")
    none = {"optim__ema_decay": None, "eval_data": None}
    run = dearkd.train(file, **QUICK | {"method": "ce", "out": tmp_path / "run"} | none)
    assert run.config.optim.ema_decay is None
    assert run.config.data.evaluation == "digits"  # an option that is not given
    with pytest.raises(UserError, match="seed: Incompatible value 'None'"):
        dearkd.train(seed=None)
    with pytest.raises(UserError, match="seed: Incompatible value 'None'"):
        dearkd.synthesize(seed=None)


def test_the_file_of_an_own_model_is_named_as_it_is_or_imported_first():
    for door, file in ((dearkd.train, "nowhere.py"), (dearkd.synthesize, Path("nowhere.py"))):
        with pytest.raises(UserError, match=r"--import nowhere\.py does not exist"):
            door(imports=file)
    with pytest.raises(UserError, match="pass --import FILE or, in Python, import it first"):
        dearkd.evaluate("my_own_cnn", data="digits")


def test_mistakes_are_told_as_at_the_command(tmp_path):
    with pytest.raises(
        UserError, match=r"unknown config key 'optim\.lrr'; did you mean 'optim\.lr'"
    ):
        dearkd.train(optim__lrr=1)
    with pytest.raises(UserError, match="resume takes out"):
        dearkd.train(resume=True, seed=3)
    with pytest.raises(UserError, match="unknown model 'resnt18'"):
        dearkd.evaluate("resnt18", data="digits")
    with pytest.raises(UserError, match=r"images .*nowhere|nowhere.* does not exist"):
        dearkd.evaluate("resnet18", data=tmp_path / "nowhere")
    with pytest.raises(UserError, match=r"weights .*nowhere\.pth"):
        dearkd.evaluate("resnet18", weights=str(tmp_path / "nowhere.pth"), data="digits")
    images = dearkd.api.SyntheticImages(tmp_path)
    for name, content in (("synthesize.yaml", ""), ("manifest.json", "{")):
        (tmp_path / name).write_text(content)
        with pytest.raises(UserError, match="has no sound manifest"):
            _ = images.manifest
    with pytest.raises(AttributeError, match="no attribute 'trane'"):
        _ = dearkd.trane

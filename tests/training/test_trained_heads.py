"""From the loss to the reader: heads that learned nothing, and logits that have no scale."""

import dataclasses
import io
import json
import textwrap

import pytest
import torch
from conftest import FAST, opened, predictions_of, quiet_train
from rich.console import Console
from safetensors.torch import load_file

from dearkd.analysis.calibration import calibration_error, reliability
from dearkd.analysis.probe import evaluation_views
from dearkd.config import load_config
from dearkd.data.datasets import open_data
from dearkd.errors import UserError
from dearkd.export.export import export_run
from dearkd.judging.candidate import candidate_of
from dearkd.judging.eval import evaluate_target
from dearkd.judging.predict import predict
from dearkd.models.readings import head_scores, readings
from dearkd.report.read import read_run
from dearkd.run_folder.files import load_checkpoint, read_metadata, save_checkpoint, save_model
from dearkd.run_folder.folder import RunFolder
from dearkd.run_folder.stop import Interrupted
from dearkd.trained.open import open_trained
from dearkd.trained.open_teacher import open_teacher
from dearkd.trained.resolve import resolve
from dearkd.training import measured
from dearkd.training.build import build
from dearkd.training.methods import METHODS
from dearkd.training.progress import RunProgress

QUICK = {"student": "toy_student", "stage1": 1, "stage2": 0, "data.fraction": 0.12}
BATCH = "data.batch_size=80"  # two steps an epoch
IMAGES = torch.randn(4, 3, 16, 16, generator=torch.Generator().manual_seed(0))
CLASS_ONLY = """
    from torch import nn
    from dearkd.training.methods import METHODS, Method

    class ClassOnly(nn.Module):
        def __init__(self, student):
            super().__init__()
            self.student = student
            student.set_distilled_training(True)

        def forward(self, images, targets):
            logits, _ = self.student(images)
            loss = nn.functional.cross_entropy(logits, targets)
            return {"loss": loss, "class": loss.detach()}

    METHODS["class-only"] = Method(ClassOnly)
"""


def train(run, toy_teacher, settings=(), **options):
    settings = [*settings, BATCH, "data.validation=100"]
    quiet_train({**QUICK, "teacher.name": str(toy_teacher), "out": str(run), **options}, settings)
    return run


def summary(run):
    return json.loads((run / "summary.json").read_text())


def logits_of(run, raw=False, **options):
    found = resolve(str(run), **options)
    if raw:  # `--which raw` would refuse a run that averaged nothing
        found = dataclasses.replace(found, checkpoint=RunFolder(run).last_file)
    with torch.no_grad():
        return open_trained(found).network(IMAGES)


@pytest.fixture(scope="module")
def class_only(tmp_path_factory):
    """A run of an imported method that trains one head and says nothing of it."""
    folder = tmp_path_factory.mktemp("own")
    file = folder / "own.py"
    file.write_text(textwrap.dedent(CLASS_ONLY))
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(METHODS, "class-only", METHODS["ce"])  # put back, that is taken out
        patch.delitem(METHODS, "class-only")
        options = {**QUICK, "method": "class-only", "imports": [str(file)]}
        config = load_config(None, [*FAST, BATCH], {**options, "out": str(folder / "run")})
        quiet_train({}, config=config)
    return folder / "run"


def test_an_untrained_head_is_never_averaged_in(class_only, tmp_path):
    assert summary(class_only)["trained_heads"] == ["class"]
    assert list(summary(class_only)["heads"]) == ["logits"]
    assert read_metadata(class_only / "model.safetensors")["heads"] == ["class"]
    raw = load_checkpoint(class_only / "checkpoint" / "last.pt")["objective"]
    network = opened(class_only).network
    assert readings(network) == ("logits",)
    with torch.no_grad():
        tokens = network.forward_features(IMAGES)[:, 0]
    own = tokens @ raw["student.head.weight"].T + raw["student.head.bias"]
    torch.testing.assert_close(logits_of(class_only), own, atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(logits_of(class_only, raw=True), own, atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(logits_of(class_only, which="best"), own, atol=1e-5, rtol=1e-5)


def test_fine_tuning_goes_on_from_the_head_as_it_was_trained(class_only):
    """It answers for both heads with its weights doubled, which is not what it learned."""
    raw = load_checkpoint(class_only / "checkpoint" / "last.pt")["objective"]
    student = build(load_config(None, FAST, {"method": "ce", "init": str(class_only)})).student
    assert torch.equal(student.head.weight, raw["student.head.weight"])
    assert torch.equal(student.head.bias, raw["student.head.bias"])


def test_every_reader_says_which_head_answers(class_only, tmp_path):
    said = io.StringIO()
    console = Console(file=said, width=200)
    result = evaluate_target(str(class_only), console=console)
    assert result["logits"]["top1"] == pytest.approx(summary(class_only)["top1"])
    assert set(result) == {"logits", "images"}
    folder = export_run(class_only, console=console, to="hf-folder", out=tmp_path / "hf")
    (image := open_data("digits")[0].image(0)).save(tmp_path / "digit.png")
    predict(str(folder), [str(tmp_path / "digit.png")], console=console, errors=console)
    note = "answers by its class head alone, as the distillation head was never trained"
    assert said.getvalue().count(note) == 3
    assert note in (folder / "README.md").read_text()
    assert note in " ".join(read_run(class_only, "run").notes)
    assert opened(folder).heads == ("class",)
    torch.testing.assert_close(logits_of(folder), logits_of(class_only))
    assert image.size == (8, 8)
    with pytest.raises(UserError, match=r"by its class head alone.*leave --heads out"):
        export_run(class_only, console=console, out=tmp_path / "x.onnx", heads=True)
    assert list(predictions_of(resolve(str(class_only), "run")).heads) == ["logits"]


def test_a_folder_of_an_older_version_shows_it_by_the_bias(class_only, tmp_path):
    """Such a folder has the weights as they were trained, and no word on its heads."""
    raw = load_checkpoint(class_only / "checkpoint" / "last.pt")["objective"]
    student = opened(class_only).network
    student.load_state_dict({key.removeprefix("student."): v for key, v in raw.items()})
    metadata = read_metadata(class_only / "model.safetensors")
    del metadata["heads"]
    save_model(tmp_path / "model.safetensors", student, metadata)
    old = opened(tmp_path)
    assert old.heads == ("class",)
    assert "class head alone" in old.heads_note
    torch.testing.assert_close(logits_of(tmp_path), logits_of(class_only))


def test_both_heads_of_the_usual_methods_are_read(tmp_path, toy_teacher):
    run = train(tmp_path / "run", toy_teacher, ["distill.alpha=1"], method="deit-soft")
    assert summary(run)["trained_heads"] == ["class", "distillation"]
    assert summary(run)["head_scales"] is None
    assert len(readings(opened(run).network)) == 4
    assert opened(run).heads_note is None
    (line,) = RunFolder(run).read_metrics()
    assert "class_distillation" in line and "class" not in line


STANDARD = ["distill.logits=standardized", "distill.class_weight=0"]


def test_logits_without_a_scale_get_the_teachers(tmp_path, toy_teacher):
    run = train(tmp_path / "run", toy_teacher, STANDARD, method="deit", stage1=3)
    scales = summary(run)["head_scales"]
    assert set(scales) == {"class", "distillation"}
    trained = opened(run)
    assert trained.head_scales == scales
    raw = load_checkpoint(run / "checkpoint" / "last.pt")["objective"]
    scaled = load_file(run / "model.safetensors")
    for name, key in (("class", "head"), ("distillation", "head_dist")):
        expected = scales[name] * raw[f"student.{key}.weight"]
        torch.testing.assert_close(scaled[f"{key}.weight"], expected)
    torch.testing.assert_close(logits_of(run, raw=True), logits_of(run))
    candidate = candidate_of(resolve(str(run), "run"))
    source, trained = candidate.source, candidate.trained
    images = evaluation_views(source, range(len(source)), trained.metadata)
    look = {"student_mean": trained.view["mean"], "student_std": trained.view["std"]}
    teacher = open_teacher(resolve(str(toy_teacher), "teacher"), **look, img_size=16)
    with torch.no_grad():
        heads, wanted = head_scores(trained.network, images), teacher(images).logits.softmax(1)

    def nll(factor):
        return -(wanted * (factor * heads["class"]).log_softmax(1)).sum(1).mean().item()

    assert nll(1) < min(nll(0.9), nll(1.1))

    def error(factor):
        confidence, read = (factor * heads["logits"]).double().softmax(1).max(1)
        return calibration_error(reliability(confidence, read == torch.tensor(source.labels)))

    errors = [error(1), error(1 / scales["class"])]
    assert errors[0] < errors[1] or scales["class"] == pytest.approx(1, abs=0.3)


def test_a_scale_is_never_fitted_on_images_that_may_be_the_test_file(
    tmp_path, toy_teacher, monkeypatch
):
    asked = []

    def views(source, rows, metadata):
        asked.append(source)
        return evaluation_views(source, rows, metadata)

    monkeypatch.setattr(measured, "evaluation_views", views)
    options = {**QUICK, "teacher.name": str(toy_teacher), "method": "deit"}
    settings = [*STANDARD, BATCH]
    quiet_train({**options, "out": str(tmp_path / "test")}, settings)
    quiet_train({**options, "out": str(tmp_path / "cut")}, [*settings, "data.validation=100"])
    train_images, validation = len(open_data("digits", None)[0]), 100
    assert len(asked[0]) not in (len(open_data("digits", None)[1]), validation)
    assert len(asked[0]) < train_images  # the fraction that is trained on
    assert len(asked[1]) == validation


def test_the_distillation_head_beside_labels_gets_its_scale_too(tmp_path, toy_teacher):
    run = train(tmp_path / "run", toy_teacher, STANDARD[:1], method="deit")
    assert set(summary(run)["head_scales"]) == {"distillation"}


def test_a_second_stage_gives_the_logits_their_scale(tmp_path, toy_teacher):
    run = train(tmp_path / "run", toy_teacher, STANDARD, method="dearkd", stage2=1)
    assert summary(run)["head_scales"] is None
    assert summary(run)["trained_heads"] == ["class", "distillation"]


def test_a_student_of_one_head_is_scaled(tmp_path, toy_teacher):
    options = {"method": "deit", "student": "toy_cnn"}
    run = train(tmp_path / "run", toy_teacher, STANDARD, **options)
    (scale,) = summary(run)["head_scales"].values()
    assert summary(run)["trained_heads"] is None
    raw = load_checkpoint(run / "checkpoint" / "last.pt")["objective"]
    expected = scale * raw["student.fc.weight"]
    torch.testing.assert_close(load_file(run / "model.safetensors")["fc.weight"], expected)


RESUMED = {
    "scale of a stage": ("dearkd", ["distill.target_scale=stage"]),
    "early, middle, late": ("dearkd", ["distill.pair_preset=early-middle-late"]),
    "standardized alone": ("deit", STANDARD),
}


@pytest.mark.parametrize("kind", RESUMED)
def test_a_resumed_run_ends_as_an_uninterrupted_one(kind, tmp_path, toy_teacher, monkeypatch):
    method, settings = RESUMED[kind]
    whole = train(tmp_path / "whole", toy_teacher, settings, method=method, stage1=2)
    end = RunProgress.end

    def interrupt(self, line):
        end(self, line)
        if line["epoch"] == 0:
            raise KeyboardInterrupt

    run = tmp_path / "run"
    with monkeypatch.context() as patch:
        patch.setattr("dearkd.training.loop.Agenda.due", lambda self, step: (False, False, True))
        with pytest.raises(Interrupted):
            train(run, toy_teacher, settings, method=method, stage1=2)
    assert not (run / "summary.json").exists()
    if kind == "scale of a stage":  # what is stored counts, and is not measured again
        state = load_checkpoint(run / "checkpoint" / "last.pt")
        assert state["objective"]["aligners.0.target_rms"] > 0
        monkeypatch.setattr("dearkd.objectives.DearKD.measure_targets", None)
    quiet_train({}, resume=True, folder=RunFolder(run), config=RunFolder(run).read_config())
    ours, theirs = (load_file(folder / "model.safetensors") for folder in (run, whole))
    assert all(torch.equal(value, theirs[name]) for name, value in ours.items())
    assert summary(run)["head_scales"] == summary(whole)["head_scales"]
    names = ("loss", "hidden", "distillation")
    lines = [
        [{key: line.get(key) for key in names} for line in RunFolder(folder).read_metrics()]
        for folder in (run, whole)
    ]
    assert lines[0] == lines[1]


def test_labels_are_kept_for_every_kind_of_logits(tmp_path, toy_teacher):
    cache = tmp_path / "labels"
    runs = [
        train(tmp_path / str(n), toy_teacher, STANDARD, method="deit", cache_labels=str(cache))
        for n in (0, 1)
    ]
    assert json.loads((cache / "labels.json").read_text())["answers"] == "logits"
    assert summary(runs[1])["teacher_labels"]["computed"] == 0
    weights = [load_file(run / "model.safetensors") for run in runs]
    assert all(torch.equal(value, weights[1][name]) for name, value in weights[0].items())
    soft = ["distill.logits=soft", "distill.pair_preset=early-middle-late"]
    third = train(tmp_path / "2", toy_teacher, soft, cache_labels=str(cache))
    assert summary(third)["teacher_labels"]["computed"] == 0


def test_a_checkpoint_of_an_older_version_goes_on(tmp_path, toy_teacher, monkeypatch):
    """It does not know of heads and scales, and its configuration has five fields of distill."""
    run = tmp_path / "run"
    with monkeypatch.context() as patch:
        patch.setattr("dearkd.training.loop.Agenda.due", lambda self, step: (False, False, True))
        with pytest.raises(Interrupted):
            train(run, toy_teacher, stage1=2)
    state = load_checkpoint(run / "checkpoint" / "last.pt")
    for name in ("heads", "head_scales"):
        del state["position"][name]
    save_checkpoint(run / "checkpoint" / "last.pt", state)
    lines = RunFolder(run).config_file.read_text().splitlines()
    first = lines.index("distill:") + 1
    last = next(i for i in range(first, len(lines)) if not lines[i].startswith(" "))
    old = ["hidden_weight: 1.0", "pairs: []", "temperature: 3.0", "alpha: 0.1"]
    old = [f"  {line}" for line in [*old, "token: distillation"]]
    text = "\n".join([*lines[:first], *old, *lines[last:]]) + "\n"
    RunFolder(run).config_file.write_text(text)
    quiet_train({}, resume=True, folder=RunFolder(run), config=RunFolder(run).read_config())
    whole = train(tmp_path / "whole", toy_teacher, stage1=2)
    ours, theirs = (load_file(folder / "model.safetensors") for folder in (run, whole))
    assert all(torch.equal(value, theirs[name]) for name, value in ours.items())

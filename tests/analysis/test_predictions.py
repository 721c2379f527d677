"""Predictions: those of the evaluation, kept while nothing changed, and never stale."""

import json
import shutil

import numpy as np
import pytest
import torch
from conftest import opened, predictions_of, quiet_train
from PIL import Image
from timm.layers.attention import Attention

from dearkd.analysis import predictions
from dearkd.analysis.predictions import answers_of
from dearkd.judging.candidate import candidate_of
from dearkd.run_folder.files import load_weights, read_metadata, save_tensors
from dearkd.run_folder.folder import RunFolder
from dearkd.trained.resolve import resolve


def found_of(run):
    return resolve(str(run.path), "run")


@pytest.fixture(scope="module")
def student_run(tmp_path_factory, toy_teacher):
    folder = tmp_path_factory.mktemp("student") / "run"
    options = {"student": "toy_student", "stage1": 1, "stage2": 1}
    quiet_train({**options, "teacher.name": str(toy_teacher), "out": str(folder)})
    return folder


@pytest.fixture
def run(student_run, tmp_path):
    """A copy of a finished run of its own."""
    return RunFolder(shutil.copytree(student_run, tmp_path / "run"))


@pytest.fixture
def passes(monkeypatch):
    """How often the data was gone through."""
    seen = []
    real = predictions._answers
    monkeypatch.setattr(predictions, "_answers", lambda *a: seen.append(1) or real(*a))
    return seen


def top1(answers, labels):
    return 100 * (answers.read == labels).double().mean().item()


def test_attention_is_computed_as_the_run_was_judged(run):
    found = found_of(run)
    candidate = candidate_of(found)
    answers_of(found, candidate)
    layers = [one for one in candidate.trained.network.modules() if isinstance(one, Attention)]
    assert layers
    assert not any(layer.fused_attn for layer in layers)


def test_answers_are_those_the_run_was_judged_by(run, toy_teacher):
    found = predictions_of(found_of(run), teacher=True)
    summary = json.loads(run.summary_file.read_text())
    assert found.heads.keys() == {"class", "distillation", "logits"}
    for head, answers in found.heads.items():
        assert answers.read.shape == answers.confidence.shape == (359,)
        assert top1(answers, found.labels) == pytest.approx(summary["heads"][head]["top1"])
    taught_by = json.loads((toy_teacher / "summary.json").read_text())
    assert top1(found.teacher, found.labels) == pytest.approx(taught_by["top1"])
    assert found.class_names == tuple("0123456789")
    assert len(set(found.ids)) == 359


def test_picture_label_and_answer_belong_together(run):
    found = predictions_of(found_of(run))
    model = opened(str(run.path)).network
    for i in (0, 7, 358):
        pixels = (
            np.asarray(found.source.image(i).resize((16, 16), 3)).transpose(2, 0, 1) / 127.5 - 1
        )
        image = torch.from_numpy(pixels)[None].float()
        with torch.inference_mode():
            confidence, read = model(image)[0].double().softmax(0).max(0)
        assert found.heads["logits"].read[i] == read
        torch.testing.assert_close(
            found.heads["logits"].confidence[i], confidence, rtol=1e-5, atol=0
        )
        assert found.source.labels[i] == found.labels[i]
        assert found.source.name(i) == found.ids[i]


def test_kept_until_the_weights_change(run, passes):
    first = predictions_of(found_of(run))
    again = predictions_of(found_of(run))
    assert len(passes) == 1
    assert all(map(torch.equal, first.heads["logits"], again.heads["logits"]))
    assert again.ids == first.ids
    tensors, metadata = load_weights(run.model_file), read_metadata(run.model_file)
    tensors["head.bias"][3] += 100
    save_tensors(run.model_file, tensors, metadata)
    changed = predictions_of(found_of(run))
    assert len(passes) == 2
    assert (changed.heads["class"].read == 3).all()


def test_what_is_kept_is_small_whatever_the_number_of_classes(run, passes):
    """100 bytes an image are 5 MB for ImageNet's 50,000."""
    predictions_of(found_of(run), teacher=True)
    file = run.path / "predictions.safetensors"
    tensors, metadata = load_weights(file), read_metadata(file)
    assert sum(tensor.nbytes for tensor in tensors.values()) <= 100 * 359
    assert all(tensor.shape == (359,) for tensor in tensors.values())
    del metadata["form"]  # as older versions kept logits
    save_tensors(file, {"labels": tensors["labels"], "logits": torch.zeros(359, 10)}, metadata)
    assert predictions_of(found_of(run)).heads.keys() == {"class", "distillation", "logits"}
    assert len(passes) == 2


def test_a_teacher_asked_for_later_is_added(run, passes):
    assert predictions_of(found_of(run)).teacher is None
    assert predictions_of(found_of(run), teacher=True).teacher.read.shape == (359,)
    assert len(passes) == 2
    assert predictions_of(found_of(run), teacher=True).teacher is not None
    assert predictions_of(found_of(run)).heads.keys() == {"class", "distillation", "logits"}
    assert len(passes) == 2


def test_a_teacher_that_moved_away_is_said_and_the_rest_is_there(run, tmp_path):
    text = run.config_file.read_text()
    name = run.read_config().teacher.name
    run.config_file.write_text(text.replace(name, str(tmp_path / "gone")))
    found = predictions_of(found_of(run), teacher=True)
    assert found.teacher is None
    assert "gone" in found.teacher_missing
    assert "\n" not in found.teacher_missing
    assert len(found.labels) == 359


def test_a_cnn_has_one_head_and_no_teacher(toy_teacher, tmp_path):
    run = RunFolder(shutil.copytree(toy_teacher, tmp_path / "run"))
    found = predictions_of(found_of(run), teacher=True)
    assert found.heads.keys() == {"logits"}
    assert found.teacher_missing == "the run had no teacher"


def folder_of_digits(root, source, rows, classes=tuple("0123456789")):
    for row in rows:
        file = root / classes[source.labels[row]] / f"{row}.png"
        file.parent.mkdir(parents=True, exist_ok=True)
        source.image(row).save(file)
    return root


def test_other_images_without_unreadable_ones_do_not_replace_what_is_kept(run, tmp_path, passes):
    digits = predictions_of(found_of(run)).source
    root = folder_of_digits(tmp_path / "images", digits, range(60))
    victim = sorted(root.rglob("*.png"))[3]
    victim.write_bytes(victim.read_bytes()[:40])
    found = predictions_of(found_of(run), str(root))
    assert len(found.ids) == len(found.labels) == len(found.source) == 59
    assert str(victim) not in found.ids
    for i in (0, 20, 58):
        row = int(found.ids[i].rsplit("/")[-1].removesuffix(".png"))
        assert found.labels[i] == digits.labels[row]
        assert found.source.image(i).tobytes() == digits.image(row).tobytes()
    before = len(passes)
    predictions_of(found_of(run))
    assert len(passes) == before


def test_two_classes_of_one_name_are_told_apart(run, tmp_path):
    """ImageNet has two cranes."""
    digits = predictions_of(found_of(run)).source
    root = folder_of_digits(tmp_path / "images", digits, np.flatnonzero(digits.labels < 3))
    tensors, metadata = load_weights(run.model_file), read_metadata(run.model_file)
    metadata["class_names"] = [*"0123456", "crane", "8", "crane"]
    save_tensors(run.model_file, tensors, metadata)
    found = predictions_of(found_of(run), str(root))
    assert found.class_names == (*"0123456", "crane (7)", "8", "crane (9)")


def test_changed_pixels_of_the_run_s_own_images_are_noticed(run, tmp_path, passes):
    root = folder_of_digits(tmp_path / "images", predictions_of(found_of(run)).source, range(60))
    text = run.config_file.read_text()
    assert "evaluation: null" in text
    run.config_file.write_text(text.replace("evaluation: null", f"evaluation: {root}"))
    before = len(passes)
    for _ in range(2):
        assert len(predictions_of(found_of(run)).labels) == 60
    assert len(passes) == before + 1
    for file in root.rglob("*.png"):
        Image.new("RGB", (8, 8), "red").save(file)
    predictions_of(found_of(run))
    assert len(passes) == before + 2


def test_a_few_images_do_not_replace_what_is_kept(run, passes):
    predictions_of(found_of(run))
    few = predictions_of(found_of(run), images=10)
    assert len(few.labels) == 10
    predictions_of(found_of(run))
    assert len(passes) == 2


def test_a_damaged_or_unwritable_file_is_no_obstacle(run, passes, caplog):
    file = run.path / "predictions.safetensors"
    file.write_bytes(b"half")
    assert len(predictions_of(found_of(run)).labels) == 359
    file.unlink()
    file.mkdir()
    assert len(predictions_of(found_of(run)).labels) == 359
    assert "not kept" in caplog.text


def test_images_of_other_classes_missing_data_and_weights_are_refused(run, tmp_path):
    digits = predictions_of(found_of(run)).source
    names = tuple(f"animal {n}" for n in range(10))
    root = folder_of_digits(tmp_path / "images", digits, range(40), names)
    with pytest.raises(ValueError, match="data classes are unknown to the model"):
        predictions_of(found_of(run), str(root))
    with pytest.raises(FileNotFoundError, match="nowhere"):
        predictions_of(found_of(run), str(tmp_path / "nowhere"))
    run.model_file.unlink()
    with pytest.raises(ValueError, match=r"has no model\.safetensors: the run is not finished"):
        predictions_of(found_of(run))

"""`dearkd analyze`: its numbers, its pictures, its sentences and its refusals."""

import json
import math
import os
import shutil

import numpy as np
import pytest
import torch
from commands import invoke, not_among, refused
from conftest import opened, predictions_of, quiet_train
from PIL import Image
from timm.layers.attention import Attention
from timm.models import (
    VisionTransformer,
    build_model_with_cfg,
    generate_default_cfgs,
    register_model,
)

from dearkd.analysis import findings
from dearkd.analysis.attention_distance import measure_attention
from dearkd.analysis.attention_maps import (
    TILE,
    attention_sheet,
    heat_tile,
    position_sheet,
    scale_of,
)
from dearkd.analysis.findings import analysis_of
from dearkd.analysis.probe import evaluation_views
from dearkd.analysis.remarks import remarks
from dearkd.data.datasets import open_data
from dearkd.data.decode import BadImageError
from dearkd.data.sources import DigitsSource
from dearkd.run_folder.files import file_hash
from dearkd.run_folder.folder import RunFolder
from dearkd.trained.resolve import resolve

default_cfgs = generate_default_cfgs(
    {
        "toy_vit": {
            "input_size": (3, 16, 16),
            "mean": (0.5,) * 3,
            "std": (0.5,) * 3,
            "crop_pct": 1.0,
            "interpolation": "bicubic",
            "fixed_input_size": True,
            "classifier": "head",
        }
    }
)


def found_of(run):
    return resolve(str(run.path), "run")


@register_model
def toy_vit(pretrained=False, **kwargs):
    """A plain vision transformer without any prefix token."""
    sizes = {"img_size": 16, "patch_size": 4, "embed_dim": 24, "depth": 2, "num_heads": 3}
    sizes |= {"class_token": False, "global_pool": "avg"}
    return build_model_with_cfg(VisionTransformer, "toy_vit", pretrained, **{**sizes, **kwargs})


@pytest.fixture(scope="module")
def student_run(tmp_path_factory, toy_teacher):
    folder = tmp_path_factory.mktemp("student") / "run"
    options = {"student": "toy_student", "stage1": 2, "stage2": 1}
    quiet_train({**options, "teacher.name": str(toy_teacher), "out": str(folder)})
    return folder


@pytest.fixture(scope="module")
def analysis(student_run):
    return analysis_of(resolve(str(student_run), "run"), maps=3)


def test_attention_is_that_of_the_saved_weights(student_run, analysis):
    trained = opened(student_run)
    model, view = trained.network, trained.metadata
    digits = open_data("digits")[1]
    rows = np.linspace(0, 358, 64).round().astype(int).tolist()
    expected = measure_attention(model, evaluation_views(digits, rows, view))
    record = json.loads(json.dumps(analysis.record))
    np.testing.assert_allclose(record["attention_distance"], expected.distance, atol=1e-5)
    np.testing.assert_allclose(record["token_cosine"], expected.cosine, atol=1e-5)
    assert (record["grid"], record["images"], record["data"]) == ([4, 4], 64, "digits")
    where = [(i // 4, i % 4) for i in range(16)]
    spread = sum(math.dist(a, b) for a in where for b in where) / 256
    assert record["uniform_distance"] == pytest.approx(spread, abs=1e-5)


def test_positions_are_the_parameters_of_the_mhca_blocks(student_run, analysis):
    model = opened(student_run).network
    assert len(analysis.record["position"]) == 2
    for block, found in zip(model.blocks, analysis.record["position"], strict=False):
        alpha = block.attn.position_alpha.tolist()
        np.testing.assert_allclose(found["alpha"], alpha, atol=1e-5)
        np.testing.assert_allclose(found["sigma"], [1 / math.sqrt(2 * a) for a in alpha], atol=1e-4)
        np.testing.assert_allclose(
            found["centres"], block.attn.position_centres.detach(), atol=1e-5
        )


def test_heads_are_judged_against_label_and_teacher(student_run, analysis, toy_teacher):
    run, record = RunFolder(student_run), analysis.record
    summary = json.loads(run.summary_file.read_text())
    taught_by = json.loads((toy_teacher / "summary.json").read_text())
    answers = predictions_of(found_of(run), teacher=True)
    teacher = answers.teacher.read
    for name, head in record["heads"].items():
        assert head["top1"] == pytest.approx(summary["heads"][name]["top1"])
        same = sum(a == b for a, b in zip(answers.heads[name].read, teacher, strict=True))
        assert head["agreement_teacher"] == pytest.approx(100 * int(same) / 359)
        assert sum(images for *_, images in head["reliability"]) == record["head_images"] == 359
        assert 0 < head["ece"] < 1
    assert record["teacher_top1"] == pytest.approx(taught_by["top1"])
    assert record["teacher_missing"] is None
    two = [answers.heads[name].read for name in ("class", "distillation")]
    between = 100 * (two[0] == two[1]).double().mean().item()
    assert record["agreement_between_heads"] == pytest.approx(between)


def test_attention_is_computed_as_judged_where_predictions_are_kept(student_run, monkeypatch):
    """Of kept ones nothing is computed, which would place the network."""
    seen = []
    predictions_of(found_of(RunFolder(student_run)), teacher=True)
    monkeypatch.setattr(
        findings, "measure_attention", lambda m, v: seen.append(m) or measure_attention(m, v)
    )
    analysis_of(found_of(RunFolder(student_run)))
    layers = [one for one in seen[0].modules() if isinstance(one, Attention)]
    assert layers
    assert not any(layer.fused_attn for layer in layers)


def test_maps_are_of_the_images_they_name(analysis):
    digits = open_data("digits")[1]
    names = {digits.name(row): row for row in range(len(digits))}
    assert len(analysis.maps) == 3
    for one in analysis.maps:
        row = names[one.name]
        assert one.label == str(digits.labels[row])
        np.testing.assert_array_equal(one.pixels, np.asarray(digits.image(row).resize((16, 16), 3)))
        assert one.weights.shape == (3, 4, 4, 4)
        torch.testing.assert_close(one.weights.sum((-1, -2)), torch.ones(3, 4))


def cells(tile, side=4):
    """Mean colour of each patch of a tile."""
    return np.asarray(tile).reshape(side, TILE // side, side, TILE // side, 3).mean((1, 3))


def test_an_image_that_became_unreadable_since_its_answer_was_kept_has_no_map(
    student_run, monkeypatch
):
    first, middle, last = analysis_of(found_of(RunFolder(student_run)), maps=3).maps
    read = DigitsSource.image

    def image(self, row):
        if self.name(row) == middle.name:
            raise BadImageError(middle.name, "it is damaged")
        return read(self, row)

    monkeypatch.setattr(DigitsSource, "image", image)
    left = analysis_of(found_of(RunFolder(student_run)), maps=3).maps
    assert [(one.name, one.label) for one in left] == [
        (one.name, one.label) for one in (first, last)
    ]
    for before, after in zip((first, last), left, strict=True):
        assert (before.pixels == after.pixels).all()


def test_a_tile_is_yellow_where_most_attention_is_and_blue_where_least():
    weights = torch.full((4, 4), 0.5 / 15)
    weights[1, 2] = 0.5
    colours = cells(heat_tile(weights, scale_of(weights)))
    assert np.unravel_index(colours.sum(-1).argmax(), (4, 4)) == (1, 2)
    assert colours[1, 2, 0] > 2 * colours[1, 2, 2]  # red and green, no blue
    assert colours[0, 0, 2] > colours[0, 0, 0]


def test_a_uniform_map_is_grey_and_is_called_uniform():
    weights = torch.full((3, 2, 4, 4), 1 / 16)
    scale = scale_of(weights)
    colours = cells(heat_tile(weights[0, 0], scale))
    assert np.ptp(colours, axis=-1).max() < 12  # neutral
    assert 90 < colours.mean() < 150
    assert scale.reached == "brightest: 6.2%, nearly uniform"


def test_a_map_that_is_nearly_uniform_stays_nearly_grey():
    torch.manual_seed(0)
    weights = torch.rand(3, 2, 4, 4) * 0.2 + 0.9  # +- 10 %, as before training
    weights /= weights.sum((-1, -2), keepdim=True)
    scale = scale_of(weights)
    assert np.ptp(cells(heat_tile(weights[0, 0], scale)), axis=-1).max() < 40
    assert scale.reached.endswith("nearly uniform")
    weights[0, 0] = torch.eye(4) / 4
    assert "nearly" not in scale_of(weights).reached


def test_a_scale_ends_where_all_but_a_hundredth_are_below():
    weights = torch.arange(1000.0).reshape(10, 10, 10)
    scale = scale_of(weights)
    assert scale.end == scale.brightest
    assert (weights > scale.end).sum() == 10
    other = scale._replace(brightest=2 * scale.brightest)
    same = np.asarray(heat_tile(weights[9], scale)) == np.asarray(heat_tile(weights[9], other))
    assert not same.all()  # the scale is the caller's, not the tile's


def test_sheets_show_every_block_and_head(analysis):
    sheet = attention_sheet(analysis.maps)
    assert sheet.width > 2 * 6 * TILE
    assert sheet.height > 2 * 3 * TILE
    position = [{"alpha": [2.0, -1.0], "sigma": [0.5, None], "centres": [[0.0, 2.0], [-1.0, -1.0]]}]
    panel = np.asarray(position_sheet(position, (8, 8))).astype(int)
    blue = (panel[..., 2] - panel[..., 0]) > 100
    orange = (panel[..., 0] - panel[..., 2]) > 100
    middle = panel.shape[1] / 2
    assert np.argwhere(blue)[:, 1].mean() > middle + 40  # two patches to the right
    assert np.argwhere(orange)[:, 1].mean() < middle - 20  # a cross, up and to the left
    assert np.argwhere(orange)[:, 0].mean() < np.argwhere(blue)[:, 0].mean()


def test_command_writes_everything_and_a_page_that_asks_for_nothing(student_run, tmp_path):
    before = {file: file.read_bytes() for file in student_run.rglob("*.json*")}
    result = invoke("analyze", student_run, "--out", tmp_path / "found", "--maps", 2)
    assert result.exit_code == 0, result.output
    names = {"analysis.json", "analysis.html", "attention_maps.png", "position_heads.png"}
    assert {file.name for file in (tmp_path / "found").iterdir()} == names
    for name in ("attention_maps.png", "position_heads.png"):
        Image.open(tmp_path / "found" / name).verify()
    page = (tmp_path / "found" / "analysis.html").read_text()
    assert 'src="http' not in page
    assert "Attention maps" in page
    record = json.loads((tmp_path / "found" / "analysis.json").read_text())
    assert record["weights_sha256"] == file_hash(student_run / "model.safetensors")
    assert any(sentence in result.output.replace("\n", " ") for sentence in record["remarks"])
    assert {file: file.read_bytes() for file in student_run.rglob("*.json*")} == before
    for title in ("epoch 1", "end of", "stage1", "token", "sigma"):
        assert title in result.output


def test_a_file_name_that_is_no_utf8_is_escaped_on_the_page(student_run, tmp_path):
    for number in range(2):
        (tmp_path / "data" / str(number)).mkdir(parents=True)
        name = os.fsencode(tmp_path / "data" / str(number) / "caf") + b"\xe9.png"
        Image.new("RGB", (8, 8)).save(os.fsdecode(name), "PNG")
    out = tmp_path / "found"
    result = invoke("analyze", student_run, "--data", tmp_path / "data", "--out", out)
    assert result.exit_code == 0, result.output
    assert "caf\\udce9.png" in (out / "analysis.html").read_text()


def test_a_few_images_and_json(student_run):
    result = invoke(
        "analyze", student_run, "--images", 20, "--maps", 0, "--which", "best", "--json"
    )
    assert result.exit_code == 0, result.output
    record = json.loads(result.output)
    assert (record["images"], record["head_images"], record["weights"]) == (20, 20, "best")
    assert not (student_run / "attention_maps.png").exists()


def test_lines_that_are_no_epochs_are_left_out_and_told_of(student_run, tmp_path):
    run = tmp_path / "run"
    shutil.copytree(student_run, run)
    first, *others = map(json.loads, (run / "metrics.jsonl").read_text().splitlines())
    del first["stage"]
    (run / "metrics.jsonl").write_text(
        "".join(f"{json.dumps(line)}\n" for line in [first, *others])
    )
    result = invoke("analyze", run, "--images", "8", "--maps", "0")
    assert result.exit_code == 0, result.output
    assert "note: 1 line of metrics.jsonl is no epoch as training writes it: left out" in (
        result.stdout
    )
    assert "went from" in result.stdout
    assert "(epoch 2) to" in result.stdout


def test_a_plain_transformer_without_any_token(tmp_path):
    folder = tmp_path / "run"
    options = {"method": "ce", "student": "toy_vit", "stage1": 1, "stage2": 0, "out": str(folder)}
    quiet_train(options)
    line = RunFolder(folder).read_metrics()[0]
    assert np.shape(line["attention_distance"]) == (2, 3)
    assert "token_cosine" not in line
    result = invoke("analyze", folder)
    assert result.exit_code == 0, result.output
    record = json.loads((folder / "analysis.json").read_text())
    assert record["position"] == []
    assert record["token_cosine"] is None
    assert record["agreement_between_heads"] is None
    assert record["heads"].keys() == {"logits"}
    assert record["teacher_missing"] == "the run had no teacher"
    assert not (folder / "position_heads.png").exists()


def test_trust_is_for_a_run_or_a_teacher_that_brings_code(student_run, tmp_path, monkeypatch):
    options = ["--images", 8, "--maps", 0, "--out", tmp_path, "--trust"]
    line = refused("analyze", student_run, *options)
    assert "--trust has no effect" in line
    monkeypatch.setattr("dearkd.trained.resolve.MODELS_BY_TRUST", {"toy_cnn"})
    assert invoke("analyze", student_run, *options).exit_code == 0


def test_mistakes_get_one_line(student_run, toy_teacher, tmp_path):
    assert "toy_cnn, which has no attention to read" in refused("analyze", toy_teacher)
    assert "is no folder" in refused("analyze", tmp_path / "nowhere")
    (tmp_path / "empty").mkdir()
    assert "has no model.safetensors" in refused("analyze", tmp_path / "empty")
    half = shutil.copytree(student_run, tmp_path / "half")
    (half / "model.safetensors").unlink()
    assert "best weights so far: --which best" in refused("analyze", half)
    (half / "metrics.jsonl").write_text('{"epoch": 0, "sta')
    assert invoke("analyze", half, "--which", "best", "--images", 10).exit_code == 0
    assert "does not exist" in refused("analyze", student_run, "--data", tmp_path / "gone")
    for file in (student_run / "config.yaml", "/proc"):
        assert f"cannot write {file}/analysis.html" in refused(
            "analyze", student_run, "--out", file
        )
    (tmp_path / "set").mkdir()
    (tmp_path / "set" / "manifest.json").write_text("{}")
    for other, owner in ((half, "run"), (tmp_path / "set", "synthetic set")):
        line = refused("analyze", student_run, "--out", other)
        assert f"--out {other} is the folder of a {owner} that is not analysed" in line
    assert "'last' is not one of" in not_among("analyze", student_run, "--which", "last")
    for name in ("cat", "dog"):
        (tmp_path / "pets" / name).mkdir(parents=True)
        Image.new("RGB", (16, 16)).save(tmp_path / "pets" / name / "1.png")
    assert "unknown to the model" in refused("analyze", student_run, "--data", tmp_path / "pets")


RECORD = {
    "attention_distance": [[1.0, 1.4]] * 2 + [[1.8, 2.0]] * 2,
    "uniform_distance": 3.0,
    "position": [{"alpha": [1.0], "sigma": [0.7], "centres": [[3.0, 4.0]]}] * 2,
    "token_cosine": [0.06, 0.5, 0.93],
    "heads": {
        "class": {"agreement_teacher": 80.0},
        "distillation": {"agreement_teacher": 90.0},
        "logits": {"confidence": 0.9, "top1": 60.0, "ece": 0.3},
    },
    "agreement_between_heads": 75.0,
    "teacher_top1": 95.0,
    "teacher_missing": None,
}


def logged(epoch, stage, distance):
    return {"epoch": epoch, "stage": stage, "attention_distance": [[distance]]}


def said(record, lines):
    return " ".join(text for topic in remarks(record, lines).values() for text in topic)


def test_sentences_say_what_the_numbers_say():
    lines = [logged(0, "stage1", 2.0), logged(1, "stage1", 1.5), logged(2, "stage2", 1.75)]
    text = said(RECORD, lines)
    assert "blocks 1-2 (MHCA, attention with a learned place to look at) look 1.2 patches" in text
    assert "on average, those of blocks 3-4 (MHSA, without) 1.9; a head" in text
    assert "from 2.00 (epoch 1) to 1.50 at the end of stage 1 to 1.75 (epoch 3)" in text
    assert "moved 5.00 patches" in text
    assert "cosine 0.06 at the input and 0.93 after the last block" in text
    assert "class head agrees with the teacher on 80.0 %, the distillation head on 90.0 %" in text
    assert "says 90.0 % on average and is right on 60.0 %: overconfident" in text


def test_one_epoch_went_nowhere():
    text = said(RECORD, [logged(0, "stage1", 2.0)])
    assert "The run logged one epoch, whose mean distance is 2.00 (epoch 1)." in text
    assert "Over the epochs" not in text


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        ({"teacher_top1": None, "teacher_missing": "it is gone"}, "not compared: it is gone."),
        ({"position": [], "attention_distance": [[2.0]]}, "The heads look 2.0 patches away"),
        (
            {"heads": {**RECORD["heads"], "logits": {"confidence": 0.6, "top1": 60, "ece": 0.0}}},
            "as confident as it is right",
        ),
        (
            {"position": [{"alpha": [-1.0], "sigma": [None], "centres": [[0.0, 0.0]]}] * 2},
            "2 of 2 look away from their centre",
        ),
    ],
)
def test_sentences_of_other_runs(change, expected):
    text = said({**RECORD, **change}, [])
    assert expected in text
    assert "did not log attention distances" in text

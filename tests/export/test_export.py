"""Exports compute what the model does, carry their description, and leave nothing half-written."""

import io
import json
import os

import forked
import pytest
import timm
import torch
from commands import invoke, not_among, refused
from conftest import opened, quiet_train
from rich.console import Console

from dearkd.errors import UserError
from dearkd.export import export as door
from dearkd.export.difference import difference
from dearkd.export.export import export_run
from dearkd.export.formats import Readout
from dearkd.export.model_card import Weights, model_card
from dearkd.models.fused import fused
from dearkd.run_folder.files import save_model
from dearkd.trained.exported import Graph, open_onnx, open_torch_export
from dearkd.trained.onnx_packages import import_packages
from dearkd.trained.trained import described

QUIET = Console(file=io.StringIO())


@pytest.fixture(scope="module")
def run(tmp_path_factory, toy_teacher):
    """A finished student's folder: a block of either kind, two heads, 16 px."""
    folder = tmp_path_factory.mktemp("export") / "toy-run"
    options = {"student": "toy_student", "stage1": 1, "stage2": 1, "out": str(folder)}
    options |= {"student_args.depth": 2, "student_args.mhca_depth": 1}
    quiet_train({**options, "teacher.name": str(toy_teacher)})
    return folder


@pytest.fixture(scope="module")
def onnx_file(run, tmp_path_factory):
    out = tmp_path_factory.mktemp("onnx") / "model.onnx"
    result = invoke("export", run, "--out", out, "--fuse", "--heads")
    assert result.exit_code == 0, result.output
    steps = [
        f"exporting {run}",
        "checking it in onnxruntime on 4 images",
        f"wrote {out}",
        "largest",
    ]
    assert sorted(steps, key=result.stdout.index) == steps  # each is told, in this order
    return out


@pytest.fixture(scope="module")
def graph_file(run, tmp_path_factory):
    out = tmp_path_factory.mktemp("torch-export") / "m.pt2"
    return export_run(run, console=QUIET, to="torch-export", out=out)


def images(batch):
    return torch.randn(batch, 3, 16, 16)


def test_onnx_takes_any_batch_and_gives_both_heads(run, onnx_file):
    model = opened(run).network
    exported = open_onnx(onnx_file)
    for batch in (1, 2, 7):
        x = images(batch)
        logits, of_class, of_distillation = exported.network.outputs(x)
        with torch.inference_mode():
            tokens = model.forward_features(x)
            expected = model.head(tokens[:, 0]), model.head_dist(tokens[:, 1])
        torch.testing.assert_close(of_class, expected[0], rtol=1e-4, atol=1e-5)
        torch.testing.assert_close(of_distillation, expected[1], rtol=1e-4, atol=1e-5)
        torch.testing.assert_close(logits, sum(expected) / 2, rtol=1e-4, atol=1e-5)


def test_onnx_is_one_file_that_says_what_it_is(onnx_file):
    (onnx,) = import_packages("onnx")
    model = onnx.load(onnx_file)
    onnx.checker.check_model(model)
    said = {prop.key: json.loads(prop.value) for prop in model.metadata_props}
    assert said["class_names"] == [str(digit) for digit in range(10)]
    assert (said["img_size"], said["mean"], said["arch"]) == (16, [0.5] * 3, "toy_student")
    assert [output.name for output in model.graph.output] == ["logits", "class", "distillation"]
    assert model.graph.input[0].type.tensor_type.shape.dim[0].dim_param == "batch"
    assert [file.name for file in onnx_file.parent.iterdir()] == [onnx_file.name]


def test_torch_export_takes_any_batch(run, graph_file):
    model = opened(run).network
    for batch in (1, 5):
        x = images(batch)
        (logits,) = open_torch_export(graph_file).network.outputs(x)
        torch.testing.assert_close(logits, model(x), rtol=1e-4, atol=1e-5)


def test_a_timm_folder_loads_in_another_process(run, tmp_path):
    """The student's size and depth are not its architecture's own, so the config must say them."""
    student = tmp_path / "micro"
    quiet_train(
        {"method": "ce", "student": "dearkd_micro_patch4_32", "stage1": 1, "stage2": 0}
        | {"data.img_size": 16, "data.fraction": 0.05, "out": str(student)},
        ["data.batch_size=40", "student_args.depth=3", "student_args.mhca_depth=2"],
    )
    out = export_run(student, console=QUIET, to="timm", out=tmp_path / "folder")
    x = images(2)
    torch.save(x, tmp_path / "x.pt")
    code = """
import sys, dearkd, timm, torch
model = timm.create_model("local-dir:" + sys.argv[1], pretrained=True).eval()
torch.save(model(torch.load(sys.argv[2])).detach(), sys.argv[3])
"""
    paths = [out, tmp_path / "x.pt", tmp_path / "y.pt"]
    assert forked.script(code, paths, tmp_path / "log") == 0, (tmp_path / "log").read_text()
    model = opened(student).network
    torch.testing.assert_close(torch.load(tmp_path / "y.pt"), model(x))
    assert sorted(file.name for file in out.iterdir()) == ["config.json", "model.safetensors"]
    assert all(file.stat().st_mode & 0o777 == 0o644 for file in out.iterdir())


def test_a_timm_folder_knows_classes_and_view_and_serves_as_a_run(toy_teacher, tmp_path):
    out = export_run(toy_teacher, console=QUIET, to="timm", out=tmp_path / "cnn")
    view = timm.create_model(f"local-dir:{out}", pretrained=True).pretrained_cfg
    assert view["label_names"] == [str(digit) for digit in range(10)]
    assert tuple(view["input_size"]) == (3, 16, 16)
    assert (view["crop_pct"], view["crop_mode"]) == (1.0, "center")
    result = invoke("eval", out, "--data", "digits", "--json")
    summary = json.loads((toy_teacher / "summary.json").read_text())
    assert json.loads(result.stdout)["logits"]["top1"] == pytest.approx(summary["top1"])


def test_the_model_card_has_the_measured_numbers(run, tmp_path):
    before = os.umask(0o027)
    try:
        result = invoke(
            "export", run, "--to", "hf-folder", "--out", tmp_path / "hf", "--license", "mit"
        )
    finally:
        os.umask(before)
    assert result.exit_code == 0, result.output
    modes = {file.name: oct(file.stat().st_mode)[-3:] for file in (tmp_path / "hf").iterdir()}
    assert modes == dict.fromkeys(("config.json", "model.safetensors", "README.md"), "640")
    card = (tmp_path / "hf" / "README.md").read_text()
    summary = json.loads((run / "summary.json").read_text())
    assert f"| logits | {summary['top1']:.2f} | {summary['top5']:.2f} |" in card
    assert "359 test images" in card
    assert card.startswith("---\nlibrary_name: timm\n")
    assert "license: mit" in card
    assert str(tmp_path) not in card
    assert str(summary["teacher"]) not in card  # a path of this machine
    timm.create_model(f"local-dir:{tmp_path / 'hf'}", pretrained=True)


@pytest.mark.parametrize(
    ("which", "summary", "words"),
    [
        ("final", {}, "the run has left no numbers"),
        ("raw", None, "judged its averaged weights"),
        ("best", None, "chosen by this very number"),
    ],
)
def test_a_card_claims_no_number_that_is_not_of_its_weights(run, which, summary, words):
    if summary is None:
        summary = json.loads((run / "summary.json").read_text())
    description = opened(run).metadata
    card = model_card(description, Weights("toy", which, 1000, None), summary)
    assert words in card
    assert "| logits |" not in card
    assert "license: unknown" in card


@pytest.mark.parametrize(
    ("mode", "words"),
    [("center", "the shorter side resized to 16"), ("squash", "both sides resized to 16 pixels")],
)
def test_a_card_says_what_of_an_image_is_seen(toy_teacher, mode, words):
    description = opened(toy_teacher).metadata | {"crop_mode": mode}
    assert words in model_card(description, Weights("toy", "final", 1000, None), {})


@pytest.mark.parametrize("verb", ["export", "eval", "analyze", "predict"])
def test_weights_that_were_not_averaged_are_not_raw_besides(run, verb):
    said = refused(verb, run, *(["x.png"] if verb == "predict" else []), "--which", "raw")
    assert f"--which raw has no effect: {run} averaged no weights (optim.ema_decay is" in said


def test_a_model_that_differs_is_not_written(run, tmp_path, monkeypatch):
    def shifted(model):
        folded = fused(model)
        torch.nn.init.normal_(folded.head.bias)
        return folded

    monkeypatch.setattr(door, "fused", shifted)
    out = tmp_path / "deep" / "m.pt2"
    with pytest.raises(ValueError, match="nothing was written"):
        export_run(run, console=QUIET, to="torch-export", out=out, fuse=True)
    assert list(out.parent.iterdir()) == []
    export_run(run, console=QUIET, to="torch-export", out=out, fuse=True, check=False)
    assert out.is_file()


@pytest.mark.parametrize(("to", "ending"), [("onnx", ".onnx"), ("torch-export", ".pt2")])
def test_a_graph_has_the_ending_that_readers_know_it_by(run, tmp_path, to, ending):
    line = refused("export", run, "--to", to, "--out", tmp_path / "model")
    assert f"model must end in {ending}" in line
    assert line.endswith(f"use --out {tmp_path / 'model'}{ending}")


def test_a_folder_has_no_ending_that_readers_know_a_graph_by(run, tmp_path):
    line = refused("export", run, "--to", "timm", "--out", tmp_path / "m.onnx")
    assert "m.onnx ends in .onnx, by which dearkd predict knows a graph" in line
    assert line.endswith(f"use --out {tmp_path / 'm'}")
    assert list(tmp_path.iterdir()) == []


def test_the_card_names_the_size_that_timm_resizes_to(run):
    (resize, *_) = timm.data.create_transform(224, crop_pct=0.9).transforms
    description = {**opened(run).metadata, "img_size": 224, "crop_pct": 0.9}
    card = model_card(description, Weights("toy", "final", 1000, None), {})
    assert f"the shorter side resized to {resize.size} pixels" in card


@pytest.mark.parametrize("to", ["timm", "torch-export"])
def test_a_failing_write_leaves_nothing(run, tmp_path, monkeypatch, to):
    def fails(*args):
        raise OSError(28, "No space left on device", "x")

    monkeypatch.setattr(door, "difference", fails)
    with pytest.raises(OSError, match="No space"):
        export_run(run, console=QUIET, to=to, out=tmp_path / ("m" if to == "timm" else "m.pt2"))
    assert list(tmp_path.iterdir()) == []


def test_difference_refuses_another_best_class(run):
    trained = opened(run)
    readout = Readout(trained.network)

    def open_timm_like(outputs):
        return described("graph", Graph(outputs), "onnx", trained.metadata)

    exported = open_timm_like(lambda x: (readout(x)[0] - 1e-9,))
    assert difference(readout, exported) < 1e-5
    swapped = open_timm_like(lambda x: (readout(x)[0].flip(1),))
    with pytest.raises(ValueError, match="same best class: no"):
        difference(readout, swapped)


def test_mistakes_get_one_line(run, toy_teacher, tmp_path):
    taken = tmp_path / "taken.onnx"
    taken.write_text("")
    assert "exists already" in refused("export", run, "--out", taken)
    assert taken.read_text() == ""
    assert "'tflite' is not one of 'onnx'" in not_among("export", run, "--to", "tflite")
    assert "leave it out or choose --to onnx" in refused("export", run, "--to", "timm", "--fuse")
    assert "--license goes into a model card" in refused("export", run, "--license", "mit")
    assert "is not a run folder" in refused("export", tmp_path / "nowhere")
    assert "the run is not finished" in refused("export", tmp_path)
    assert "no convolutional attention" in refused("export", toy_teacher, "--fuse")
    assert "has one head" in refused("export", toy_teacher, "--heads")
    assert "has no checkpoint/best" in refused("export", _copy(run, tmp_path), "--which", "best")


def test_a_damaged_summary_is_named_where_the_card_needs_it(run, tmp_path):
    folder = _copy(run, tmp_path)
    (folder / "summary.json").write_text('{"top1": ')
    assert "summary.json is damaged" in refused("export", folder, "--to", "hf-folder")
    for text, fault in (("[1]", "it is a list"), ('{"top1": 9.0}', "method is missing")):
        (folder / "summary.json").write_text(text)
        line = refused("export", folder, "--to", "hf-folder")
        assert f"summary.json is damaged ({fault}), and the model card shows it" in line
    assert {file.name for file in folder.iterdir()} == {"model.safetensors", "summary.json"}


def _copy(run, tmp_path):
    """The weights of a run alone, as somebody might send them."""
    folder = tmp_path / "alone"
    folder.mkdir()
    (folder / "model.safetensors").write_bytes((run / "model.safetensors").read_bytes())
    return folder


def test_missing_packages_are_named(monkeypatch):
    with pytest.raises(ImportError, match=r"pip install 'dearkd\[onnx\]'"):
        import_packages("json", "no_such_package_of_onnx")


@pytest.mark.parametrize("name", ["m.onnx", "m.pt2", "folder"])
def test_damaged_exports_get_one_line(tmp_path, name):
    path = tmp_path / name
    if name == "folder":
        path.mkdir()
        (path / "config.json").write_text("{")
    else:
        path.write_bytes(b"damaged")
    with pytest.raises(ValueError, match=r"damaged|cannot load"):
        opened(path, trust=name.endswith("pt2"), graphs=True)


def test_a_damaged_archive_is_named_by_its_checksum(graph_file, tmp_path):
    content = bytearray(graph_file.read_bytes())
    middle = len(content) // 2
    content[middle] ^= 255
    file = tmp_path / "m.pt2"
    file.write_bytes(content)
    with pytest.raises(UserError, match=r"m\.pt2 is damaged.*; export or fetch it again$"):
        opened(file, trust=True, graphs=True)


def described_by(onnx_file, place, **texts):
    """A copy of an ONNX file with other entries in its description."""
    (onnx,) = import_packages("onnx")
    model = onnx.load(onnx_file)
    kept = [(p.key, p.value) for p in model.metadata_props if p.key not in texts]
    del model.metadata_props[:]
    onnx.helper.set_model_props(model, dict(kept) | texts)
    onnx.save(model, place)
    return place


def test_what_other_tools_note_in_an_onnx_file_is_left_alone(run, onnx_file, tmp_path):
    noted = {"onnx.infer": "onnxruntime.quant"}  # by onnxruntime's quantisation
    assert open_onnx(described_by(onnx_file, tmp_path / "m.onnx", **noted)).num_classes == 10


@pytest.mark.parametrize(
    ("texts", "fault"),
    [
        ({"mean": "abc"}, "damaged description .Expecting value"),
        ({"mean": "3"}, "damaged description .mean is 3"),
        ({"img_size": "null"}, "damaged description .img_size is None"),
        ({"class_names": "3"}, "damaged description .class_names is 3"),
        ({"class_names": '["a"]'}, "damaged description .class_names has 1 of 10 names"),
    ],
)
def test_a_damaged_description_is_named(onnx_file, tmp_path, texts, fault):
    with pytest.raises(UserError, match=rf"m\.onnx.* {fault}.*; export or fetch it again$"):
        open_onnx(described_by(onnx_file, tmp_path / "m.onnx", **texts))


def test_onnx_of_another_origin_is_refused(onnx_file, tmp_path):
    (onnx,) = import_packages("onnx")
    model = onnx.load(onnx_file)
    del model.metadata_props[:]
    onnx.save(model, tmp_path / "other.onnx")
    with pytest.raises(ValueError, match="does not say its num_classes"):
        open_onnx(tmp_path / "other.onnx")


def test_the_command_that_it_names_can_be_pasted(tmp_path):
    name, out = "dearkd_resnet10t_32", tmp_path / "my model"
    metadata = {"arch": name, "num_classes": 10, "img_size": 16}
    metadata |= {"mean": [0.5] * 3, "std": [0.5] * 3}
    model = timm.create_model(name, num_classes=10)
    save_model(tmp_path / "model.safetensors", model, metadata)
    result = invoke("export", tmp_path, "--to", "timm", "--out", out, "--no-check")
    assert result.exit_code == 0, result.output
    assert f"try it: dearkd predict '{out}' IMAGE" in result.stdout

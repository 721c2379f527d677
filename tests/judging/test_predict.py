"""Predictions are those of evaluation, for every kind of image; bad ones are named."""

import io
import json

import numpy as np
import pytest
import torch
from commands import invoke, refused
from conftest import opened, quiet_train
from PIL import Image
from rich.console import Console
from safetensors.torch import save_file

from dearkd.data.class_matching import with_descriptions
from dearkd.data.datasets import open_data, open_evaluation
from dearkd.data.feed import evaluation_loader
from dearkd.export.export import export_run
from dearkd.judging.predict import Answer, _indices, _names, _Score, answers, image_files
from dearkd.run_folder.processes import process_accelerator


@pytest.fixture(scope="module")
def digits(tmp_path_factory):
    """The first test digits as PNG files in class folders, and their source."""
    root = tmp_path_factory.mktemp("digits")
    source = open_data("digits")[1]
    for index in range(40):
        folder = root / str(source.labels[index])
        folder.mkdir(exist_ok=True)
        source.image(index).save(folder / f"{index}.png")
    return root


def test_the_same_probabilities_as_evaluation(toy_teacher, digits):
    """Bit by bit: the loader and view of `dearkd eval`, and the model on what they give."""
    trained = opened(toy_teacher)
    model, metadata = trained.network, trained.metadata
    source = open_evaluation(str(digits))
    loader = evaluation_loader(
        source, metadata, 16, tuple(range(10)), process_accelerator(), batch_size=16, workers=0
    )
    with torch.inference_mode():
        model.eval()
        batches = [(batch["index"], model(batch["image"]).softmax(-1)) for batch in loader]
    expected = torch.cat([p for _, p in batches])[torch.cat([i for i, _ in batches]).argsort()]
    files = [source.name(index) for index in range(len(source))]
    found = list(answers(opened(toy_teacher), files))
    assert [answer.image for answer in found] == files
    for answer, row in zip(found, expected, strict=True):
        values, indices = row.topk(5)
        assert answer.top == tuple(zip(indices.tolist(), values.tolist(), strict=True))


def test_json_names_the_classes_of_a_folder(toy_teacher, digits):
    result = invoke("predict", toy_teacher, digits, "--json")
    assert result.exit_code == 0, result.output
    rows = json.loads(result.stdout)
    assert len(rows) == 40
    assert all(len(row["top"]) == 5 for row in rows)
    assert rows[0]["top"][0].keys() == {"class", "index", "probability"}
    assert {row["image"] for row in rows} == {str(file) for file in digits.glob("*/*.png")}


def test_folders_named_after_classes_tell_right_from_wrong(toy_teacher, digits, tmp_path):
    rows = json.loads(invoke("predict", toy_teacher, digits, "--json").stdout)
    right = sum(row["top"][0]["class"] == row["image"].split("/")[-2] for row in rows)
    assert 0 < right == sum(row["right"] for row in rows)
    text = invoke("predict", toy_teacher, digits).stdout
    assert f"{right} of 40 ({100 * right / 40:.1f} %) are taken for the class" in text
    assert text.count(" right: ") == right
    assert text.count(" wrong: it is ") == 40 - right
    misfit = tmp_path / "eleven" / "1.png"
    misfit.parent.mkdir()
    misfit.write_bytes(next(digits.glob("*/*.png")).read_bytes())
    text = invoke("predict", toy_teacher, misfit).stdout
    assert "right" not in text
    assert "are taken for" not in text


KINDS = {
    "rgb.png": lambda image: image,
    "photo.jpg": lambda image: image,
    "photo.webp": lambda image: image,
    "grey.png": lambda image: image.convert("L"),
    "bilevel.png": lambda image: image.convert("1"),
    "palette.png": lambda image: image.convert("P"),
    "alpha.png": lambda image: image.convert("RGBA"),
    "grey-alpha.png": lambda image: image.convert("LA"),
    "print.jpg": lambda image: image.convert("CMYK"),
    "print.tif": lambda image: image.convert("CMYK"),
    "deep.png": lambda image: Image.fromarray(np.uint16(257) * np.asarray(image.convert("L"))),
}


@pytest.fixture(scope="module")
def dark_or_light(tmp_path_factory):
    """A network whose class 1 is the brighter lower half: an upright image is told from others."""
    root = tmp_path_factory.mktemp("halves")
    folder = root / "data"
    for label, name in enumerate(("top", "bottom")):
        (folder / name).mkdir(parents=True)
        for index in range(24):
            half(bottom=bool(label), light=160 + 4 * index).save(folder / name / f"{index}.png")
    run = root / "run"
    options = {"method": "ce", "student": "toy_cnn", "stage1": 12, "stage2": 0, "out": str(run)}
    settings = ["data.batch_size=12", "data.augment=none", "optim.lr=5e-3", "data.img_size=16"]
    settings.append("eval_every=12")
    quiet_train({**options, "data.train": str(folder), "data.evaluation": str(folder)}, settings)
    return run


def half(bottom, light=255):
    pixels = np.zeros((16, 16, 3), dtype=np.uint8)
    pixels[8:] = light
    return Image.fromarray(pixels if bottom else pixels[::-1].copy())


def best(run, file):
    result = invoke("predict", run, file, "--json")
    assert result.exit_code == 0, result.output
    return json.loads(result.stdout)[0]["top"][0]["class"]


@pytest.mark.parametrize("name", KINDS)
def test_every_kind_of_image_is_seen_right(dark_or_light, tmp_path, name):
    for bottom, label in ((False, "top"), (True, "bottom")):
        file = tmp_path / f"{label}-{name}"
        KINDS[name](half(bottom)).save(file)
        assert best(dark_or_light, file) == label


def test_an_image_is_turned_as_its_exif_says(dark_or_light, tmp_path):
    exif = Image.Exif()
    exif[0x0112] = 3  # upside down
    half(bottom=True).save(tmp_path / "turned.jpg", exif=exif)
    assert best(dark_or_light, tmp_path / "turned.jpg") == "top"


def test_bad_images_are_named_and_the_others_answered(toy_teacher, digits, tmp_path):
    good = next(digits.glob("*/*.png"))
    (tmp_path / "torn.png").write_bytes(good.read_bytes()[:60])
    (tmp_path / "text.jpg").write_text("no image")
    Image.new("RGB", (1, 1)).save(tmp_path / "dot.png")
    Image.new("1", (10_000, 10_000)).save(tmp_path / "vast.png")
    (tmp_path / "empty").mkdir()
    bad = [tmp_path / name for name in ("torn.png", "text.jpg", "dot.png", "vast.png", "empty")]
    result = invoke("predict", toy_teacher, *bad, tmp_path / "gone.png", good)
    assert result.exit_code == 2
    lines = result.stderr.splitlines()
    for line, file in zip(lines, [*bad, tmp_path / "gone.png"], strict=True):
        assert line.startswith(f"error: {file}: ")
    reasons = ("", "not an image", "1 x 1 pixels", "89,478,485 pixels", "without images", "No such")
    assert all(reason in line for line, reason in zip(lines, reasons, strict=True))
    assert str(good) in result.stdout
    assert result.stdout.count(" %  ") == 5
    rows = json.loads(invoke("predict", toy_teacher, *bad, good, "--json").stdout)
    assert ["error" in row for row in rows] == [True] * 5 + [False]


def test_folders_and_globs_in_natural_order(tmp_path):
    hidden = ("b/.hidden.png", "b/.thumbnails/img2.png")
    for name in ("b/img10.png", "b/img2.png", "b/notes.txt", "a.png", *hidden):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes(b"")
    folder = [str(tmp_path / "b" / name) for name in ("img2.png", "img10.png")]
    assert list(image_files([str(tmp_path / "b")])) == folder
    assert list(image_files([str(tmp_path / "b" / "*.png")])) == folder
    everything = [str(tmp_path / "a.png"), *folder]
    assert list(image_files([str(tmp_path / "**" / "*.png")])) == everything
    assert list(image_files([str(tmp_path / "b*")])) == folder
    text = str(tmp_path / "b" / "notes.txt")
    assert list(image_files([str(tmp_path / "**")])) == [*everything, text]
    (tmp_path / "c").mkdir()
    assert list(image_files([str(tmp_path / "[bc]")])) == [*folder, str(tmp_path / "c")]
    (tmp_path / "b" / "self").symlink_to(".")
    assert list(image_files([str(tmp_path / "b")])) == folder
    assert list(image_files(["none*.png", "gone.png"])) == ["none*.png", "gone.png"]


def test_class_names_of_a_file(toy_teacher, digits, tmp_path):
    image = next(digits.glob("*/*.png"))
    names = tmp_path / "names.txt"
    names.write_text("\n".join(f"the digit {digit}" for digit in range(10)) + "\n\n")
    result = invoke("predict", toy_teacher, image, "--class-names", names)
    assert result.stdout.count("the digit ") == 5
    names.write_text("\n".join("abcdefghij"), encoding="utf-8-sig")  # as Windows' Notepad writes
    assert _names(opened(toy_teacher), names) == tuple("abcdefghij")
    names.write_text("one\ntwo\n")
    line = refused("predict", toy_teacher, image, "--class-names", names)
    assert f"{names} has 2 names and the model 10 classes" in line
    names.write_bytes(b"\xff\xfe\x00")
    assert "no text file" in refused("predict", toy_teacher, image, "--class-names", names)
    gone = tmp_path / "gone.txt"
    assert str(gone) in refused("predict", toy_teacher, image, "--class-names", gone)


def test_exported_forms_answer_as_the_run(toy_teacher, digits, tmp_path):
    """ONNX, torch.export and timm folder, the latter also without dearkd's metadata."""
    files = sorted(str(file) for file in digits.glob("*/*.png"))[:5]
    expected = list(answers(opened(toy_teacher), files))
    quiet = Console(file=io.StringIO())
    out = {
        to: tmp_path / name
        for to, name in {"onnx": "m.onnx", "torch-export": "m.pt2", "timm": "folder"}.items()
    }
    for to, place in out.items():
        export_run(toy_teacher, console=quiet, to=to, out=place)
    bare = tmp_path / "bare"
    bare.mkdir()
    (bare / "config.json").write_bytes((out["timm"] / "config.json").read_bytes())
    save_file(opened(toy_teacher).network.state_dict(), bare / "model.safetensors")
    for place in (*out.values(), bare):
        classifier = opened(place, trust=place.suffix == ".pt2", graphs=True)
        assert classifier.class_names == tuple(str(digit) for digit in range(10))
        for answer, wanted in zip(answers(classifier, files), expected, strict=True):
            assert [i for i, _ in answer.top] == [i for i, _ in wanted.top]
            assert [p for _, p in answer.top] == pytest.approx([p for _, p in wanted.top], abs=1e-5)


def test_a_timm_name_with_local_weights(toy_teacher, digits):
    image = next(digits.glob("*/*.png"))
    result = invoke("predict", "toy_cnn", image, "--weights", toy_teacher / "model.safetensors")
    assert result.exit_code == 0, result.output
    assert result.stdout.count(" %  ") == 5


def test_model_mistakes_get_one_line(toy_teacher, digits, tmp_path):
    image = next(digits.glob("*/*.png"))
    (tmp_path / "m.pt2").write_bytes(b"x")
    (tmp_path / "m.onnx").write_bytes(b"x")
    assert "pass --trust" in refused("predict", tmp_path / "m.pt2", image)
    assert "damaged" in refused("predict", tmp_path / "m.pt2", image, "--trust")
    assert "damaged or no ONNX model" in refused("predict", tmp_path / "m.onnx", image)
    assert "does not exist" in refused("predict", tmp_path / "gone.onnx", image)
    assert "does not exist" in refused("predict", "runs/gone", image)
    assert "did you mean" in refused("predict", "resnet188", image)
    assert "the run is not finished" in refused("predict", tmp_path, image)
    assert "--which best is for a run" in refused("predict", "resnet18", image, "--which", "best")
    assert "--trust has no effect" in refused("predict", toy_teacher, image, "--trust")
    weights = toy_teacher / "model.safetensors"
    assert "is a folder here" in refused("predict", toy_teacher, image, "--weights", weights)


def test_synsets_are_said_in_words():
    assert with_descriptions(["n01440764", "n02123045"]) == (
        "n01440764 tench, Tinca tinca",
        "n02123045 tabby, tabby cat",
    )
    assert with_descriptions(["cat", "n01440764"]) == ("cat", "n01440764")


def test_a_folder_named_as_two_classes_are_is_right_for_both():
    """ImageNet has two cranes: which of them a folder means is not known."""
    score = _Score(_indices(["n1", "n2", "n3"], ["crane", "tench", "crane"]))
    for best, right in enumerate((True, False, True)):
        assert score.verdict(Answer("crane/a.png", ((best, 0.9),))) == ("crane", right)
    assert (score.right, score.judged) == (2, 3)
    assert score.verdict(Answer("n1/a.png", ((0, 0.9),))) == ("n1", True)
    assert score.verdict(Answer("other/a.png", ((0, 0.9),))) is None

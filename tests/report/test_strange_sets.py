"""A synthetic set whose files are damaged or of another kind gets a line, not a traceback."""

import html
import json
import shutil

import pytest
from commands import invoke


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """A set of four images as `dearkd synthesize` leaves it."""
    folder = tmp_path_factory.mktemp("made") / "set"
    args = ["--res", 16, "--iters", 2, "--per-class", 2, "--classes", "2,5", "--out", folder]
    result = invoke("synthesize", *args)
    assert result.exit_code == 0, result.output
    return folder


def reported(made, tmp_path, change):
    """The page on a copy of the set whose manifest was changed, and its Markdown table."""
    folder = shutil.copytree(made, tmp_path / "set")
    manifest = json.loads((folder / "manifest.json").read_text())
    change(manifest)
    (folder / "manifest.json").write_text(json.dumps(manifest))
    texts = []
    for form in ("html", "md"):
        out = tmp_path / f"page.{form}"
        result = invoke("report", folder, "--out", out)
        assert result.exit_code == 0, (result.output, result.exception)
        texts.append(out.read_text())
    return texts


def page_on(folder, out):
    """The page about a set."""
    result = invoke("report", folder, "--out", out)
    assert result.exit_code == 0, (result.output, result.exception)
    return out.read_text(encoding="utf-8")


def without_folders(manifest):
    for image in manifest["images"]:
        image["file"] = image["file"].rpartition("/")[2]


def far_away(manifest):
    for image in manifest["images"]:
        image["file"] = "/nowhere/" + image["file"]


@pytest.mark.parametrize("change", [without_folders, far_away])
def test_a_manifest_that_names_no_image_of_its_folder(made, tmp_path, change):
    page, _ = reported(made, tmp_path, change)
    assert "set: none of the 4 images that its manifest lists is in its folder." in page
    assert page.count('class="picture"') == 0


def test_two_classes_of_one_name_are_told_apart(made, tmp_path):
    """ImageNet has two cranes."""
    names = ["0", "1", "crane", "3", "4", "crane", "6", "7", "8", "9"]
    page, _ = reported(made, tmp_path, lambda manifest: manifest.update(class_names=names))
    assert "crane (2)" in page
    assert "crane (5)" in page


STRANGE = {
    "it lists no images": {"images": []},
    "images[0].target is missing": {"images": [{"file": "2/a.png"}]},
    "config is a list": {"config": [1]},
    "groups is None": {"groups": None},
    "teacher is &#39;resnet&#39;": {"teacher": "resnet"},
    "quality.teacher.recognition is missing": {"quality": {"teacher": {}}},
    "the verdicts of its teacher do not cover all classes": {
        "quality": {
            "teacher": {
                "recognition": {"overall": 1.0, "per_class": {}},
                "confidence_histogram": [4],
            }
        }
    },
}


@pytest.mark.parametrize("reason", STRANGE)
def test_a_manifest_of_another_shape_is_left_out_with_its_reason(made, tmp_path, reason):
    line = f"its manifest.json is not one that dearkd synthesize writes ({reason}) and was left out"
    for text in reported(made, tmp_path, lambda manifest: manifest.update(STRANGE[reason])):
        assert html.unescape(line) in html.unescape(text)


def test_a_set_that_nobody_judged_has_no_shares(made, tmp_path):
    page, table = reported(made, tmp_path, lambda manifest: manifest.update(quality={}))
    assert "4 synthetic images of 2 classes" in page
    assert "recognises" not in page.partition("<main>")[0]
    assert "| set | 4 | 2 |" in table


def test_a_set_shows_how_it_was_made(made, tmp_path):
    page, _ = reported(made, tmp_path / "default", lambda manifest: None)
    kernels = json.loads((made / "manifest.json").read_text())["kernels"]
    assert ">inversion</td>" in page and f">{kernels['precision']}, " in page
    engine = {"engine": "generator"}
    page, _ = reported(made, tmp_path / "other", lambda manifest: manifest["config"].update(engine))
    assert ">generator</td>" in page and ">inversion</td>" not in page


def test_an_unfinished_set_shows_how_it_is_being_made(made, tmp_path):
    folder = shutil.copytree(made, tmp_path / "set")
    (folder / "manifest.json").unlink()
    page = page_on(folder, tmp_path / "page.html")
    assert "unfinished: 1 group of images done" in page
    assert ">inversion</td>" in page and f"dearkd synthesize {folder}/synthesize.yaml" in page
    (folder / "settings.json").write_text("{", encoding="utf-8")
    page = page_on(folder, tmp_path / "page.html")
    assert "unfinished: 1 group of images done" in page and ">inversion</td>" not in page


def test_a_manifest_that_is_cut_off_is_left_out_with_the_reason(made, tmp_path):
    folder = shutil.copytree(made, tmp_path / "set")
    manifest = folder / "manifest.json"
    manifest.write_text(manifest.read_text(encoding="utf-8")[:100], encoding="utf-8")
    page = page_on(folder, tmp_path / "page.html")
    assert "its manifest.json is not one that dearkd synthesize writes (" in page
    assert "unfinished" not in page


def test_images_outside_the_set_are_counted(made, tmp_path):
    page, _ = reported(made, tmp_path, lambda manifest: manifest["images"][0].update(file="/a/b"))
    assert "1 of its 4 images name no file of the set" in page
    assert page.count('class="picture"') == 3

"""A set that is what its manifest says passes every check; each kind of damage is told."""

import json
import shutil

import numpy as np
import pytest
from commands import invoke, refused
from PIL import Image
from test_verify_run import verdicts


@pytest.fixture(scope="module")
def made(toy_teacher, tmp_path_factory):
    out = tmp_path_factory.mktemp("verify") / "set"
    line = ["--res", 16, "--iters", 1, "--per-class", 2, "--set", "compile=never"]
    result = invoke("synthesize", "--teacher", toy_teacher, *line, "--out", out)
    assert result.exit_code == 0, result.output
    return out


@pytest.fixture
def item(made, tmp_path):
    return shutil.copytree(made, tmp_path / "set")


def first_image(item):
    return item / json.loads((item / "manifest.json").read_text())["images"][0]["file"]


def test_a_set_is_what_its_manifest_says(item):
    code, checks = verdicts(item)
    assert code == 0
    assert {name: verdict for name, (verdict, _) in checks.items()} == dict.fromkeys(
        ("configuration", "images", "classes", "quality", "teacher"), "holds"
    )
    assert checks["images"][1] == "20 images, pixel for pixel as they were made"


def test_a_changed_pixel_is_told(item):
    file = first_image(item)
    pixels = np.array(Image.open(file))
    pixels[0, 0] ^= 1
    Image.fromarray(pixels).save(file)
    code, checks = verdicts(item, "--no-evaluation")
    assert code == 1
    assert checks["images"][1] == f"{file.relative_to(item)} has other pixels"


def test_an_image_of_another_size_is_told(item):
    file = next(item.glob("*/*.png"))
    Image.new("RGB", (20, 16)).save(file)
    code, checks = verdicts(item)
    assert code == 1
    assert checks["images"][1] == f"{file.relative_to(item)} has other pixels"


def test_a_set_without_a_configuration_leaves_its_teacher_open(item):
    (item / "synthesize.yaml").unlink()
    code, checks = verdicts(item)
    assert code == 0
    told = "it cannot be asked: synthesize.yaml, which names it, is not there"
    assert checks["teacher"] == ("open", told)


def test_an_image_that_is_gone_and_a_stranger_are_told(item):
    file = first_image(item)
    file.rename(file.with_name("stranger.png"))
    checks = verdicts(item, "--no-evaluation")[1]
    assert checks["images"][1] == f"{file.relative_to(item)} is gone (and 1 more)"
    assert checks["classes"][1] == "class 0 has 1 image, and 2 were to be made"


def test_a_share_or_a_verdict_that_was_raised_is_told(item):
    content = json.loads((item / "manifest.json").read_text())
    record = content["images"][0]
    record["teacher"]["prediction"] = (record["teacher"]["prediction"] + 1) % 10
    content["config"]["seed"] = 5
    (item / "manifest.json").write_text(json.dumps(content))
    code, checks = verdicts(item)
    assert code == 1
    assert checks["teacher"][1] == f"it reads {record['file']} otherwise than the manifest says"
    assert checks["configuration"][1] == "seed is 0 in synthesize.yaml and 5 in the manifest"
    content["quality"]["teacher"]["recognition"]["overall"] = 1.5
    (item / "manifest.json").write_text(json.dumps(content))
    assert "teacher: 1.5000 is told" in verdicts(item, "--no-evaluation")[1]["quality"][1]


def test_an_image_without_its_verdict_is_named(item):
    content = json.loads((item / "manifest.json").read_text())
    content["images"][0]["teacher"] = None
    (item / "manifest.json").write_text(json.dumps(content))
    told = f"{content['images'][0]['file']} has no verdict of the teacher in the manifest"
    checks = verdicts(item)[1]
    assert checks["quality"] == checks["teacher"] == ("fails", told)


def test_a_teacher_that_cannot_be_asked_leaves_its_check_open(item):
    text = (item / "synthesize.yaml").read_text().splitlines()
    name = next(line for line in text if line.startswith("  name:"))
    gone = "\n".join("  name: gone_cnn" if line == name else line for line in text)
    (item / "synthesize.yaml").write_text(gone + "\n")
    code, checks = verdicts(item)
    assert code == 0
    assert checks["teacher"][0] == "open"
    assert "gone_cnn" in checks["teacher"][1]


OWN = """
from pathlib import Path
from timm.models import register_model
import timm
Path("FOLDER/ran").touch()
@register_model
def own_cnn_of_a_set(pretrained=False, **kwargs):
    return timm.create_model("toy_cnn", **kwargs)
"""


def test_a_sets_python_files_are_run_by_trust_alone(item, toy_teacher):
    """A set may be a stranger's, and its configuration may name any file."""
    (item / "own.py").write_text(OWN.replace("FOLDER", str(item)))
    config = item / "synthesize.yaml"
    text = config.read_text().replace("imports: []", f"imports: [{item / 'own.py'}]")
    config.write_text(text)
    assert verdicts(item)[1]["teacher"][0] == "holds"  # it needs none of them
    assert not (item / "ran").exists()
    config.write_text(text.replace(f"name: {toy_teacher}\n", "name: own_cnn_of_a_set\n"))
    code, checks = verdicts(item)
    assert (code, checks["teacher"][0]) == (0, "open")
    assert f"imports {item / 'own.py'}: pass --import FILE, or --trust" in checks["teacher"][1]
    assert not (item / "ran").exists()
    verdicts(item, "--trust")
    assert (item / "ran").exists()


def test_trust_of_a_set_that_names_no_code_is_refused(item, toy_teacher):
    line = refused("verify", item, "--trust")
    assert f"--trust has no effect: {toy_teacher} runs no code; leave it out" in line


def test_damage_and_unfinished_sets_are_refused(item):
    (item / "manifest.json").write_text("{")
    assert "has a manifest that dearkd does not write" in refused("verify", item)
    (item / "manifest.json").unlink()
    assert "go on with dearkd synthesize --resume" in refused("verify", item)

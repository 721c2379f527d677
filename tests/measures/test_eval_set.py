"""`dearkd eval --lpips` and its neighbours: what they print and store, and what they refuse."""

import io
import json
import struct
import zlib

import numpy as np
import pytest
import torch
from PIL import Image
from rich.console import Console
from safetensors.torch import save_file
from test_image_set import make_set
from test_lpips_embedding import random_backbone
from timm.models import generate_default_cfgs, register_model
from torch import nn
from typer.testing import CliRunner

from dearkd.cli.app import app
from dearkd.measures.eval_set import _Judge
from dearkd.measures.fidelity import density_and_coverage, frechet_distance
from dearkd.measures.lpips_weights import load_lpips


@pytest.fixture(scope="module")
def weights(tmp_path_factory):
    file = tmp_path_factory.mktemp("weights") / "alex.safetensors"
    save_file(random_backbone("alex"), file)
    return file


@pytest.fixture
def lpips_of(weights):
    def call(*args):
        return invoke(*args, "--lpips", "--lpips-weights", weights)

    return call


def invoke(*args):
    return CliRunner().invoke(app, ["eval", *map(str, args)])


def answered(result):
    assert result.exit_code == 0, result.output
    return json.loads(result.stdout)


def refused(result):
    assert result.exit_code == 2, result.output
    (line,) = result.stderr.strip().splitlines()
    return line


def finished_set(folder):
    """A folder of images that is a synthetic set by its manifest."""
    make_set(folder, {"a": (32, 32)}, seed=1)
    table = {"names": ["a"], "indices": [3], "total": 10}
    (folder / "manifest.json").write_text(json.dumps({"classes": table}))
    return folder


def pixels_of(folder):
    arrays = [np.array(Image.open(file)) for file in sorted(folder.glob("*.png"))]
    return torch.from_numpy(np.stack(arrays)).permute(0, 3, 1, 2) / 255


@torch.no_grad()
def test_the_numbers_are_means_over_the_pairs_of_a_class_and_of_the_set(
    tmp_path, lpips_of, weights
):
    make_set(tmp_path, {"a": (40, 40), "b": (40, 40)}, count=4)
    Image.new("RGB", (40, 40), "grey").save(tmp_path / "b" / "3.png")
    found = answered(lpips_of(tmp_path, "--json"))
    embedding = load_lpips("alex", weights)
    rows = {name: embedding(pixels_of(tmp_path / name)).double() for name in "ab"}
    within = {name: torch.pdist(part).square().mean().item() for name, part in rows.items()}
    overall = torch.pdist(torch.cat([*rows.values()])).square().mean().item()
    numbers = found["lpips"]
    assert numbers["per_class"]["b"]["mean"] == pytest.approx(within["b"], rel=1e-5)
    assert numbers["within_class"] == pytest.approx(sum(within.values()) / 2, rel=1e-5)
    assert numbers["overall"] == pytest.approx(overall, rel=1e-5)
    assert numbers["net"] == "alex"
    assert numbers["img_size"] == 40
    assert (found["images"], found["classes"]) == (8, 2)
    assert found["versions"]["lpips"]


def test_it_does_not_matter_how_many_images_go_through_at_once(tmp_path, lpips_of):
    make_set(tmp_path, {"a": (40, 40)}, count=5)
    runs = [answered(lpips_of(tmp_path, "--json", "--batch-size", n))["lpips"] for n in (1, 5)]
    for key in ("overall", "overall_standard_error"):
        assert runs[0][key] == pytest.approx(runs[1][key], rel=1e-5)


def test_the_table_says_what_the_numbers_rest_on(tmp_path, lpips_of):
    make_set(tmp_path / "set", {"a": (8, 8), "b": (8, 8)}, count=3)
    (tmp_path / "set" / "b" / "0.png").unlink()
    (tmp_path / "set" / "b" / "1.png").unlink()
    real = make_set(tmp_path / "real", {"a": (50, 50)}, count=6, seed=1)
    result = lpips_of(tmp_path / "set", "--against", real)
    assert result.exit_code == 0, result.output
    for words in (
        "LPIPS (alex), within classes",
        "+/-",
        "reference",
        "frechet distance (LPIPS alex)",
        "coverage",
        "images of 8 px enlarged to 64",
        "1 of 2 classes have one image",
        "fewer images than the 256 dimensions",
    ):
        assert words in result.output


def test_a_synthetic_set_keeps_its_result_and_other_folders_nothing(
    tmp_path, lpips_of, monkeypatch
):
    plain = make_set(tmp_path / "plain", {"a": (32, 32)})
    kept = finished_set(tmp_path / "runs" / "synth-1")
    monkeypatch.chdir(tmp_path)
    newest = answered(lpips_of("--json", "--out", tmp_path / "x.json"))
    assert newest["data"] == "runs/synth-1"
    for file in (kept / "diversity.json", tmp_path / "x.json"):
        assert json.loads(file.read_text()) == newest
    answered(lpips_of(plain, "--json"))
    assert [file.name for file in plain.iterdir()] == ["a"]
    answered(lpips_of(plain, "--json", "--out", tmp_path / "new" / "x.json"))
    for nowhere in ("/proc/x.json", tmp_path / "x.json" / "y.json"):  # before anything is measured
        assert f"cannot write {nowhere}" in refused(invoke("none", "--lpips", "--out", nowhere))


def test_out_replaces_an_earlier_result_and_no_other_file_of_a_set(tmp_path, lpips_of):
    kept = finished_set(tmp_path / "synth-1")
    for file in (kept / "manifest.json", kept / "a" / "0.png"):
        before = file.read_bytes()
        line = refused(lpips_of(kept, "--out", file))
        assert f"--out {file} is a file of a synthetic set; name another one" in line
        assert file.read_bytes() == before
    for file in (kept / "mine.json", kept / "diversity.json", kept / "mine.json"):
        newest = answered(lpips_of(kept, "--json", "--out", file))
        assert json.loads(file.read_text()) == newest


def test_a_set_that_cannot_be_written_to_needs_out(tmp_path, lpips_of):
    kept = finished_set(tmp_path / "synth-1")
    (kept / ".diversity.json.probe").mkdir()  # in the way of what is tried first
    assert refused(lpips_of(kept)).endswith("; add --out FILE")
    result = lpips_of(kept, "--out", tmp_path / "x.json")
    assert result.exit_code == 0, result.output
    assert "diversity.json cannot be written; the result goes to" in result.stderr
    assert (tmp_path / "x.json").is_file()
    assert not (kept / "diversity.json").exists()


def test_the_embedded_network_is_known_by_its_name():
    assert answered(invoke("digits", "--verifier", "digits", "--json"))["verifier"]["top1"] > 95
    result = invoke("digits", "--verifier", "digits", "--verifier-weights", "w.pth")
    assert "digits has its own, leave them out" in refused(result)


def test_features_of_a_network_and_a_verifier(toy_teacher):
    found = answered(
        invoke(
            *("digits", "--features", toy_teacher, "--verifier", toy_teacher, "--json"),
            *("--against", "digits", "--limit", "8"),
        )
    )
    accuracy = answered(invoke(toy_teacher, "--json", "--data", "digits"))["logits"]["top1"]
    everything = answered(invoke("digits", "--verifier", toy_teacher, "--json"))["verifier"]
    assert everything["top1"] == accuracy
    assert everything["count"] == 359
    assert found["verifier"]["count"] == 80
    assert found["features"]["overall"] > found["features"]["within_class"] > 0
    assert found["features"] == found["reference"]["features"]
    assert "lpips" not in found
    near = found["nearness"]
    assert near["frechet_distance"] == pytest.approx(0, abs=1e-6)
    assert near["coverage"] == 1
    assert near["dim"] == 8


@torch.no_grad()
def test_without_a_features_network_sets_are_compared_in_that_of_lpips(tmp_path, lpips_of, weights):
    ours = make_set(tmp_path / "ours", {"a": (40, 40)}, count=6)
    real = make_set(tmp_path / "real", {"a": (40, 40)}, count=7, seed=1)
    near = answered(lpips_of(ours, "--against", real, "--json"))["nearness"]
    embedding = load_lpips("alex", weights)
    features = [embedding.pooled(pixels_of(root / "a")) for root in (ours, real)]
    assert near["frechet_distance"] == pytest.approx(frechet_distance(*features), rel=1e-4)
    assert (near["density"], near["coverage"]) == density_and_coverage(*features)


def test_notes_are_of_what_was_measured_and_a_bad_image_is_named_once(
    tmp_path, toy_teacher, caplog
):
    make_set(tmp_path, {"0": (16, 16), "1": (16, 16)}, count=3)
    file = tmp_path / "1" / "2.png"
    file.write_bytes(file.read_bytes()[:300])
    result = invoke(tmp_path, "--verifier", toy_teacher)
    assert result.exit_code == 0, result.output
    assert "1 unreadable image is left out" in result.output
    assert "standard error" not in result.output
    assert caplog.text.count(str(file)) == 1


def test_one_image_a_class_leaves_the_overall_mean(tmp_path, lpips_of):
    make_set(tmp_path, {"a": (40, 40), "b": (40, 40)}, count=1)
    numbers = answered(lpips_of(tmp_path, "--json"))["lpips"]
    assert numbers["within_class"] is None
    assert numbers["overall"] > 0
    assert "2 of 2 classes have one image" in lpips_of(tmp_path).output
    (tmp_path / "b" / "0.png").unlink()
    (tmp_path / "b").rmdir()
    assert "at least 2 images, got 1" in refused(lpips_of(tmp_path))


def test_a_truncated_image_is_left_out_or_stops(tmp_path, lpips_of):
    make_set(tmp_path, {"a": (40, 40)}, count=4)
    file = tmp_path / "a" / "2.png"
    file.write_bytes(file.read_bytes()[:1500])
    found = answered(lpips_of(tmp_path, "--json"))
    assert found["lpips"]["images"] == 3
    assert list(found["unreadable"]) == [str(file)]
    assert str(file) in refused(lpips_of(tmp_path, "--on-bad-image", "fail"))
    unknown = lpips_of(tmp_path, "--on-bad-image", "ignore")
    assert unknown.exit_code == 2
    assert "is not one of" in unknown.stderr


def hollow_png(width, height):
    """A PNG that claims a size and holds nothing."""
    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    content = b"\x89PNG\r\n\x1a\n"
    for kind, body in ((b"IHDR", header), (b"IDAT", zlib.compress(b""))):
        content += struct.pack(">I", len(body)) + kind + body
        content += struct.pack(">I", zlib.crc32(kind + body))
    return content


def test_one_pixel_and_a_hundred_megapixels(tmp_path, lpips_of):
    make_set(tmp_path, {"a": (40, 40)}, count=2)
    Image.new("RGB", (1, 1), "red").save(tmp_path / "a" / "dot.png")
    Image.new("L", (10_000, 10_000), 128).save(tmp_path / "a" / "large.png", compress_level=1)
    (tmp_path / "a" / "bomb.png").write_bytes(hollow_png(20_000, 20_000))
    found = answered(lpips_of(tmp_path, "--json", "--img-size", "32"))
    assert found["lpips"]["images"] == 4
    ((name, reason),) = found["unreadable"].items()
    assert name.endswith("bomb.png")
    assert "400000000 pixels" in reason


def test_mixed_sizes_are_brought_to_one(tmp_path, lpips_of):
    make_set(tmp_path, {"a": (60, 40), "b": (33, 90)}, count=2)
    found = answered(lpips_of(tmp_path, "--json"))["lpips"]
    assert found["img_size"] == 224
    assert "different sizes (60 x 40, 33 x 90)" in found["images_are"]
    assert answered(lpips_of(tmp_path, "--json", "--img-size", "32"))["lpips"]["img_size"] == 32


@pytest.mark.parametrize(
    ("args", "words"),
    [
        (["digits", "--lpips-net", "vgg"], "nothing to measure; add --lpips or --features"),
        (["digits", "--verifier", "x", "--lpips-net", "vgg"], "--lpips-net vgg has no effect"),
        (["digits", "--lpips", "--features-weights", "w"], "no effect without --features"),
        (["digits", "--verifier", "x", "--against", "digits"], "without --lpips or --features"),
        (
            ["digits", "--lpips", "--data", "digits"],
            "judging a model, not a set of images; leave it out",
        ),
        (["digits", "--lpips", "--seed", "1"], "--seed 1 has no effect without --limit"),
        (["digits", "--lpips", "--limit", "1"], "--limit must be at least 2"),
        (
            ["digits", "--probe", "--against", "digits", "--batch-size", "9"],
            "--batch-size 9 has no effect without --lpips or --features or --verifier; add one",
        ),
        (["digits", "--features", "no_such_net"], "no_such_net"),
        (["nowhere", "--lpips", "--lpips-weights", "w"], "'nowhere' does not exist"),
        (["digits", "--lpips", "--lpips-weights", "nowhere"], "weights nowhere do not exist"),
        (["digits", "--out", "x.json"], "--out x.json is for the measures of a set of images"),
        ([], "missing argument 'target'"),
    ],
)
def test_mistakes_get_one_line(args, words):
    assert words in refused(invoke(*args))


LOOK = {"input_size": (3, 16, 16), "mean": (0.5,) * 3, "std": (0.5,) * 3, "crop_pct": 1.0}
default_cfgs = generate_default_cfgs({"headless": {**LOOK, "interpolation": "bicubic"}})


@register_model
def headless(pretrained=False, **kwargs):
    """A network as another library has it, without timm's methods."""
    network = nn.Sequential(nn.Flatten(), nn.Linear(3 * 16 * 16, 10))
    network.num_classes = 10
    network.pretrained_cfg = dict(LOOK)
    return network


def test_what_cannot_be_measured_is_refused_before_an_image_is_read(
    tmp_path, lpips_of, toy_teacher
):
    make_set(tmp_path / "set", {"0": (16, 16), "1": (16, 16)}, count=3)
    (tmp_path / "set" / "0" / "0.png").write_bytes(b"none")  # told as soon as it is read
    read = ["--on-bad-image", "fail", "--img-size", "32"]
    assert "0.png" in refused(lpips_of(tmp_path / "set", *read))
    few = make_set(tmp_path / "few", {"0": (16, 16)}, count=5)
    line = refused(lpips_of(tmp_path / "set", *read, "--against", few))
    assert "density and coverage need more than 5 real images, got 5; name more of them" in line
    save_file(headless().state_dict(), tmp_path / "headless.safetensors")
    bare = ["--features", "headless", "--features-weights", tmp_path / "headless.safetensors"]
    assert "has no forward_head()" in refused(lpips_of(tmp_path / "set", *read, *bare))
    of_others = make_set(tmp_path / "others", {"cat": (16, 16)}, count=3)
    (of_others / "cat" / "0.png").write_bytes(b"none")
    line = refused(lpips_of(of_others, *read, "--verifier", toy_teacher))
    assert "1 of 1 data classes are unknown to the model" in line


def test_an_empty_folder_and_wrong_weights_get_one_line(tmp_path, lpips_of):
    assert "holds nothing" in refused(lpips_of(tmp_path))
    (tmp_path / "a").mkdir()
    assert "1 class folders (a) but no image in them" in refused(lpips_of(tmp_path))
    line = refused(lpips_of("digits", "--lpips-net", "squeeze"))
    assert "not the backbone of LPIPS (squeeze)" in line


def test_a_bar_shows_a_path_as_it_is():
    """Rich takes square brackets for its markup, and a closing one alone for a mistake."""
    judge, screen = object.__new__(_Judge), io.StringIO()
    judge.console = Console(file=screen, force_terminal=True, width=120)
    with judge._progress("features of photos[old]/and[/new]", 1) as advance:
        advance(1)
    assert "photos[old]/and[/new]" in screen.getvalue()

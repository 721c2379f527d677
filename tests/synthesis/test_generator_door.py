"""`dearkd synthesize --engine generator`, and several teachers by either engine."""

import itertools
import re
import types

import pytest
import timm
import torch
from omegaconf import OmegaConf
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from test_forecast import TRIAL
from test_synthesize import Killed, hashes, invoke, made, manifest, refused
from typer.testing import CliRunner

from dearkd.cli.app import app
from dearkd.errors import UserError
from dearkd.report.collect import collect
from dearkd.report.rows import set_row
from dearkd.report.set_chapter import synthetic_section
from dearkd.synthesis.forecast import _seconds, work_of
from dearkd.synthesis.generator_recipe import generator_recipe
from dearkd.synthesis.live import SynthesisProgress
from dearkd.synthesis.setup import prepare
from dearkd.trained.resolve import EMBEDDED_WEIGHTS
from synth import synthesis
from synth.generator_settings import GeneratorConfig
from synth.groups import plan_groups
from synth.settings import SynthesisConfig

DRAW = ["--engine", "generator"]
ARITHMETIC = ["--set", "precision=fp32", "--set", "layout=contiguous"]
SMALL = ["generator.width=4", "generator.latent_dim=8", "generator.warmup_batches=1"]
SMALL = [word for setting in SMALL for word in ("--set", setting)]
SHORT = [*DRAW, *SMALL, *ARITHMETIC, "--iters", "2", "--per-class", "8"]


@pytest.fixture(scope="module")
def second(tmp_path_factory):
    """Another CNN of the digits: the embedded weights, slightly shaken."""
    file = tmp_path_factory.mktemp("second") / "shaken.safetensors"
    generator = torch.Generator().manual_seed(0)
    state = load_file(EMBEDDED_WEIGHTS)
    for name, value in state.items():
        if name.endswith("conv1.weight"):
            value += 0.01 * torch.randn(value.shape, generator=generator)
    with safe_open(EMBEDDED_WEIGHTS, "pt") as stored:
        save_file(state, file, metadata=stored.metadata())
    return file


@pytest.fixture(scope="module")
def drawn(tmp_path_factory):
    folder = tmp_path_factory.mktemp("drawn") / "set"
    return folder, made(*SHORT, "--out", folder)


def test_a_set_by_a_generator_is_like_any_other(drawn):
    folder, output = drawn
    assert "recognised by the teacher digits: " in output
    assert "next: dearkd train --data" in output
    content = manifest(folder)
    assert len(content["images"]) == 80
    assert content["config"]["engine"] == "generator"
    assert content["config"]["flip_probability"] == 0  # no mirrored digits
    weights = content["config"]["objective"]
    assert (weights["tv_weight"], weights["l2_weight"]) == (0, 0)
    (item,) = collect([folder]).sets
    assert item.engine == "generator"


def test_the_bare_defaults():
    config = prepare(None, [], {"engine": "generator"}).config
    assert (config.resolutions, config.iterations, config.per_class) == ((16,), (8,), 100)
    assert config.images_per_class * config.classes_per_group == 50
    assert config.generator == GeneratorConfig()
    few = prepare(None, [], {"engine": "generator", "images_per_batch": 21}).config
    assert (few.images_per_class, few.classes_per_group) == (4, 5)


@pytest.mark.parametrize("room", [4, 10, 21, 50])
def test_images_per_batch_are_never_exceeded(room):
    teacher = types.SimpleNamespace(name="digits", img_size=16)
    for classes, per_class in itertools.product((2, 3, 5, 10), (3, 20)):
        given = OmegaConf.create({"images_per_batch": room, "per_class": per_class})
        try:
            recipe = generator_recipe(given, teacher, classes)
        except UserError as error:
            given.images_per_batch = int(re.search(r"at least (\d+); use", str(error))[1])
            assert given.images_per_batch > room
            recipe = generator_recipe(given, teacher, classes)
        shape = {key: recipe[key] for key in ("images_per_class", "classes_per_group")}
        groups = plan_groups(SynthesisConfig(per_class=per_class, **shape), classes)
        assert max(len(group.targets) for group in groups) <= given.images_per_batch
        assert "groups_per_batch" not in recipe


@pytest.mark.parametrize("written", [False, True])
def test_a_killed_run_resumes_to_the_same_images(drawn, tmp_path, monkeypatch, written):
    folder = tmp_path / "set"
    write = synthesis.write_state

    def kill(*args):
        if written:
            write(*args)
        raise Killed

    monkeypatch.setattr(synthesis, "write_state", kill)
    with pytest.raises(Killed):
        args = ["synthesize", *map(str, SHORT), "--out", str(folder)]
        CliRunner().invoke(app, args, catch_exceptions=False)
    monkeypatch.undo()
    assert len(list(folder.glob(".parts/chain_*.safetensors"))) == written
    assert not (folder / "manifest.json").exists()
    assert "40 of 80 images are done" in made("--resume", "--out", folder)
    assert hashes(folder) == hashes(drawn[0])


def test_a_warm_up_is_said_to_be_one(tmp_path, monkeypatch):
    told = []

    def step(self, step, done, *, warming_up):
        told.append(warming_up)

    monkeypatch.setattr(SynthesisProgress, "step", step)
    made(*SHORT, "--set", "generator.warmup_batches=3", "--out", tmp_path / "set")
    assert told == [True] * 3 + [False] * 2


def test_a_dry_run_counts_the_warm_up(tmp_path):
    result = invoke("synthesize", *SHORT, "--out", tmp_path / "set", "--dry-run")
    assert "80 images of 10 classes in 2 groups, 2 batches of at most 40 images" in result.output
    assert re.search(r"about 0:00:\d\d \(h:mm:ss\)", result.output)
    assert not (tmp_path / "set").exists()
    seconds = []
    for warm in (0, 5):
        setup = prepare(None, [f"generator.warmup_batches={warm}"], {"engine": "generator"})
        seconds.append(_seconds(setup.synthesis, TRIAL, work_of(setup)))
    assert seconds[1] - seconds[0] == pytest.approx(5 * 8 * TRIAL.seconds[16])


MISTAKES = [
    (
        [*DRAW, "--per-class", "9" * 20, "--images-per-batch", "50"],
        "--per-class must be at most 1000000, got 9999999",
    ),
    ([*DRAW, "--res", "16,32"], "--engine generator makes images of one size, got --res 16,32; w"),
    ([*DRAW, "--res", "224"], "of 16-128 pixels a side, a multiple of 4, got --res 224; write"),
    ([*DRAW, "--fast"], "--fast is for --engine inversion; leave it out"),
    ([*DRAW, "--recipe", "paper"], "--recipe paper is for --engine inversion; leave it out"),
    ([*DRAW, "--auto-weights"], "objective.auto_weights=True has no effect with --engine generat"),
    ([*DRAW, "--set", "lr=0.1"], "--set lr=0.1 has no effect with --engine generator; leave"),
    ([*DRAW, "--set", "generator.chains=99"], "generator.chains must be at most 20, the number of"),
    ([*DRAW, "--images-per-batch", "3"], "images_per_batch must be at least 4"),
    ([*DRAW, "--set", "generator.depth=3"], "unknown config key 'generator.depth'; known in gener"),
    (["--set", "generator.width=9"], "error: --set generator.width=9 has no effect with --engine"),
    (["--set", "engine=gan"], "'gan', expected one of ['inversion', 'generator']"),
    (["--teacher", "digits", "--teacher", EMBEDDED_WEIGHTS], "are the same network; name it once"),
    (["--teacher", "digits", "--teacher", "resnet5"], "unknown teacher 'resnet5'; did you mean"),
    (["--set", "other_teachers=[{name: digits}]"], "other_teachers needs teacher.name"),
]


@pytest.mark.parametrize(
    ("args", "words"), MISTAKES, ids=[" ".join(map(str, m[0])) for m in MISTAKES]
)
def test_a_mistake_gets_one_line(args, words, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert words in refused(*args)
    assert not list(tmp_path.iterdir())


def test_networks_that_do_not_fit_are_refused(tmp_path):
    torch.manual_seed(0)
    file = tmp_path / "convnext.safetensors"
    save_file(timm.create_model("convnext_atto", num_classes=10).state_dict(), file)
    named = ["--teacher", "convnext_atto", "--teacher-weights", file]
    assert "convnext_atto has no BatchNorm2d" in refused(*DRAW, *named, "--res", "32")


@pytest.mark.parametrize("engine", ["inversion", "generator"])
def test_two_teachers_by_either_engine(engine, second, tmp_path):
    few = ["--iters", "2", "--per-class", "4", *ARITHMETIC]
    few += [*DRAW, *SMALL] if engine == "generator" else []
    both = ["--teacher", "digits", "--teacher", second]
    out = tmp_path / "set"
    output = made(*few, *both, "--verifier", second, "--out", out)
    assert f"from digits and {second}, 16 px x 2" in output
    assert "the verifier is one of the teachers: no second opinion" in output
    assert "--teacher digits" in output.partition("next: ")[2]
    content = manifest(out)
    assert content["teacher"]["name"] == "digits"
    assert [one["name"] for one in content["other_teachers"]] == [str(second)]
    assert content["other_teachers"][0]["weights_sha256"] != content["teacher"]["weights_sha256"]
    made("--resume", "--out", out)
    (item,) = collect([out]).sets
    row, page = set_row(item), str(synthetic_section(collect([out]), lambda _: None))
    assert row["other_teachers"] == [str(second)]
    assert f"digits + {second.name}" in page and f"'{engine}'" in page


def test_teachers_of_different_classes_are_refused_by_name(tmp_path):
    torch.manual_seed(0)
    file = tmp_path / "cnn.safetensors"
    save_file(timm.create_model("resnet10t", num_classes=7).state_dict(), file)
    other = "other_teachers=[{name: resnet10t, weights: " + str(file) + "}]"
    line = refused("--teacher", "digits", "--set", other)
    assert "teacher resnet10t has 7 classes, teacher digits 10; it must know the same ones" in line

"""scripts/cifar10_sets.py: what sets are held against, and that its commands name what there is."""

import argparse
import importlib.util
from pathlib import Path

import numpy as np
import pytest
import yaml
from PIL import Image

from dearkd.config_file import user_tree
from dearkd.data.datasets import open_data
from dearkd.synthesis.settings import SynthesizeConfig

ROOT = Path(__file__).parents[2]
SCRIPT = ROOT / "scripts" / "cifar10_sets.py"


@pytest.fixture(scope="module")
def sets():
    spec = importlib.util.spec_from_file_location("cifar10_sets", SCRIPT)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def pixels(source):
    return [np.asarray(source.image(row)).tobytes() for row in range(len(source))]


def test_references_are_balanced_and_no_validation_image_is_among_them(sets, tmp_path, monkeypatch):
    monkeypatch.setattr(sets, "IMAGES", 40)
    pictures = tmp_path / "pictures"
    pictures.mkdir()
    Image.new("RGB", (70, 50), "red").save(pictures / "a.png")
    sets.write_references("digits", pictures, tmp_path)
    real, validation = open_data(
        str(tmp_path / "real.parquet"), evaluation=str(tmp_path / "validation.parquet")
    )
    assert np.bincount(real.labels).tolist() == [4] * 10
    assert len(validation) == 40
    every, _ = open_data(
        str(tmp_path / "real-all.parquet"), evaluation=str(tmp_path / "validation.parquet")
    )
    assert len(every) == len(open_data("digits", validation=40)[0])
    assert set(pixels(real)) <= set(pixels(every))
    assert not set(pixels(every)) & set(pixels(validation))
    _, held_out = open_data("digits", validation=40)
    assert pixels(validation) == pixels(held_out)
    assert not set(pixels(real)) & set(pixels(validation))


def test_crops_are_of_every_picture_as_often(sets, tmp_path, monkeypatch):
    monkeypatch.setattr(sets, "IMAGES", 6)
    files = []
    for name in ("red", "blue"):
        files.append(tmp_path / f"{name}.png")
        Image.new("RGB", (70, 50), name).save(files[-1])
    made = list(sets.crops(files, np.random.default_rng(0)))
    assert {image.size for image in made} == {(32, 32)}
    assert [image.getpixel((0, 0))[0] for image in made] == [255, 0] * 3


def test_commands_name_what_there_is(sets, tmp_path):
    args = argparse.Namespace(out=tmp_path, groups=2, set=[])
    for name, (config, images, seed, settings) in sets.SETS.items():
        line = sets.command(name, args)
        written = yaml.safe_load((ROOT / "configs" / "synth" / config).read_text())
        assert ("groups_per_batch=2" in line) == (written.get("engine") != "generator")
        assert line[line.index("--per-class") + 1] == str(images // 10)
        assert line[line.index("--seed") + 1] == str(seed)
        user_tree(SynthesizeConfig, ROOT / "configs" / "synth" / config, settings, None)


def test_the_studies_sets_are_among_them(sets):
    names = ("real", "real-all", "noise", "pictures", "validation")
    references = {f"{name}.parquet" for name in names}
    for study in (
        "cifar10_data_free",
        "cifar10_data_free_main",
        "cifar10_data_free_long",
        "cifar10_boundary",
    ):
        text = (ROOT / "configs" / "studies" / f"{study}.yaml").read_text()
        trained = yaml.safe_load(text)
        named = [str(trained["settings"]["data"][part]) for part in ("train", "evaluation")]
        named += [_train(arm) for arm in trained["arms"].values()]
        for name in filter(None, named):
            for seed in trained["seeds"]:
                folder = Path(name.format(seed=seed)).name
                assert folder in {*sets.SETS, *references}, (study, folder)


def _train(arm):
    return arm.get("data.train") or arm.get("data", {}).get("train")

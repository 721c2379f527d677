import dataclasses
from pathlib import Path

import pytest
import timm
import yaml
from omegaconf import OmegaConf

from dearkd.config_file import to_yaml
from dearkd.data.synthetic_set import CONFIG_FILE, SETTINGS_FILE
from dearkd.errors import UserError
from dearkd.synthesis.set_recipe import recipe_for
from dearkd.synthesis.setup import prepare
from synth.classifier import Classifier

BALANCED = {"recipe": "balanced"}


def chosen(size, classes=4, std=(0.2,), made=None, **given):
    network = timm.create_model("resnet10t", num_classes=classes)
    teacher = Classifier(
        name="mine", network=network, mean=(0.4,), std=std, img_size=size, num_classes=classes
    )
    return recipe_for(OmegaConf.create(given), teacher, made or classes, mirrored=True)


def test_the_papers_weights_are_the_default():
    recipe, notes = chosen(224)
    assert recipe["resolutions"] == [112, 224] and recipe["iterations"] == [2000, 2000]
    assert recipe["objective"] == {} and "smallest_crop" not in recipe
    assert not any("objective" in note for note in notes)


@pytest.mark.parametrize(("size", "crop", "basis"), [(224, 0.5, None), (32, None, "spectrum")])
def test_balanced_zooms_where_the_teacher_saw_crops(size, crop, basis):
    recipe, notes = chosen(size, recipe="balanced")
    assert (recipe.get("smallest_crop"), recipe.get("basis")) == (crop, basis)
    assert recipe["objective"]["bn_relative"] and recipe["lr"] == (0.1 if basis else 0.25)
    assert f"objective.bn_weight {recipe['objective']['bn_weight']}" in notes


@pytest.mark.parametrize(("classes", "per_class"), [(10, 1000), (100, 100), (5000, 10)])
def test_balanced_small_images_are_for_a_student_of_soft_labels(classes, per_class):
    recipe, notes = chosen(32, classes, recipe="balanced")
    assert (recipe["iterations"], recipe["per_class"]) == ([100], per_class)
    weights = recipe["objective"]
    assert (weights["ce_weight"], weights["ep_weight"], weights["triplet_weight"]) == (0.1, 0, 0)
    assert "objective.ce_weight 0.1" in notes


def test_balanced_small_images_are_those_of_the_measured_configuration():
    """CIFAR-10's, whose students are in RESULTS.md."""
    file = Path(__file__).parents[2] / "configs" / "synth" / "cifar10_spectrum_deepinversion.yaml"
    measured = yaml.safe_load(file.read_text())
    measured.pop("teacher")
    recipe, _ = chosen(32, 10, std=(0.5,), recipe="balanced")
    assert {key: recipe[key] for key in measured} == measured


def test_a_given_batch_takes_the_recipes_groups():
    recipe, _ = chosen(32, 10, recipe="balanced", images_per_batch=200)
    assert (recipe["images_per_class"], recipe["classes_per_group"]) == (10, 10)
    assert recipe["groups_per_batch"] == 2


def test_fast_images_by_their_spectrum_are_an_eighth_of_the_balanced_ones():
    fast, balanced = (chosen(32, 10, **given)[0] for given in ({"fast": True}, BALANCED))
    assert fast == balanced | {"per_class": 125}
    assert chosen(32, 10, fast=True, per_class=50)[0] == fast  # a typed number goes before it


def test_some_of_the_classes_get_as_many_images_as_they_would_among_all():
    assert chosen(32, 100, made=2, **BALANCED)[0]["per_class"] == 100


@pytest.mark.parametrize("given", [BALANCED, {"fast": True}])
def test_small_images_by_their_pixels_keep_weights_and_iterations_for_pixels(given):
    recipe, _ = chosen(32, 10, basis="pixels", **given)
    weights = recipe["objective"]
    assert (weights.get("ce_weight"), weights["ep_weight"]) == (None, 1.0)
    assert recipe["iterations"] == [250 if "fast" in given else 2000]
    assert "per_class" not in recipe


def test_the_spectrums_step_is_the_same_in_every_normalisation():
    assert {chosen(32, 10, std=(std,), **BALANCED)[0]["lr"] for std in (0.2, 0.5)} == {0.1}


def test_a_set_from_before_a_setting_keeps_that_settings_default(tmp_path, toy_teacher):
    """Its own file is read again to resume it, to make lost images and to repeat it."""
    options = {"teacher.name": str(toy_teacher), "resolutions": [16], "recipe": "balanced"}
    config = prepare(None, [], options).config
    assert config.basis == "spectrum"
    lines = to_yaml(config).splitlines(keepends=True)
    old = tmp_path / CONFIG_FILE
    old.write_text("".join(line for line in lines if not line.startswith("basis:")))
    (tmp_path / SETTINGS_FILE).write_text("{}")
    assert prepare(old, []).config == dataclasses.replace(config, basis="pixels")
    assert prepare(old, [], {"recipe": "balanced"}).config.basis == "pixels"
    for idle in ({"fast": True}, {"recipe": "paper"}, {"images_per_batch": 200}):
        with pytest.raises(
            UserError, match=r"=\w+ has no effect beside .*, which has all settings"
        ):
            prepare(old, [], idle)


def test_a_users_file_may_have_the_name_of_a_sets_own(tmp_path, toy_teacher):
    file = tmp_path / CONFIG_FILE
    file.write_text(f"teacher: {{name: {toy_teacher}}}\nresolutions: [16]\nrecipe: balanced\n")
    config = prepare(file, []).config
    assert (config.basis, config.objective.bn_relative) == ("spectrum", True)


def test_what_is_given_is_not_announced_as_chosen():
    _, notes = chosen(224, recipe="balanced", lr=0.1, objective={"bn_weight": 3.0})
    assert not any(note.startswith(("lr", "objective.bn_weight")) for note in notes)
    assert "smallest_crop 0.5" in notes

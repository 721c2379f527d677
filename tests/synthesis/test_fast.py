"""``--fast``, and the groups a batch that fit on a card."""

import pytest
import timm
import torch
from omegaconf import OmegaConf

from dearkd.config_file import to_yaml
from dearkd.errors import UserError
from dearkd.synthesis import set_recipe
from dearkd.synthesis.set_batches import groups_that_fit
from dearkd.synthesis.set_recipe import FAST, recipe_for
from dearkd.synthesis.setup import prepare
from synth.classifier import Classifier


def test_fast_takes_an_eighth_of_the_iterations():
    whole, fast = (prepare(None, [], {"fast": fast}) for fast in (None, True))
    assert fast.config.iterations == (whole.config.iterations[0] // FAST,)
    assert fast.config.per_class == whole.config.per_class
    assert fast.config.objective.bn_weight < whole.config.objective.bn_weight
    assert fast.config.lr > whole.config.lr
    assert {"iterations 62", "lr 0.4", "objective.bn_weight 1.0"} <= set(fast.notes)


@pytest.mark.parametrize("own", [False, True], ids=["digits", "by their spectrum"])
def test_a_set_that_was_begun_with_it_goes_on(own, tmp_path, toy_teacher):
    """Its file has the iterations that --fast stood for, beside --fast."""
    teacher = {"teacher.name": str(toy_teacher)} if own else {}
    begun = prepare(None, [], {"fast": True, **teacher}).config
    file = tmp_path / "synthesize.yaml"
    file.write_text(to_yaml(begun))
    assert prepare(file, (), stored=True).config == begun
    (tmp_path / "settings.json").write_text("{}")
    assert prepare(file, ()).config == begun  # a new set by the same file


def test_where_an_eighth_is_still_long_the_balanced_recipe_stays_as_it_is():
    network = timm.create_model("resnet10t", num_classes=4)
    teacher = Classifier(
        name="mine", network=network, mean=(0.4,), std=(0.2,), img_size=224, num_classes=4
    )
    fast, balanced = (
        recipe_for(OmegaConf.create(given), teacher, 4, mirrored=True)[0]
        for given in ({"fast": True}, {"recipe": "balanced"})
    )
    assert fast == balanced | {"iterations": [250, 250]}


def test_what_is_given_beside_fast_is_kept():
    config = prepare(None, ["lr=0.07", "objective.bn_weight=3"], {"fast": True}).config
    assert (config.lr, config.objective.bn_weight) == (0.07, 3.0)


def test_fast_and_iterations_exclude_each_other():
    with pytest.raises(UserError, match="--fast sets the iterations; leave --iters out, or --fast"):
        prepare(None, [], {"fast": True, "iterations": [50]})


def test_fast_has_weights_of_its_own():
    with pytest.raises(UserError, match="--fast has weights of its own"):
        prepare(None, [], {"fast": True, "recipe": "paper"})


@pytest.mark.parametrize(
    ("room", "images", "groups", "fit"),
    [
        (200, 40, 1250, 5),
        (2000, 40, 1250, 8),  # at most
        (2000, 40, 24, 3),  # eight batches, for as many processes
        (2000, 40, 3, 1),
        (20, 40, 1250, 1),  # less than one: --images-per-batch is the remedy
    ],
)
def test_groups_by_the_room_of_a_batch(room, images, groups, fit):
    assert groups_that_fit(room, images, groups) == fit


@pytest.mark.parametrize(("size", "groups"), [(16, 2), (32, 1)])
def test_a_cpu_gets_several_groups_where_images_are_tiny(size, groups):
    if torch.cuda.is_available():
        pytest.skip("a GPU's memory decides")
    setup = prepare(None, [], {"resolutions": [size], "per_class": 100})
    assert setup.config.groups_per_batch == groups
    assert ("groups_per_batch 2" in setup.notes) is (groups == 2)


def test_a_card_gets_as_many_groups_as_its_memory_holds(monkeypatch):
    class Card:
        total_memory = 80 * 2**30

    monkeypatch.setattr(set_recipe.torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "current_device", lambda: 0)
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda _: Card())
    setup = prepare(None, [])
    assert setup.config.groups_per_batch == len(setup.groups) // 8 == 3
    assert "groups_per_batch 3" in setup.notes
    assert prepare(None, ["groups_per_batch=2"]).config.groups_per_batch == 2
    Card.total_memory = 2**20
    assert prepare(None, []).config.groups_per_batch == 1

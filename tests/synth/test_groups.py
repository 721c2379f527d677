from collections import Counter

import pytest
import torch

from synth.groups import batches_of, generator_for, plan_groups, seed_for
from synth.objective_settings import ObjectiveConfig
from synth.settings import SynthesisConfig

OFF = ObjectiveConfig(ep_weight=0, triplet_weight=0)


def config(**kwargs):
    return SynthesisConfig(
        **({"per_class": 6, "images_per_class": 3, "classes_per_group": 4} | kwargs)
    )


@pytest.mark.parametrize("per_class", [2, 5, 7, 50])
@pytest.mark.parametrize("images_per_class", [2, 3, 8])
@pytest.mark.parametrize(("classes", "classes_per_group"), [(2, 10), (5, 2), (9, 4), (10, 10)])
def test_every_class_gets_its_images_and_every_anchor_its_partners(
    per_class, images_per_class, classes, classes_per_group
):
    groups = plan_groups(
        config(
            per_class=per_class,
            images_per_class=images_per_class,
            classes_per_group=classes_per_group,
        ),
        classes,
    )
    total = Counter(target for group in groups for target in group.targets)
    assert total == dict.fromkeys(range(classes), per_class)
    assert [group.id for group in groups] == list(range(len(groups)))
    for group in groups:
        counts = Counter(group.targets)
        assert len(counts) >= 2 and min(counts.values()) >= 2
        assert max(counts.values()) <= images_per_class + 1
        assert len(counts) <= classes_per_group + 1


def test_classes_meet_others_in_the_next_share_of_images():
    groups = plan_groups(config(seed=1), 12)
    met = [{frozenset(group.targets) for group in groups[i : i + 3]} for i in (0, 3)]
    assert met[0] != met[1]
    assert groups == plan_groups(config(seed=1), 12)
    assert groups != plan_groups(config(seed=2), 12)


def test_named_classes_keep_the_teachers_indices():
    groups = plan_groups(config(classes=(90, 7, 41)), 100)
    assert {target for group in groups for target in group.targets} == {7, 41, 90}


def test_a_batch_holds_groups_of_one_size():
    groups = plan_groups(config(per_class=7, images_per_class=3, classes_per_group=4), 8)
    sizes = [[len(group.targets) for group in batch] for batch in batches_of(groups, 4)]
    assert sizes == [[12, 12], [8, 8, 8, 8]]
    assert [len(batch) for batch in batches_of(groups, 1)] == [1] * 6


def test_seeds_differ_for_everything_they_are_made_of():
    seeds = {seed_for(*parts) for parts in [(0, 1), (1, 0), (0, 11), (0, 1, 1), (0, 1, "noise")]}
    assert len(seeds) == 5 and all(0 <= seed < 2**63 for seed in seeds)
    assert seed_for(0, 1, "noise") == 967521566771698767
    first, second = (torch.rand(2, generator=generator_for(3, 4)) for _ in range(2))
    assert torch.equal(first, second)


@pytest.mark.parametrize(
    ("kwargs", "classes", "message"),
    [
        (
            {"per_class": 1},
            4,
            "per_class must be at least 2, got 1: .* no positive; use per_class=2, or "
            "objective.ep_weight=0 objective.triplet_weight=0",
        ),
        ({"images_per_class": 1}, 4, "images_per_class must be at least 2, got 1"),
        ({"classes_per_group": 1}, 4, "classes_per_group must be at least 2, .* no negative"),
        (
            {"classes": (2,)},
            4,
            "the number of classes must be at least 2, got 1: .* no negative; raise it, or use "
            "objective.ep_weight=0 objective.triplet_weight=0",
        ),
        ({"classes": (0, 4)}, 4, "class 4 is not one of the teacher's 4 classes; .* 0-3"),
    ],
)
def test_groups_that_cannot_be(kwargs, classes, message):
    with pytest.raises(ValueError, match=message):
        plan_groups(config(**kwargs), classes)


def test_without_the_boundary_loss_single_images_are_fine():
    groups = plan_groups(config(objective=OFF, per_class=1, classes=(3,)), 4)
    assert [group.targets for group in groups] == [(3,)]

import dataclasses

import pytest
import torch
from toy_nets import classifier, random_net

from synth.auto_weights import tune_bn_weight
from synth.groups import Group
from synth.inversion import invert
from synth.objective import Objective
from synth.objective_settings import ObjectiveConfig
from synth.settings import SynthesisConfig

GROUPS = (Group(id=4, targets=(0, 0, 1, 1)), Group(id=9, targets=(2, 2, 3, 3)))
CPU = torch.device("cpu")


def config(**kwargs):
    settings = {"resolutions": (8, 16), "iterations": (6, 6), "log_interval": 2}
    return SynthesisConfig(**(settings | kwargs))


def objective(weights):
    return Objective(classifier(random_net()), weights)


@pytest.mark.parametrize("start", [1e-4, 50.0])
def test_auto_weights_bring_the_term_into_range(start):
    weights = ObjectiveConfig(bn_weight=start, ep_weight=1.0, auto_weights=True, auto_iterations=20)
    target = objective(weights)
    settings = config(objective=weights, iterations=(30, 6))
    weight = tune_bn_weight(invert, target, GROUPS[:1], settings, CPU)
    assert weight == target.bn_weight and weight != start
    pilot = dataclasses.replace(settings, resolutions=(8,), iterations=(20,))
    *_, last = invert(target, GROUPS[:1], pilot, CPU)
    assert 1 <= weight * last.terms["bn_statistics"][0] <= 10


def test_auto_weights_that_cannot_reach_the_range(monkeypatch):
    monkeypatch.setattr("synth.auto_weights.PILOTS", 1)
    weights = ObjectiveConfig(bn_weight=1e-6, auto_weights=True, auto_iterations=2)
    with pytest.raises(ValueError, match="after 1 pilot runs, wanted 1-10; set bn_weight by hand"):
        tune_bn_weight(invert, objective(weights), GROUPS, config(objective=weights), CPU)


def test_pilots_are_made_as_the_run_itself_makes_images():
    weights = ObjectiveConfig(ep_weight=1.0, auto_weights=True, auto_iterations=4)
    seen = []

    def far_from_the_statistics(target, groups, settings, device):
        seen.append((settings.resolutions, settings.iterations))
        for step in invert(target, groups, settings, device):
            yield dataclasses.replace(step, terms=step.terms | {"bn_statistics": [1000.0]})

    target = objective(weights)
    settings = config(objective=weights)
    weight = tune_bn_weight(far_from_the_statistics, target, GROUPS[:1], settings, CPU)
    assert weight == pytest.approx(10**0.5 / 1000)
    assert seen == [((8,), (4,))] * 2

import math

import pytest
import torch
from torch import nn
from toy_nets import MEAN, STD, classifier, random_net

from synth.classifier import pixel_range
from synth.groups import Group, generator_for
from synth.objective import Objective, targets_of
from synth.objective_settings import ObjectiveConfig
from synth.settings import SynthesisConfig
from synth.stage import draw_stage_views, learning_rate, resized, run_stage

GROUPS = (Group(id=4, targets=(0, 0, 1, 1)), Group(id=9, targets=(2, 2, 3, 3)))
CPU = torch.device("cpu")
WEIGHTS = ObjectiveConfig(ep_weight=1.0)


def test_learning_rate_values():
    rates = [learning_rate(i, 1000, 0.2, 100) for i in range(1000)]
    assert rates[0] == pytest.approx(0.002)
    assert rates[99] == rates[100] == pytest.approx(0.2)
    assert rates[550] == pytest.approx(0.1)
    assert rates[999] == pytest.approx(0.1 * (1 + math.cos(math.pi * 899 / 900)))
    assert rates[100:] == sorted(rates[100:], reverse=True)


def test_a_short_stage_warms_up_for_a_quarter():
    assert [learning_rate(i, 8, 1.0, 100) for i in range(3)] == [0.5, 1.0, 1.0]
    assert learning_rate(0, 3, 1.0, 100) == 1.0


class Generated(nn.Module):
    """A generator, the smallest there is: a latent of each image, and a layer shared by all."""

    def __init__(self, seed: int) -> None:
        super().__init__()
        noise = [torch.randn(4, 6, generator=generator_for(seed, g.id, "noise")) for g in GROUPS]
        self.latent = nn.Parameter(torch.cat(noise))
        self.layer = nn.Linear(6, 3 * 16 * 16)
        nn.init.normal_(self.layer.weight, generator=generator_for(seed, "layer"))
        nn.init.zeros_(self.layer.bias)
        self.low, self.high = pixel_range(MEAN, STD, self.latent)
        self.limited = 0

    def images(self):
        unit = self.layer(self.latent).sigmoid().view(-1, 3, 16, 16)
        return self.low + (self.high - self.low) * unit

    def limit(self):
        self.limited += 1


def config(**kwargs):
    settings = {"resolutions": (8, 16), "iterations": (20, 20), "log_interval": 10}
    return SynthesisConfig(**(settings | {"objective": WEIGHTS} | kwargs))


def generate(**kwargs):
    """What a module beside inversion.py would do: both stages, a learning rate for each part."""
    settings, drawing = config(**kwargs), Generated(seed=0)
    target = Objective(classifier(random_net()), WEIGHTS)
    steps = []
    for stage in range(2):
        parts = [
            {"params": drawing.layer.parameters(), "lr": 0.02},
            {"params": [drawing.latent], "lr": 0.1},
        ]
        optimizer = torch.optim.Adam(parts)
        targets = targets_of(GROUPS, WEIGHTS, CPU)
        steps += run_stage(target, drawing, optimizer, targets, GROUPS, settings, stage)
    return drawing, optimizer, steps


def test_another_way_to_make_images_runs_on_the_same_loop():
    drawing, optimizer, steps = generate(grad_norm_interval=20)
    seen = [(step.stage, step.resolution, step.iteration) for step in steps]
    assert seen == [(0, 8, 10), (0, 8, 20), (1, 16, 10), (1, 16, 20)]
    assert drawing.limited == 40
    assert torch.equal(steps[-1].images, drawing.images().detach())
    assert not steps[-1].images.requires_grad
    assert sum(steps[-1].terms["objective"]) < sum(steps[0].terms["objective"])
    assert all(norm > 0 for name, norm in steps[-1].grad_norms.items() if name != "triplet")
    rates = [part["lr"] for part in optimizer.param_groups]
    assert rates == [learning_rate(19, 20, peak, 100) for peak in (0.02, 0.1)]


def test_the_best_of_drawn_images_is_the_one_that_was_judged():
    every = {"log_interval": 1, "iterations": (4, 12)}
    _, _, steps = generate(**every)
    _, _, best = generate(**every, keep="best")
    last_stage = [step for step in steps if step.stage == 1]
    drawn = [steps[3].images] + [step.images for step in last_stage]  # before each iteration
    for row in range(2):
        values = [step.terms["objective"][row] for step in last_stage]
        rows = slice(4 * row, 4 * row + 4)
        assert torch.equal(best[-1].images[rows], drawn[values.index(min(values))][rows])


def test_views_of_a_group_do_not_depend_on_its_batch():
    settings = config(smallest_crop=0.5)
    both = draw_stage_views(GROUPS, settings, 0, CPU)
    alone = draw_stage_views(GROUPS[1:], settings, 0, CPU)
    assert both.shifts.shape == both.boxes.shape == (20, 8, 3)
    assert torch.equal(both.shifts[:, 4:], alone.shifts)
    assert torch.equal(both.boxes[:, 4:], alone.boxes)
    assert draw_stage_views(GROUPS, config(), 0, CPU).boxes is None


def test_resized_averages_down_and_keeps_what_fits():
    images = torch.arange(16.0).view(1, 1, 4, 4)
    assert resized(images, 4) is images
    assert resized(images, 2).flatten().tolist() == [2.5, 4.5, 10.5, 12.5]
    assert resized(images, 8).shape == (1, 1, 8, 8)

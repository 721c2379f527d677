import dataclasses
import math

import pytest
import torch
from toy_nets import MEAN, STD, classifier, random_net

from synth.groups import Group
from synth.inversion import first_canvas, invert
from synth.objective import Objective
from synth.objective_settings import ObjectiveConfig
from synth.settings import SynthesisConfig

GROUPS = (Group(id=4, targets=(0, 0, 1, 1)), Group(id=9, targets=(2, 2, 3, 3)))
CPU = torch.device("cpu")
WEIGHTS = ObjectiveConfig(ep_weight=1.0)


def config(**kwargs):
    settings = {"resolutions": (8, 16), "iterations": (6, 6), "log_interval": 2}
    return SynthesisConfig(**(settings | {"objective": WEIGHTS} | kwargs))


def objective(weights=WEIGHTS, dtype=torch.float32):
    net = random_net().to(dtype)
    return Objective(classifier(net), weights, dtype=dtype)


def run(groups=GROUPS, dtype=torch.float32, **kwargs):
    settings = config(**kwargs)
    return list(invert(objective(settings.objective, dtype), groups, settings, CPU))


@pytest.mark.parametrize("basis", ["pixels", "spectrum"])
def test_first_noise_is_each_groups_own(basis):
    both = first_canvas(GROUPS, config(basis=basis), MEAN, STD)
    assert both.shape == (8, 3, 8, 8)
    assert torch.equal(both[4:], first_canvas(GROUPS[1:], config(basis=basis), MEAN, STD))
    assert not torch.equal(both[:4], both[4:])
    assert not torch.equal(both, first_canvas(GROUPS, config(basis=basis, seed=1), MEAN, STD))
    pooled = first_canvas(GROUPS, config(canvas="pooled", basis=basis), MEAN, STD)
    assert pooled.shape == (8, 3, 16, 16)


def test_stages_and_steps():
    steps = run()
    seen = [(step.stage, step.resolution, step.iteration) for step in steps]
    assert seen == [(0, 8, 2), (0, 8, 4), (0, 8, 6), (1, 16, 2), (1, 16, 4), (1, 16, 6)]
    assert [step.images.shape[-1] for step in steps] == [8, 8, 8, 16, 16, 16]
    assert all(len(values) == 2 for values in steps[0].terms.values())
    assert steps[0].grad_norms == {}


@pytest.mark.parametrize("basis", ["pixels", "spectrum"])
def test_a_pooled_canvas_is_whole_from_the_start(basis):
    assert {step.images.shape[-1] for step in run(canvas="pooled", basis=basis)} == {16}


@pytest.mark.parametrize("basis", ["pixels", "spectrum"])
def test_pixels_stay_in_the_valid_range(basis):
    images = run(lr=5.0, basis=basis)[-1].images
    for channel, (mean, std) in enumerate(zip(MEAN, STD, strict=True)):
        low, high = images[:, channel].min().item(), images[:, channel].max().item()
        rounding = {"abs": 1e-5} if basis == "spectrum" else {}  # a thousandth of an 8-bit step
        assert low == pytest.approx(-mean / std, **rounding)
        assert high == pytest.approx((1 - mean) / std, **rounding)


def test_a_whole_run_is_the_same_alone_and_in_a_batch():
    kwargs = {"iterations": (20, 20), "dtype": torch.float64}
    together = run(**kwargs)[-1].images.chunk(2)
    for group, images in zip(GROUPS, together, strict=True):
        torch.testing.assert_close(run((group,), **kwargs)[-1].images, images, rtol=0, atol=1e-9)


@pytest.mark.parametrize("basis", ["pixels", "spectrum"])
@pytest.mark.parametrize("smallest_crop", [1.0, 0.5])
def test_one_step_is_the_same_alone_and_in_a_batch(smallest_crop, basis):
    kwargs = {
        "resolutions": (8,),
        "iterations": (1,),
        "dtype": torch.float64,
        "smallest_crop": smallest_crop,
        "basis": basis,
    }
    together = run(**kwargs)[-1]
    alone = run(GROUPS[1:], **kwargs)[-1]
    torch.testing.assert_close(together.images[4:], alone.images, rtol=1e-10, atol=1e-12)
    for name, values in alone.terms.items():
        assert together.terms[name][1] == pytest.approx(values[0], rel=1e-10)


def test_crops_change_what_is_seen_and_nothing_of_the_other_draws():
    cropped, whole = (run(smallest_crop=share, iterations=(1, 1)) for share in (0.5, 1.0))
    assert not torch.equal(cropped[-1].images, whole[-1].images)
    untouched = run(smallest_crop=1 - 1e-12, iterations=(1, 1))  # squares of the whole image
    torch.testing.assert_close(untouched[-1].images, whole[-1].images, rtol=1e-3, atol=1e-3)


def test_best_is_of_the_last_stage_and_a_copy():
    rough = {"lr": 2.0, "jitter_fraction": 0.4, "iterations": (4, 12), "log_interval": 1}
    steps = run(**rough)
    best = run(**rough, keep="best")
    last_stage = [step for step in steps if step.stage == 1]
    canvases = [None] + [step.images for step in last_stage]  # before each iteration
    for row in range(2):
        values = [step.terms["objective"][row] for step in last_stage]
        chosen = values.index(min(values))
        assert 0 < chosen < 11  # neither the start nor the last: the test could fail
        rows = slice(4 * row, 4 * row + 4)
        assert torch.equal(best[-1].images[rows], canvases[chosen][rows])


def test_what_is_optimised_matters():
    assert not torch.equal(run()[-1].images, run(basis="spectrum")[-1].images)


def test_the_first_stage_matters_to_the_second():
    assert not torch.equal(run()[-1].images, run(iterations=(1, 6))[-1].images)


def test_gradient_norms_on_demand():
    steps = run(grad_norm_interval=4)
    assert [bool(step.grad_norms) for step in steps] == [False, True, False] * 2
    names = {"cross_entropy", "total_variation", "l2", "bn_statistics", "easy_positive", "triplet"}
    assert set(steps[1].grad_norms) == names
    assert all(norm > 0 for name, norm in steps[1].grad_norms.items() if name != "triplet")


def test_gradient_norms_between_two_signs_of_life_are_told_too():
    steps = run(grad_norm_interval=2, log_interval=5, iterations=(6, 6))
    told = [(step.iteration, bool(step.grad_norms)) for step in steps if step.stage == 0]
    assert told == [(2, True), (4, True), (5, False), (6, True)]


def test_ep_warmup_starts_low():
    slow = dataclasses.replace(WEIGHTS, ep_warmup_iterations=10)
    first, again = run(objective=slow)[0], run()[0]
    gap = again.terms["objective"][0] - first.terms["objective"][0]
    assert gap == pytest.approx(0.8 * again.terms["easy_positive"][0], rel=0.1)


def test_what_is_not_finite_stops_the_run():
    broken = objective()
    broken.guides[0].classifier.weight.data.fill_(math.nan)
    with pytest.raises(FloatingPointError, match=r"cross_entropy is .* after 2 iterations at 8 px"):
        list(invert(broken, GROUPS, config(), CPU))

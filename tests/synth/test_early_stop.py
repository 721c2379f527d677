"""A group stops by its own terms, at images that the same group alone has at that iteration."""

import hashlib
import json
from itertools import takewhile

import pytest
import torch
from toy_nets import classifier, random_net

from synth.groups import Group
from synth.inversion import invert
from synth.kernels import Kernels, build_objective
from synth.objective import Objective
from synth.objective_settings import ObjectiveConfig
from synth.refusal import SynthError
from synth.settings import SynthesisConfig
from synth.synthesis import GroupDone, synthesize

GROUPS = tuple(
    Group(id=id, targets=targets)
    for id, targets in ((4, (0, 0, 1, 1)), (9, (2, 2, 3, 3)), (11, (0, 0, 3, 3)))
)
WEIGHTS = ObjectiveConfig(ep_weight=1.0, bn_weight=1.0)
RULE = {"stop_cross_entropy": 1.5, "stop_bn_fall": 0.1, "stop_window": 10}


def config(**kwargs):
    settings = {"resolutions": (8, 16), "iterations": (60, 20), "log_interval": 5, "lr": 0.1}
    return SynthesisConfig(**(settings | {"objective": WEIGHTS} | kwargs))


def run_through(groups, **kwargs):
    objective = Objective(classifier(random_net().double()), WEIGHTS, dtype=torch.float64)
    return invert(objective, groups, config(**kwargs), torch.device("cpu"))


def steps_of(groups, **kwargs):
    return list(run_through(groups, **kwargs))


def first_stage(groups, **kwargs):
    return list(takewhile(lambda step: step.stage == 0, run_through(groups, **kwargs)))


@pytest.fixture(scope="module")
def alone():
    """The first stage of each group by itself, which nothing stops."""
    return [first_stage((group,)) for group in GROUPS]


def stops(steps, stage, group):
    """The rule in slow form: the first read at which it is met, from the terms of a whole run."""
    reads = {step.iteration: step.terms for step in steps if step.stage == stage}
    for iteration, terms in reads.items():
        if iteration <= RULE["stop_window"]:
            continue
        now = terms["bn_statistics"][group]
        before = reads[iteration - RULE["stop_window"]]["bn_statistics"][group]
        slow = (before - now) / before < RULE["stop_bn_fall"]
        if terms["cross_entropy"][group] < RULE["stop_cross_entropy"] and slow:
            return iteration
    return None


def test_a_stopped_group_is_that_group_alone_after_as_many_iterations(alone):
    stopped = first_stage(GROUPS, **RULE)
    at = stopped[-1].stopped
    for index, steps in enumerate(alone):
        assert at[index] == stops(steps, 0, 0)
        there = next(step for step in steps if step.iteration == (at[index] or 60))
        ours = stopped[-1].images.chunk(len(GROUPS))[index]
        torch.testing.assert_close(ours, there.images, rtol=1e-9, atol=1e-9)
    assert len(set(at)) > 1  # else it shows nothing


def test_alone_the_images_are_the_same_bits_and_the_rest_is_saved(alone):
    for group, whole in zip(GROUPS, alone, strict=True):
        cut = first_stage((group,), **RULE)
        at = cut[-1].stopped[0]
        if at is not None:
            assert cut[-1].iteration == at < whole[-1].iteration
        same = next(step for step in whole if step.iteration == cut[-1].iteration)
        assert torch.equal(cut[-1].images, same.images)


def test_a_batch_goes_on_from_the_images_that_its_groups_stopped_with():
    both = steps_of(GROUPS, **RULE)
    for index, group in enumerate(GROUPS):
        alone = steps_of((group,), **RULE)
        assert alone[-1].stage == 1
        torch.testing.assert_close(
            both[-1].images.chunk(len(GROUPS))[index], alone[-1].images, rtol=1e-7, atol=1e-7
        )


def test_it_is_off_by_default():
    settings = {"resolutions": (8,), "iterations": (60,)}
    assert {step.stopped for step in steps_of(GROUPS[:1], **settings)} == {(None,)}


def run_of(teacher, out, **kwargs):
    settings = config(
        per_class=4, images_per_class=2, classes_per_group=2, precision="fp32", layout="contiguous"
    )
    values = {name: getattr(settings, name) for name in settings.__dataclass_fields__}
    return synthesize(SynthesisConfig(**(values | RULE)), teacher, out, **kwargs)


def test_a_killed_run_goes_on_to_the_same_images(tmp_path):
    teacher = classifier(random_net(), "teacher")
    list(run_of(teacher, tmp_path / "whole"))
    killed = run_of(teacher, tmp_path / "killed")
    next(event for event in killed if isinstance(event, GroupDone))
    killed.close()
    list(run_of(teacher, tmp_path / "killed", resume=True))
    images = [
        {
            path.name: hashlib.sha256(path.read_bytes()).hexdigest()
            for path in (tmp_path / name).glob("0*/*.png")
        }
        for name in ("whole", "killed")
    ]
    assert images[0] == images[1] and images[0]
    settings = json.loads((tmp_path / "whole/settings.json").read_text())
    assert settings["config"]["stop_cross_entropy"] == RULE["stop_cross_entropy"]
    curves = json.loads((tmp_path / "whole/loss_curves.json").read_text())["groups"]
    lengths = {sum(point["stage"] == 0 for point in curve) for curve in curves.values()}
    assert min(lengths) < 12  # of 60 iterations, 5 between two reads


@pytest.mark.parametrize(
    ("kwargs", "message"),
    [
        ({"stop_cross_entropy": -1.0}, "stop_cross_entropy must be at least 0"),
        ({"stop_bn_fall": 0.5}, "stop_bn_fall has no effect without stop_cross_entropy"),
        ({"stop_window": 7}, "stop_window has no effect without stop_cross_entropy"),
        ({"stop_cross_entropy": 1.0, "stop_window": 0}, "stop_window must be at least 1"),
        ({"stop_cross_entropy": 1.0, "stop_bn_fall": 1.0}, r"stop_bn_fall must be in \[0, 1\)"),
        ({"stop_cross_entropy": 1.0, "keep": "best"}, "exclude each other"),
        (
            {"stop_cross_entropy": 1.0, "objective": ObjectiveConfig(bn_weight=0.0)},
            "needs R_BN, and bn_weight is 0",
        ),
    ],
)
def test_settings_without_sense_are_refused(kwargs, message):
    with pytest.raises(SynthError, match=message):
        config(**kwargs)


def test_a_teacher_without_batch_norm_has_no_such_rule():
    kernels = Kernels(device="cpu", threads=1, precision="fp32", channels_last=False)
    teacher = classifier(random_net(norm=torch.nn.InstanceNorm2d), "plain")
    with pytest.raises(SynthError, match="stop_cross_entropy needs R_BN, and plain has no"):
        build_objective(config(**RULE, allow_no_bn=True), teacher, kernels)

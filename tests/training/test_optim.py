"""Schedule and optimizer: the cosine by hand, what is not decayed, moments handed on by name."""

import copy
import inspect
import math

import pytest
import timm
import torch
from torch import nn

from dearkd.objectives import CrossEntropy
from dearkd.training.optim import (
    build_optimizer,
    learning_rate,
    load_optimizer_state,
    optimizer_state,
    short_average,
)
from dearkd.training.settings import OptimConfig


def test_learning_rate_by_hand():
    rates = [learning_rate(step, 110, 10, 1.0, 0.1) for step in range(110)]
    assert rates[:10] == pytest.approx([(step + 1) / 10 for step in range(10)])
    assert rates[10] == 1.0
    assert rates[-1] == pytest.approx(0.1)
    middle = 0.1 + 0.9 * 0.5 * (1 + math.cos(math.pi * 40 / 99))
    assert rates[50] == pytest.approx(middle)
    assert rates[10:] == sorted(rates[10:], reverse=True)


def test_a_floor_above_the_peak_does_not_raise_the_rate():
    assert max(learning_rate(step, 20, 2, 1e-6, 1e-5) for step in range(20)) == 1e-6


def test_biases_norms_tokens_and_positions_are_not_decayed():
    objective = CrossEntropy(timm.create_model("toy_student", num_classes=3))
    optimizer = build_optimizer(objective, OptimConfig(lr=1e-3, weight_decay=0.05))
    names = {id(parameter): name for name, parameter in objective.named_parameters()}
    decayed = {
        names[id(parameter)].removeprefix("student.")
        for group in optimizer.param_groups
        for parameter in group["params"]
        if group["weight_decay"] > 0
    }
    assert "blocks.0.attn.qkv.weight" in decayed
    assert "head_dist.weight" in decayed
    undecayed = {name for name, _ in objective.student.named_parameters()} - decayed
    assert {"cls_token", "dist_token", "pos_embed", "norm.weight", "head.bias"} <= undecayed
    assert "blocks.0.attn.position_alpha" in undecayed
    assert "blocks.0.attn.position_centres" in undecayed


OTHERS = {
    "sgd": OptimConfig(name="sgd", lr=0.1, weight_decay=0.01, momentum=0.8),
    "muon": OptimConfig(name="muon", lr=0.02, weight_decay=0.1, momentum=0.9),
}


def test_nesterov_steps_by_hand_in_float64():
    objective = nn.ModuleDict({"student": nn.Linear(3, 2).double()})
    weight = objective["student"].weight
    optimizer = build_optimizer(objective, OTHERS["sgd"])
    expected, momentum = weight.detach().clone(), torch.zeros_like(weight)
    for step in range(4):
        weight.grad = torch.full_like(weight, step + 1.0)
        gradient = weight.grad + 0.01 * expected
        momentum = gradient if step == 0 else 0.8 * momentum + gradient
        expected = expected - 0.1 * (gradient + 0.8 * momentum)
        optimizer.step()
        torch.testing.assert_close(weight.detach(), expected)


def test_muon_turns_a_gradient_into_a_near_rotation_and_leaves_the_classifier_to_nadamw():
    objective = CrossEntropy(timm.create_model("dearkd_cnn8_32", channels=(8, 16, 16)))
    optimizer = build_optimizer(objective, OTHERS["muon"])
    before = {name: value.detach().clone() for name, value in objective.named_parameters()}
    generator = torch.Generator().manual_seed(0)
    for parameter in objective.parameters():
        parameter.grad = torch.randn(parameter.shape, generator=generator)
    optimizer.step()
    state = optimizer_state(optimizer, objective)
    vectors = {name for name, value in before.items() if value.ndim < 2}
    by_adam = {name for name, kept in state.items() if not kept["use_muon"]}
    assert by_adam == vectors | {"student.head.fc.weight"}
    name = "student.stages.1.conv2.weight"
    after = dict(objective.named_parameters())[name].detach()
    step = (before[name] * (1 - 0.02 * 0.1) - after).flatten(1).double()
    # Singular values near 0.2 * sqrt(larger side), times the learning rate.
    values = torch.linalg.svdvals(step) / (0.02 * 0.2 * math.sqrt(16 * 9))
    assert 0.6 < values.min() < values.max() < 1.3


@pytest.mark.parametrize(
    ("precision", "dtype"),
    [("fp32", torch.float32), ("mixed", torch.bfloat16), ("bf16", torch.bfloat16)],
)
def test_muon_iterates_in_the_runs_precision_and_leaves_timm_as_it_was(
    monkeypatch, precision, dtype
):
    from timm.optim import muon

    seen, usual = [], muon.zeropower_via_newtonschulz

    def watched(gradient, *args, **options):
        timms = inspect.signature(usual).parameters["dtype"].default
        seen.append(options.get("dtype", timms))
        return usual(gradient, *args, **options)

    monkeypatch.setattr(muon, "zeropower_via_newtonschulz", watched)
    objective = nn.ModuleDict({"student": nn.Linear(8, 8)})
    optimizer = build_optimizer(objective, OTHERS["muon"], precision)
    objective["student"].weight.grad = torch.randn(8, 8)
    optimizer.step()
    assert seen == [dtype]
    assert muon.zeropower_via_newtonschulz is watched


@pytest.mark.parametrize("name", OTHERS)
def test_the_state_of_every_optimizer_lives_on_by_name(name):
    def trained(steps, state=None):
        torch.manual_seed(0)
        objective = CrossEntropy(timm.create_model("toy_cnn", num_classes=3))
        optimizer = build_optimizer(objective, OTHERS[name])
        if state is not None:
            objective.load_state_dict(state[0])
            load_optimizer_state(optimizer, objective, state[1])
        for step in steps:
            for parameter in objective.parameters():
                generator = torch.Generator().manual_seed(step)
                parameter.grad = torch.randn(parameter.shape, generator=generator)
            optimizer.step()
        return copy.deepcopy((objective.state_dict(), optimizer_state(optimizer, objective)))

    whole, resumed = trained(range(6))[0], trained(range(3, 6), trained(range(3)))[0]
    assert all(torch.equal(whole[key], resumed[key]) for key in whole)


def test_moments_follow_their_parameters_to_another_objective():
    class Objective(nn.Module):
        def __init__(self, student, aligned):
            super().__init__()
            self.student = student
            if aligned:
                self.aligners = nn.Linear(2, 2)

        def forward(self, x):
            y = self.student(x)
            return self.aligners(y).sum() if hasattr(self, "aligners") else y.sum()

    student = nn.Linear(3, 2)
    config = OptimConfig(lr=1e-2, weight_decay=0.0)
    first = Objective(student, aligned=True)
    optimizer = build_optimizer(first, config)
    for _ in range(3):
        optimizer.zero_grad()
        first(torch.randn(4, 3)).backward()
        optimizer.step()
    state = optimizer_state(optimizer, first)
    assert "aligners.weight" in state
    second = Objective(student, aligned=False)
    successor = build_optimizer(second, config)
    load_optimizer_state(successor, second, state)
    for parameter in student.parameters():
        old, new = optimizer.state[parameter], successor.state[parameter]
        assert torch.equal(old["exp_avg"], new["exp_avg"])
        assert torch.equal(old["exp_avg_sq"], new["exp_avg_sq"])
        assert int(new["step"]) == 3
    # The second objective's steps must not reach back into the first one's moments.
    before = optimizer.state[student.weight]["exp_avg"].clone()
    second(torch.randn(4, 3)).backward()
    successor.step()
    assert torch.equal(optimizer.state[student.weight]["exp_avg"], before)


@pytest.mark.parametrize(("decay", "steps", "said"), [(0.99996, 300, True), (0.9, 300, False)])
def test_an_average_that_is_longer_than_the_run_is_told_of(decay, steps, said):
    line = short_average(OptimConfig(ema_decay=decay), steps)
    assert (line is not None) is said
    assert short_average(OptimConfig(), steps) is None
    if line is not None:
        assert "25,000 steps and the run has 300" in line
        assert "0.9667 averages over a tenth" in line


def test_a_run_too_short_for_any_average_is_told_to_have_none():
    line = short_average(OptimConfig(ema_decay=0.9), 10)
    assert line is not None
    assert line.endswith("; leave it out")  # a decay of 0 is refused

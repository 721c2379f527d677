"""Schedule and optimizer: the cosine by hand, what is not decayed, moments handed on by name."""

import math

import pytest
import timm
import torch
from torch import nn

from dearkd.config import OptimConfig
from dearkd.objectives import CrossEntropy
from dearkd.training.optim import (
    build_optimizer,
    learning_rate,
    load_optimizer_state,
    optimizer_state,
    short_average,
)


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
    config = OptimConfig(lr=1e-2)
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

"""A competing student in bf16: its linear layers are rounded, and nothing else is."""

import functools

import jaxtyping
import pytest
import timm
import torch
from torch import nn
from toy_nets import classifier, random_net

from synth.groups import Group
from synth.objective import Objective, targets_of
from synth.objective_settings import ObjectiveConfig
from synth.rounded import RoundedLinear

GROUP = Group(id=0, targets=(0, 0, 1, 1, 2, 2))
CONFIG = ObjectiveConfig(bn_weight=0.3, compete_weight=0.2)


def competition_and_gradient(dtype, **kwargs):
    torch.manual_seed(0)
    student = timm.create_model("test_vit", img_size=16, patch_size=4, num_classes=4).eval()
    objective = Objective(
        classifier(random_net()), CONFIG, dtype=dtype, student=classifier(student, "vit"), **kwargs
    )
    images = torch.randn(6, 3, 16, 16, requires_grad=True)
    term = objective(images, targets_of((GROUP,), CONFIG, "cpu"))["competition"]
    return term.detach(), *torch.autograd.grad(term.sum(), images)


def test_products_are_those_of_rounded_operands():
    layer, x = nn.Linear(64, 96), torch.randn(5, 64)
    with RoundedLinear():
        found = layer(x)
    rounded = [t.detach().bfloat16().double() for t in (x, layer.weight, layer.bias)]
    slow = rounded[0] @ rounded[1].T + rounded[2]
    torch.testing.assert_close(found, slow.bfloat16().float(), rtol=2**-7, atol=1e-6)
    assert found.dtype == torch.float32


@pytest.mark.parametrize("layer", [nn.Linear(64, 10), nn.Linear(64, 96).double()])
def test_heads_and_float64_are_not_rounded(layer):
    x = torch.randn(5, 64, dtype=layer.weight.dtype)
    with RoundedLinear():
        found = layer(x)
    assert torch.equal(found, layer(x))


def test_a_student_in_bf16_is_near_the_one_in_float32():
    exact, exact_gradient = competition_and_gradient(torch.float32)
    rounded, gradient = competition_and_gradient(torch.bfloat16)
    torch.testing.assert_close(rounded, exact, rtol=0.01, atol=0)
    assert 1e-4 < (gradient - exact_gradient).norm() / exact_gradient.norm() < 0.1


def test_a_compiled_step_rounds_too(monkeypatch):
    monkeypatch.setattr(torch, "compile", functools.partial(torch.compile, backend="eager"))
    monkeypatch.setattr(jaxtyping.config, "jaxtyping_disable", True)  # its checks make no graph
    rounded, gradient = competition_and_gradient(torch.bfloat16)
    compiled, same = competition_and_gradient(torch.bfloat16, compile=True)
    assert torch.equal(rounded, compiled) and torch.equal(gradient, same)

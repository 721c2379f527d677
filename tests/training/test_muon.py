"""Muon in stacks of equal shapes, held against timm's own, and its steps as a CUDA graph."""

import copy

import pytest
import timm
import torch
from timm.optim.muon import Muon as TimmMuon
from torch import nn

from dearkd.training.muon import Muon
from dearkd.training.optim import build_optimizer, load_optimizer_state, optimizer_state
from dearkd.training.settings import OptimConfig

STEPS = 6
"""More than are launched before one is recorded."""


class Objective(nn.Module):
    def __init__(self, name):
        super().__init__()
        self.student = timm.create_model(name)


def gradients(network, step):
    generator = torch.Generator().manual_seed(step)
    for parameter in network.parameters():
        drawn = torch.randn(parameter.shape, generator=generator)
        parameter.grad = drawn.to(parameter.device, parameter.dtype)


def is_recorded(optimizer):
    return optimizer._recording is not None and optimizer._recording.graph is not None


@pytest.mark.parametrize("name", ["dearkd_mini_patch4_32", "dearkd_cnn8_32"])
def test_matrices_of_a_shape_together_step_as_each_alone(name):
    torch.manual_seed(0)
    ours = nn.ParameterList(
        p for p in timm.create_model(name).double().parameters() if p.ndim > 1 and min(p.shape) > 1
    )
    theirs = copy.deepcopy(ours)
    options = {"lr": 0.02, "momentum": 0.9, "iterates": torch.float64, "stacked": True}
    stacked = Muon([{"params": list(ours), "weight_decay": 0.1, "use_muon": True}], **options)
    single = Muon(
        [{"params": list(theirs), "weight_decay": 0.1, "use_muon": True}],
        **{**options, "stacked": False},
    )
    for step in range(3):
        for network, optimizer in ((ours, stacked), (theirs, single)):
            gradients(network, step)
            optimizer.step()
    for one, other in zip(ours, theirs, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-9, atol=1e-11)


def test_a_step_in_bf16_is_timms_to_the_bit():
    torch.manual_seed(0)
    ours = timm.create_model("toy_student")
    theirs = copy.deepcopy(ours)
    optimizer = Muon([{"params": list(ours.parameters())}], lr=0.02, momentum=0.95)
    timms = TimmMuon([{"params": list(theirs.parameters())}], lr=0.02, nesterov=True)
    for step in range(3):
        for network, one in ((ours, optimizer), (theirs, timms)):
            gradients(network, step)
            one.step()
    for one, other in zip(ours.parameters(), theirs.parameters(), strict=True):
        assert torch.equal(one, other)


@pytest.mark.gpu
@pytest.mark.parametrize("replayed", [False, True])
def test_steps_on_a_gpu_are_those_of_the_cpu(device, replayed):
    """The rate changes from step to step, and the gradients lie elsewhere each time."""
    kept = []
    torch.manual_seed(0)
    here = Objective("dearkd_mini_patch4_32")
    far = copy.deepcopy(here).to(device)
    config = OptimConfig(name="muon", lr=1e-2, momentum=0.95, weight_decay=0.05)
    steppers = [(one, build_optimizer(one, config, "fp32")) for one in (here, far)]
    steppers[1][1].replayed = replayed
    for step in range(STEPS):
        for objective, optimizer in steppers:
            for group in optimizer.param_groups:
                group["lr"] = 1e-2 / (step + 1)
            gradients(objective, step)
            optimizer.step()
            kept += [parameter.grad for parameter in objective.parameters()]
            optimizer.zero_grad()
    assert is_recorded(steppers[1][1]) is replayed
    for ours, theirs in zip(far.parameters(), here.parameters(), strict=True):
        torch.testing.assert_close(ours.cpu(), theirs, rtol=1e-3, atol=1e-4)


@pytest.mark.gpu
def test_a_replayed_run_goes_on_from_its_saved_state(device):
    torch.manual_seed(0)
    first = Objective("dearkd_mini_patch4_32").to(device)
    config = OptimConfig(name="muon", lr=1e-2, momentum=0.95, weight_decay=0.05)
    optimizer = build_optimizer(first, config, "fp32")
    optimizer.replayed = True
    for step in range(STEPS):
        gradients(first, step)
        optimizer.step()
    second = copy.deepcopy(first)
    state = {
        name: {key: v.cpu() if torch.is_tensor(v) else v for key, v in values.items()}
        for name, values in optimizer_state(optimizer, first).items()
    }
    resumed = build_optimizer(second, config, "fp32")
    resumed.replayed = True
    load_optimizer_state(resumed, second, state)
    for step in range(STEPS, 2 * STEPS):
        for objective, one in ((first, optimizer), (second, resumed)):
            gradients(objective, step)
            one.step()
    assert is_recorded(optimizer)
    assert is_recorded(resumed)
    for ours, theirs in zip(second.parameters(), first.parameters(), strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-5, atol=1e-6)

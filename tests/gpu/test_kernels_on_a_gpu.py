"""What the kernels of a GPU compute, against float64 on the CPU."""

import copy

import pytest
import timm
import torch
from torch import nn

from dearkd.models.attention import MultiHeadConvAttention
from dearkd.models.cost import LAYOUTS
from dearkd.training.arithmetic import layout_rule, precision_rule
from dearkd.training.optim import build_optimizer
from dearkd.training.settings import OptimConfig

pytestmark = pytest.mark.gpu
GRID = (14, 14)


def layer_and_tokens():
    """A layer in float32 whose heads have left their places, and what it sees."""
    torch.manual_seed(0)
    attn = MultiHeadConvAttention(96, num_heads=4, qkv_bias=True)
    attn.set_grid_size(GRID)
    with torch.no_grad():
        attn.position_alpha.copy_(torch.tensor([0.7, 1.3, 0.05, 0.2]))
        attn.position_centres.normal_()
    return attn, torch.randn(2, GRID[0] * GRID[1] + 2, 96)


@pytest.fixture
def tf32(cuda):
    before = torch.backends.cuda.matmul.allow_tf32
    torch.backends.cuda.matmul.allow_tf32 = True
    yield cuda
    torch.backends.cuda.matmul.allow_tf32 = before


def error(attn, x, device, dtype=None):
    """The largest error of the layer on the device, as a share of its largest value."""
    exact = copy.deepcopy(attn).double().cpu()(x.double())
    with torch.autocast(device.type, dtype or torch.bfloat16, enabled=dtype is not None):
        got = copy.deepcopy(attn).to(device)(x.to(device))
    return ((got.double().cpu() - exact).abs().max() / exact.abs().max()).item()


@pytest.mark.parametrize("dtype", [None, torch.bfloat16, torch.float16])
def test_the_folded_position_term_costs_no_precision(tf32, dtype):
    """In TF32, bf16 and fp16 a layer with its position term is as close as one without."""
    attn, x = layer_and_tokens()
    with torch.no_grad():
        with_position = error(attn, x, tf32, dtype)
        attn.position_alpha.zero_()
        assert with_position < 2 * error(attn, x, tf32, dtype)


def test_gradients_of_the_position_term_are_those_of_float64(device):
    attn, x = layer_and_tokens()
    exact, far = copy.deepcopy(attn).double(), copy.deepcopy(attn).to(device)
    exact(x.double()).sin().sum().backward()
    far(x.to(device)).sin().sum().backward()
    for name in ("position_alpha", "position_centres"):
        ours, theirs = (getattr(one, name).grad.double().cpu() for one in (far, exact))
        assert (ours - theirs).abs().max() < 2e-2 * theirs.abs().max()


def test_adamw_is_fused_and_steps_as_on_the_cpu(device):
    class Objective(nn.Module):
        def __init__(self):
            super().__init__()
            self.student = timm.create_model("toy_student")

    torch.manual_seed(0)
    here = Objective()
    far = copy.deepcopy(here).to(device)
    for objective in (here, far):
        optimizer = build_optimizer(objective, OptimConfig(lr=1e-2, weight_decay=0.05))
        assert all(group["fused"] for group in optimizer.param_groups)
        for number, parameter in enumerate(objective.parameters()):
            parameter.grad = torch.full_like(parameter, 0.1 * (number + 1))
        optimizer.step()
    for ours, theirs in zip(far.parameters(), here.parameters(), strict=True):
        torch.testing.assert_close(ours.cpu(), theirs, rtol=1e-5, atol=1e-6)


def test_a_teacher_in_its_layout_says_what_it_says_in_the_other(cuda):
    torch.manual_seed(0)
    teacher = timm.create_model("resnet18", num_classes=10).eval().to(cuda)
    precision = precision_rule(teacher, cuda)[0]
    layout, _ = layout_rule(teacher, cuda, precision)
    assert (precision, layout) == ("bf16", "channels_last")
    images = torch.randn(8, 3, 64, 64, device=cuda)
    with torch.inference_mode():
        plain = teacher(images)
        other = teacher.to(memory_format=LAYOUTS[layout])(images)
    torch.testing.assert_close(other, plain, rtol=1e-2, atol=1e-2)

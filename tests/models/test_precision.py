"""The contexts of a forward pass: what is rounded to bf16 in each, and what is not."""

import copy

import pytest
import timm
import torch
import torch.nn.functional as F
from torch import nn

from dearkd.models.precision import precision_context

CPU = torch.device("cpu")


def rounded(tensor):
    return tensor.bfloat16().double()


@pytest.fixture
def layer():
    torch.manual_seed(0)
    return nn.Linear(96, 128)


@pytest.fixture
def x():
    return torch.randn(40, 96, generator=torch.Generator().manual_seed(1)).requires_grad_()


def test_linear_layers_are_products_of_rounded_operands(layer, x):
    with precision_context(CPU, "mixed"):
        y = layer(x)
    exact = rounded(x) @ rounded(layer.weight).T + rounded(layer.bias)
    assert y.dtype == torch.float32
    torch.testing.assert_close(y.double(), rounded(exact), rtol=2**-7, atol=1e-6)
    assert not torch.equal(y, layer(x))


def test_gradients_are_float32_and_those_of_the_rounded_operands(layer, x):
    weights = torch.randn(40, 128)
    with precision_context(CPU, "mixed"):
        (layer(x) * weights).sum().backward()
    assert layer.weight.grad.dtype == x.grad.dtype == torch.float32
    expected = rounded(weights).T @ rounded(x)
    torch.testing.assert_close(layer.weight.grad.double(), expected, rtol=2**-7, atol=0.05)
    assert (layer.weight.grad.double() - expected).norm() < 2**-8 * expected.norm()


@pytest.mark.parametrize(
    "operation",
    [
        lambda x: x @ x.T,
        lambda x: F.layer_norm(x, (96,)),
        lambda x: F.scaled_dot_product_attention(x[None], x[None], x[None]),
        lambda x: F.linear(x, torch.ones(10, 96)),  # a head of few classes
        lambda x: F.linear(x.double(), torch.ones(128, 96).double()),
    ],
)
def test_all_else_is_as_without(x, operation):
    with precision_context(CPU, "mixed"):
        inside = operation(x)
    assert torch.equal(inside, operation(x))


def test_contexts_nest(layer, x):
    plain = layer(x)
    with precision_context(CPU, "mixed"):
        mixed = layer(x)
        with precision_context(CPU, "fp32"):
            assert torch.equal(layer(x), plain)
        with precision_context(CPU, "bf16"):
            assert layer(x).dtype == torch.bfloat16
        assert torch.equal(layer(x), mixed)
    with precision_context(CPU, "bf16"), precision_context(CPU, "mixed"):
        assert torch.equal(layer(x), mixed)
    assert torch.equal(layer(x), plain)


def test_an_error_leaves_the_context(layer, x):
    with pytest.raises(RuntimeError, match="shapes"), precision_context(CPU, "mixed"):
        layer(x[:, :5])
    with precision_context(CPU, "fp32"):
        assert torch.equal(layer(x), F.linear(x, layer.weight, layer.bias))


def test_a_compiled_network_is_rounded_the_same():
    torch.manual_seed(0)
    network = nn.Sequential(nn.Linear(64, 128), nn.GELU(), nn.Linear(128, 64))
    compiled = torch.compile(copy.deepcopy(network), backend="aot_eager")
    x = torch.randn(8, 64)
    with precision_context(CPU, "mixed"):
        expected = network(x)
        assert torch.equal(compiled(x), expected)
    assert torch.equal(compiled(x), network(x))
    assert not torch.equal(expected, network(x))


def test_a_student_stays_near_float32():
    torch.manual_seed(0)
    student = timm.create_model("dearkd_micro_patch4_32").eval()
    images = torch.randn(4, 3, 32, 32)
    plain = student(images)
    with precision_context(CPU, "mixed"):
        mixed = student(images)
    assert mixed.dtype == torch.float32
    assert 0 < (mixed - plain).abs().max() < 0.02 * plain.abs().max()

"""The students under torch.fx and TorchScript, which quantisers and feature extractors stand on.

Run by ``tests/test_unchecked.py``.
"""

import copy
import io
from typing import Any

import pytest
import timm
import torch
from test_timm_conformance import RESNET, all_have_gradients, images, micro
from test_timm_conformance import model as model  # the fixture
from timm.models import GraphExtractNet, create_feature_extractor
from torch import Tensor

from dearkd.models.fused import fused

pytestmark = pytest.mark.filterwarnings("ignore:.*torch.jit.* is deprecated")
HEADS = ["head", "head_dist"]


def logits(graph: Any, batch: Tensor) -> Tensor:
    """Both heads of a traced student, averaged as it does itself."""
    nodes = graph(batch)
    return (nodes["head"] + nodes["head_dist"]) / 2


def gradients(model: Any, loss: Tensor) -> dict[str, Tensor]:
    model.zero_grad()
    loss.backward()
    return {name: parameter.grad.clone() for name, parameter in model.named_parameters()}


def script(model: Any) -> list[Any]:
    """The model as TorchScript, and once more from the file that it was saved to."""
    scripted, file = torch.jit.script(model), io.BytesIO()
    torch.jit.save(scripted, file)
    file.seek(0)
    return [scripted, torch.jit.load(file)]


def test_trace_is_the_model_and_keeps_its_layers_visible(model: Any) -> None:
    graph = create_feature_extractor(model, [*HEADS, "blocks.0.attn.qkv", "blocks.1.attn.proj"])
    assert torch.equal(logits(graph, images()), model(images()))
    nodes = graph(images(batch=3))
    assert nodes["blocks.0.attn.qkv"].shape == (3, 66, 3 * 108)
    assert nodes["blocks.1.attn.proj"].shape == (3, 66, 108)


def test_plain_symbolic_trace_serves_as_well(model: Any) -> None:
    graph = torch.fx.symbolic_trace(model, {"attn_mask": None, "is_causal": False})
    assert torch.equal(graph(images()), model(images()))


def test_trace_has_the_models_gradients(model: Any) -> None:
    graph = create_feature_extractor(copy.deepcopy(model.train()), HEADS).train()
    ours = gradients(model, model(images()).square().sum())
    theirs = gradients(graph, logits(graph, images()).square().sum())
    assert ours.keys() == theirs.keys()
    for name, gradient in theirs.items():
        torch.testing.assert_close(gradient, ours[name])
    assert all_have_gradients(graph)


def test_trace_refuses_a_mask() -> None:
    graph = create_feature_extractor(micro(), HEADS)
    with pytest.raises(ValueError, match="takes no attn_mask or is_causal"):
        graph(images(), is_causal=True)


def test_graph_net_of_a_block() -> None:
    model = micro()
    tokens = GraphExtractNet(model, ["blocks.0"])(images())[:, model.num_prefix_tokens :]
    (tap,) = model.forward_intermediates(images(), indices=[0], intermediates_only=True)
    assert torch.equal(tokens.mT.unflatten(-1, (8, 8)), tap)


def test_script_is_the_model(model: Any) -> None:
    for scripted in script(model):
        torch.testing.assert_close(scripted(images()), model(images()), rtol=1e-5, atol=1e-6)
        scripted.train()(images()).square().sum().backward()
        assert all_have_gradients(scripted)


def test_script_of_the_trace_is_the_model(model: Any) -> None:
    for graph in script(create_feature_extractor(model, HEADS)):
        torch.testing.assert_close(logits(graph, images()), model(images()), rtol=1e-5, atol=1e-6)


def test_script_of_a_model_for_images_of_any_size() -> None:
    model = micro(dynamic_img_size=True)
    for scripted in script(model):
        for size in ((32, 32), (24, 48), (48, 24)):
            ours = model(images(size))
            torch.testing.assert_close(scripted(images(size)), ours, rtol=1e-5, atol=1e-6)


def test_scripted_dropout_acts_in_training_alone() -> None:
    scripted = torch.jit.script(micro(attn_drop_rate=0.5, scriptable=True))
    assert torch.equal(scripted(images()), scripted(images()))
    scripted.train()
    assert not torch.equal(scripted(images()), scripted(images()))


def test_fused_students_trace_and_script() -> None:
    model = fused(micro())
    assert torch.equal(logits(create_feature_extractor(model, HEADS), images()), model(images()))
    for scripted in script(model):
        torch.testing.assert_close(scripted(images()), model(images()), rtol=1e-5, atol=1e-6)


def test_resnets_trace_and_script() -> None:
    model = timm.create_model(RESNET, scriptable=True).eval()
    assert torch.equal(create_feature_extractor(model, ["fc"])(images())["fc"], model(images()))
    for scripted in script(model):
        torch.testing.assert_close(scripted(images()), model(images()), rtol=1e-5, atol=1e-5)

"""The plain CNN for CIFAR-10 as a timm model, and as a teacher that can be tapped and inverted."""

import copy
from pathlib import Path

import pytest
import timm
import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from dearkd.models.fast_cnn import FastCnn, opponent_wavelets
from dearkd.models.taps import describe_stages
from dearkd.models.teacher import Teacher, default_stage

NAME = "dearkd_cnn8_32"
SMALL = {"channels": (8, 16, 24)}


@pytest.fixture
def model() -> FastCnn:
    """A small one whose BatchNorms have seen noise."""
    torch.manual_seed(0)
    made = timm.create_model(NAME, **SMALL).train()
    for _ in range(3):
        made(images(16))
    return made.eval()


def images(batch: int = 2, size: int = 32) -> Tensor:
    return torch.randn(batch, 3, size, size, generator=torch.Generator().manual_seed(1))


def test_stages_are_on_grids_of_16_8_and_4(model: FastCnn) -> None:
    final, maps = model.forward_intermediates(images())
    assert [m.shape[1:] for m in maps] == [(8, 16, 16), (16, 8, 8), (24, 4, 4)]
    assert [info["reduction"] for info in model.feature_info] == [2, 4, 8]
    assert torch.equal(final, maps[-1])
    assert torch.equal(final, model.forward_features(images()))
    assert torch.equal(model.forward_head(final), model(images()))
    stages = describe_stages(model, 32)
    assert [stage.grid for stage in stages] == [(16, 16), (8, 8), (4, 4)]
    assert not any(stage.nonnegative for stage in stages)  # they end in a GELU
    teacher = Teacher(model, student_mean=(0.5,) * 3, student_std=(0.5,) * 3)
    assert default_stage(teacher, (8, 8)).index == 1


def test_intermediates_are_those_asked_for(model: FastCnn) -> None:
    _, maps = model.forward_intermediates(images())
    (middle,) = model.forward_intermediates(
        images(), indices=[1], stop_early=True, intermediates_only=True
    )
    assert torch.equal(middle, maps[1])
    pruned = copy.deepcopy(model)
    assert pruned.prune_intermediate_layers([1]) == [1]
    assert torch.equal(pruned(images()), maps[1])


def test_features_only_model_reports_the_same() -> None:
    features = timm.create_model(NAME, features_only=True, **SMALL)
    assert features.feature_info.reduction() == [2, 4, 8]
    assert [f.shape[1] for f in features(images())] == [8, 16, 24]


def test_size_of_the_whole() -> None:
    with torch.device("meta"):
        whole = timm.create_model(NAME)
    assert sum(p.numel() for p in whole.parameters()) == 1_161_666
    kinds = [type(module) for module in whole.modules()]
    assert kinds.count(nn.Conv2d) == kinds.count(nn.BatchNorm2d) == 7


def test_the_first_layer_sees_all_of_a_patch_of_two_by_two_alike() -> None:
    wavelets = opponent_wavelets().flatten(1).double()
    torch.testing.assert_close(wavelets @ wavelets.T, torch.eye(12).double(), atol=1e-6, rtol=0)
    weight = timm.create_model(NAME, **SMALL).conv1.weight.detach()
    assert torch.equal(weight[:12], -weight[12:])
    grey = torch.ones(1, 3, 8, 8)
    answers = nn.functional.conv2d(grey, weight, padding=1)[0, :, 4, 4]
    assert answers[[0, 12]].tolist() == pytest.approx([2 * 3**0.5, -2 * 3**0.5])
    assert answers.abs().sum().item() == pytest.approx(4 * 3**0.5, abs=1e-5)


def test_later_convolutions_start_by_passing_their_input_on() -> None:
    stage = timm.create_model(NAME, **SMALL).stages[1]
    maps = torch.randn(2, 8, 16, 16)
    assert torch.equal(stage.conv1(maps)[:, :8], maps)
    assert stage.conv1(maps)[:, 8:].abs().min() > 0


def test_classifier_width_weights_and_channels(model: FastCnn, tmp_path: Path) -> None:
    save_file(model.state_dict(), tmp_path / "weights.safetensors")
    again = timm.create_model(NAME, checkpoint_path=str(tmp_path / "weights.safetensors"), **SMALL)
    assert torch.equal(again.eval()(images()), model(images()))
    pooled = model.forward_head(model.forward_features(images()), pre_logits=True)
    again.reset_classifier(0)
    assert torch.equal(again(images()), pooled)
    again.reset_classifier(7, "max")
    assert again(images()).shape == (2, 7)
    assert again.get_classifier().out_features == 7
    grey = timm.create_model(NAME, in_chans=1, num_classes=3, **SMALL)
    assert grey(torch.randn(2, 1, 16, 16)).shape == (2, 3)


def test_gradients_reach_every_parameter(model: FastCnn) -> None:
    model.train()(images()).square().mean().backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in model.parameters())


def test_dtype_and_device_are_the_callers() -> None:
    made = timm.create_model(NAME, device="meta", dtype=torch.float16, **SMALL)
    assert {(p.device.type, p.dtype) for p in made.parameters()} == {("meta", torch.float16)}

"""The 32-px CNNs as timm models."""

from pathlib import Path

import pytest
import timm
import torch
from safetensors.torch import save_file
from torch import nn

from dearkd.models.cnn import SmallResNet

NAMES = ("dearkd_resnet10t_32", "dearkd_resnet10_32", "dearkd_resnet10w_32", "dearkd_resnet18_32")


@pytest.fixture(scope="module")
def model() -> SmallResNet:
    torch.manual_seed(0)
    return timm.create_model("dearkd_resnet10t_32").eval()


def test_reductions_are_those_of_the_maps(model: SmallResNet) -> None:
    images = torch.randn(2, 3, 32, 32)
    final, maps = model.forward_intermediates(images)
    for info, features in zip(model.feature_info, maps, strict=True):
        assert features.shape == (2, info["num_chs"], *2 * [32 // info["reduction"]])
    assert [info["reduction"] for info in model.feature_info] == [1, 1, 2, 4, 8]
    assert torch.equal(model.forward_head(final), model(images))


def test_features_only_model_reports_the_same(model: SmallResNet) -> None:
    features = timm.create_model("dearkd_resnet10t_32", features_only=True)
    assert features.feature_info.reduction() == [1, 1, 2, 4, 8]
    assert [f.shape[1] for f in features(torch.randn(1, 3, 32, 32))] == [16, 16, 32, 64, 96]


def test_parameter_counts() -> None:
    counts = [sum(p.numel() for p in timm.create_model(name).parameters()) for name in NAMES]
    assert counts == [223_322, 1_228_970, 2_760_442, 11_173_962]


def test_smallest_is_under_a_megabyte(model: SmallResNet, tmp_path: Path) -> None:
    save_file(model.state_dict(), tmp_path / "weights.safetensors")
    assert (tmp_path / "weights.safetensors").stat().st_size < 1e6


def test_every_convolution_feeds_a_batch_norm(model: SmallResNet) -> None:
    kinds = [type(m) for m in model.modules()]
    assert kinds.count(nn.Conv2d) == kinds.count(nn.BatchNorm2d) == 1 + 8 + 3


def test_classifier_width_weights_and_channels(model: SmallResNet, tmp_path: Path) -> None:
    save_file(model.state_dict(), tmp_path / "weights.safetensors")
    again = timm.create_model(NAMES[0], checkpoint_path=str(tmp_path / "weights.safetensors"))
    images = torch.randn(2, 3, 32, 32)
    assert torch.equal(again.eval()(images), model(images))
    again.reset_classifier(7)
    assert again(images).shape == (2, 7)
    grey = timm.create_model(NAMES[0], in_chans=1, num_classes=3)
    assert grey(torch.randn(2, 1, 16, 16)).shape == (2, 3)


def test_learns_one_batch() -> None:
    torch.manual_seed(0)
    model = timm.create_model("dearkd_resnet10t_32").train()
    images, labels = torch.randn(8, 3, 16, 16), torch.arange(8)
    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3)
    for _ in range(15):
        loss = nn.functional.cross_entropy(model(images), labels)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    assert loss.item() < 0.1

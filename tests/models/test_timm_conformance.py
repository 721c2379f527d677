"""What timm asks of its own models, asked of ours through timm's public functions.

After the model tests that timm publishes with its source: the same questions, on small models.
"""

import copy
from typing import Any

import pytest
import timm
import torch
from torch import Tensor

MICRO = "dearkd_micro_patch4_32"
OPTIONS: dict[str, dict[str, Any]] = {
    "additive": {},
    "gated": {"mhca_fusion": "gated"},
    "qk_norm": {"qk_norm": True},
    "no MHCA": {"mhca_depth": 0},
}
RESNET = "dearkd_resnet10t_32"


def micro(**kwargs: Any) -> Any:
    """Two blocks of the micro student, one of them MHCA, whose heads have left their places."""
    torch.manual_seed(0)
    sizes = {"depth": 2, "mhca_depth": 1, "num_classes": 5}
    model: Any = timm.create_model(MICRO, **{**sizes, **kwargs})
    for name, parameter in model.named_parameters():
        if ".position_" in name:
            torch.nn.init.normal_(parameter)
    return model.eval()


def images(size: tuple[int, int] = (32, 32), batch: int = 2) -> Tensor:
    return torch.randn(batch, 3, *size, generator=torch.Generator().manual_seed(1))


def all_have_gradients(model: Any) -> bool:
    return all(p.grad is not None and p.grad.isfinite().all() for p in model.parameters())


@pytest.fixture(params=OPTIONS)
def model(request: pytest.FixtureRequest) -> Any:
    return micro(**OPTIONS[request.param])


def test_forward_in_two_steps(model: Any) -> None:
    features = model.forward_features(images())
    assert features.shape == (2, 66, model.num_features)
    assert torch.equal(model.forward_head(features), model(images()))
    pooled = model.forward_head(features, pre_logits=True)
    assert pooled.shape == (2, model.head_hidden_size)


def test_gradients_reach_every_parameter(model: Any) -> None:
    model.train()(images()).mean().backward()
    assert all_have_gradients(model)


def test_classifier_can_be_reset(model: Any) -> None:
    pooled = model.forward_head(model.forward_features(images()), pre_logits=True)
    model.reset_classifier(0)
    assert model.num_classes == 0
    assert torch.equal(model(images()), pooled)
    model.reset_classifier(7)
    assert model(images()).shape == (2, 7)
    bare = micro(num_classes=0)
    assert bare(images()).shape == pooled.shape


def test_intermediates_are_those_of_the_blocks(model: Any) -> None:
    final, maps = model.forward_intermediates(images())
    torch.testing.assert_close(final, model.forward_features(images()))
    assert [m.shape for m in maps] == [(2, model.num_features, 8, 8)] * 2
    pruned = copy.deepcopy(model)
    kept = pruned.prune_intermediate_layers([0])
    (tap,) = pruned.forward_intermediates(images(), indices=kept, intermediates_only=True)
    assert torch.equal(tap, maps[0])


def test_features_only_model() -> None:
    features = timm.create_model(MICRO, features_only=True, out_indices=(2, 7, 11)).eval()
    assert features.feature_info.channels() == [108] * 3
    assert features.feature_info.reduction() == [4] * 3
    assert [f.shape for f in features(images())] == [(2, 108, 8, 8)] * 3


def test_unknown_arguments_are_refused() -> None:
    with pytest.raises(TypeError, match="not_a_model_arg"):
        timm.create_model(MICRO, not_a_model_arg=1)


@pytest.mark.parametrize("name", timm.list_models("dearkd_*"))
def test_default_cfg_names_what_is_there(name: str) -> None:
    with torch.device("meta"):
        model: Any = timm.create_model(name)
    cfg, names = model.default_cfg, model.state_dict().keys()
    heads = cfg["classifier"] if isinstance(cfg["classifier"], tuple) else (cfg["classifier"],)
    assert {f"{cfg['first_conv']}.weight", *(f"{head}.weight" for head in heads)} <= names
    assert model.in_chans == cfg["input_size"][0]
    assert cfg["num_classes"] == model.num_classes
    assert model(torch.empty(1, *cfg["input_size"], device="meta")).shape == (1, model.num_classes)


def test_dtype_and_device_are_the_callers() -> None:
    made = micro(device="meta", dtype=torch.float16)
    assert {(p.device.type, p.dtype) for p in made.parameters()} == {("meta", torch.float16)}
    half = micro().to(torch.bfloat16)
    assert half(images().bfloat16()).dtype == torch.bfloat16

"""MHCA with its position channels held as constants computes what it did in training."""

import pytest
import timm
import torch

from dearkd.models.attention import MultiHeadConvAttention
from dearkd.models.fused import FusedConvAttention, fused


def trained(name="dearkd_micro_patch4_32", dtype=torch.float64, **kwargs):
    """A student whose heads have left their initial places."""
    torch.manual_seed(0)
    model = timm.create_model(name, depth=3, **{"mhca_depth": 2, **kwargs}).to(dtype).eval()
    for module in model.modules():
        if isinstance(module, MultiHeadConvAttention):
            torch.nn.init.normal_(module.position_alpha, 0.5, 0.5)
            torch.nn.init.normal_(module.position_centres, 0.0, 2.0)
    return model


@pytest.mark.parametrize("kwargs", [{}, {"img_size": 16}, {"qk_norm": True}, {"qkv_bias": False}])
def test_equal_to_the_trained_model_in_float64(kwargs):
    model = trained(**kwargs)
    size = kwargs.get("img_size", 32)
    images = torch.randn(3, 3, size, size, dtype=torch.float64)
    with torch.inference_mode():
        torch.testing.assert_close(fused(model)(images), model(images), rtol=0, atol=1e-10)


def test_equal_in_float32_to_its_rounding():
    model = trained(dtype=torch.float32)
    images = torch.randn(3, 3, 32, 32)
    with torch.inference_mode():
        torch.testing.assert_close(fused(model)(images), model(images), rtol=0, atol=1e-6)


def test_equal_to_dense_attention():
    """Against the position scores written out, and not the same folded channels."""
    model = trained()
    images = torch.randn(2, 3, 32, 32, dtype=torch.float64)
    folded = fused(model)
    for block in model.blocks:
        block.attn.fused_attn = False
    with torch.inference_mode():
        torch.testing.assert_close(folded(images), model(images), rtol=0, atol=1e-10)


def test_the_model_itself_is_left_as_it_was():
    model = trained()
    kinds = [type(block.attn) for block in fused(model).blocks]
    assert kinds[:2] == [FusedConvAttention] * 2
    assert FusedConvAttention not in kinds[2:]
    assert all(isinstance(block.attn, MultiHeadConvAttention) for block in model.blocks[:2])
    assert not any("position_alpha" in name for name in fused(model).state_dict())


@pytest.mark.parametrize(
    ("model", "words"),
    [
        (lambda: trained(mhca_fusion="gated"), "gated layer"),
        (lambda: trained(dynamic_img_size=True), "dynamic_img_size"),
        (
            lambda: trained("dearkd_micro_mhsa_patch4_32", mhca_depth=0),
            "no convolutional attention",
        ),
        (lambda: timm.create_model("dearkd_resnet10t_32"), "no convolutional attention"),
    ],
)
def test_what_cannot_be_folded_is_refused(model, words):
    with pytest.raises(ValueError, match=words):
        fused(model())


def test_a_mask_is_refused():
    layer = fused(trained()).blocks[0].attn
    with pytest.raises(ValueError, match="takes no attn_mask"):
        layer(torch.zeros(1, 66, 108, dtype=torch.float64), is_causal=True)

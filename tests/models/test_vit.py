import copy
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import timm
import torch
from safetensors.torch import save_file
from timm.models.deit import VisionTransformerDistilled
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode

from dearkd.models.attention import GatedMultiHeadConvAttention, MultiHeadConvAttention
from dearkd.models.vit import DearKDVisionTransformer, initialise_from

TABLE = [
    ("dearkd_tiny_patch16_224", 5_911_088, 1.27),
    ("dearkd_small_patch16_224", 22_436_720, 4.64),
    ("dearkd_base_patch16_224", 87_338_576, 17.67),
]
SMALL: dict[str, Any] = {
    "img_size": 16,
    "patch_size": 4,
    "embed_dim": 36,
    "num_heads": 9,
    "num_classes": 5,
}


def loud(model: VisionTransformerDistilled) -> Any:
    """Fresh blocks barely move the logits; these do, so that a wrong one shows."""
    for name, parameter in model.named_parameters():
        if name.startswith("blocks") and parameter.dim() == 2 and "position" not in name:
            parameter.data.mul_(8)
    return model.eval()


def student(**kwargs: Any) -> Any:
    torch.manual_seed(0)
    return loud(DearKDVisionTransformer(**{**SMALL, "depth": 3, "mhca_depth": 2, **kwargs}))


def deit(**kwargs: Any) -> Any:
    torch.manual_seed(1)
    return loud(VisionTransformerDistilled(**{**SMALL, "depth": 3, **kwargs}))


def create(name: str, **kwargs: Any) -> Any:
    return timm.create_model(name, **kwargs)


def images(height: int = 16, width: int = 16, batch: int = 2) -> Tensor:
    return torch.randn(batch, 3, height, width, generator=torch.Generator().manual_seed(2))


def without_position(model: Any) -> Any:
    for name, parameter in model.named_parameters():
        if name.endswith("position_alpha"):
            torch.nn.init.zeros_(parameter)
    return model


def macs(name: str) -> float:
    with torch.device("meta"):
        model, image = create(name), torch.empty(1, 3, 224, 224)
    with FlopCounterMode(display=False) as counter:
        model(image)
    return counter.get_total_flops() / 2


@pytest.mark.parametrize(("name", "parameters", "gmacs"), TABLE)
def test_sizes_are_the_papers(name: str, parameters: int, gmacs: float) -> None:
    with torch.device("meta"):
        model = create(name)
    assert sum(p.numel() for p in model.parameters()) == parameters
    twin = macs(name.replace("_patch16", "_mhsa_patch16"))
    heads = model.blocks[0].attn.num_heads
    # The table counts v . r as 3 products a pair of patches; folded it is 4 channels in q.k and v.
    assert (twin + 8 * heads * 196**2 * 3) / 1e9 == pytest.approx(gmacs, abs=0.005)
    assert macs(name) - twin == 8 * heads * 198**2 * 8


@pytest.mark.parametrize(
    ("name", "heads", "mhca"),
    [
        ("dearkd_tiny_patch16_224", 12, 8),
        ("dearkd_small_patch16_224", 12, 8),
        ("dearkd_base_patch16_224", 16, 8),
        ("dearkd_micro_patch4_32", 9, 8),
        ("dearkd_mini_patch4_32", 9, 5),
        ("dearkd_tiny_patch4_32", 12, 8),
        ("dearkd_tiny_mhsa_patch16_224", 12, 0),
        ("dearkd_small_mhsa_patch16_224", 12, 0),
        ("dearkd_base_mhsa_patch16_224", 16, 0),
        ("dearkd_micro_mhsa_patch4_32", 9, 0),
        ("dearkd_mini_mhsa_patch4_32", 9, 0),
        ("dearkd_tiny_mhsa_patch4_32", 12, 0),
        ("deit_micro_distilled_patch4_32", 3, 0),
        ("deit_mini_distilled_patch4_32", 3, 0),
        ("deit_tiny_distilled_patch4_32", 3, 0),
    ],
)
def test_registered_models(name: str, heads: int, mhca: int) -> None:
    with torch.device("meta"):
        model = create(name, num_classes=7)
    size = 32 if name.endswith("32") else 224
    assert model.patch_embed.img_size == (size, size)
    assert model.default_cfg["input_size"] == (3, size, size)
    assert model.default_cfg["classifier"] == ("head", "head_dist")
    assert model.default_cfg["mean"] == ((0.5,) * 3 if size == 32 else (0.485, 0.456, 0.406))
    assert model.head.out_features == model.head_dist.out_features == 7
    layers = [block.attn for block in model.blocks]
    assert [isinstance(attn, MultiHeadConvAttention) for attn in layers] == [
        i < mhca for i in range(7 if "mini" in name else 12)
    ]
    assert {attn.num_heads for attn in layers} == {heads}


def test_position_parameters_are_three_a_head_and_take_no_weight_decay() -> None:
    model, plain = student(), student(mhca_depth=0)
    added = dict(model.named_parameters()).keys() - dict(plain.named_parameters()).keys()
    assert sum(model.get_parameter(name).numel() for name in added) == 2 * 9 * 3
    assert model.no_weight_decay() - plain.no_weight_decay() == added
    assert {"pos_embed", "cls_token", "dist_token"} < plain.no_weight_decay()
    gated = student(mhca_fusion="gated")
    assert isinstance(gated.blocks[1].attn, GatedMultiHeadConvAttention)
    extra = sum(p.numel() for p in gated.parameters()) - sum(p.numel() for p in model.parameters())
    assert extra == 2 * 9


def test_weights_start_as_timms_and_heads_as_a_kernel() -> None:
    model: Any = DearKDVisionTransformer(**SMALL, depth=3, mhca_depth=2)
    attn = model.blocks[1].attn
    assert attn.qkv.weight.std().item() == pytest.approx(0.02, rel=0.1)
    assert attn.position_alpha.tolist() == [1.0] * 9
    assert sorted(attn.position_centres.tolist()) == [
        [i, j] for i in (-1, 0, 1) for j in (-1, 0, 1)
    ]
    torch.nn.init.zeros_(attn.position_centres)
    model.init_weights(needs_reset=True)
    assert attn.position_centres.abs().sum() > 0


@pytest.mark.parametrize("mhca_depth", [0, 2])
def test_deit_weights_give_deits_logits_when_the_position_term_is_off(mhca_depth: int) -> None:
    model, source = student(mhca_depth=mhca_depth), deit()
    kept = initialise_from(model, source)
    assert kept == tuple(
        f"blocks.{i}.attn.position_{part}"
        for i in range(mhca_depth)
        for part in ("alpha", "centres")
    )
    if mhca_depth:
        assert (model(images()) - source(images())).abs().max() > 1e-3
    torch.testing.assert_close(without_position(model)(images()), source(images()))
    features = source.forward_features(images())
    torch.testing.assert_close(model.forward_features(images()), features)


def test_timms_deit_tiny_gives_its_logits_in_ours() -> None:
    torch.manual_seed(0)
    source = create("deit_tiny_distilled_patch16_224", num_heads=12, img_size=64).eval()
    model = create("dearkd_tiny_patch16_224", img_size=64).eval()
    initialise_from(model, source)
    x = images(64, 64)
    torch.testing.assert_close(without_position(model)(x), source(x))


def test_initialising_resamples_positions_and_keeps_heads_of_other_classes() -> None:
    model, source = student(img_size=(24, 16), num_classes=4), deit()
    head = model.head.weight.clone()
    kept = initialise_from(model, source)
    assert {"head.weight", "head.bias", "head_dist.weight", "head_dist.bias"} <= set(kept)
    assert torch.equal(model.head.weight, head)
    source.set_input_size((24, 16))
    assert torch.equal(model.pos_embed, source.pos_embed)
    assert torch.equal(model.blocks[2].mlp.fc1.weight, source.blocks[2].mlp.fc1.weight)


def test_initialising_from_a_student_copies_its_position_parameters() -> None:
    model, source = student(), student()
    torch.nn.init.normal_(source.blocks[0].attn.position_centres)
    assert initialise_from(model, source) == ()
    torch.testing.assert_close(model(images()), source(images()))


def test_initialising_across_head_counts_warns() -> None:
    with pytest.warns(UserWarning, match="source has 3 attention heads and the student 9"):
        initialise_from(student(), deit(num_heads=3))


@pytest.mark.parametrize(
    ("source", "named"),
    [
        (lambda: deit(embed_dim=72), "blocks.0.attn.proj.bias"),
        (lambda: deit(depth=2), "blocks.2"),
        (lambda: deit(depth=4), "blocks.3"),
        (lambda: deit(patch_size=8), "patch_embed.proj.weight"),
        (lambda: student(mhca_depth=3), "blocks.2.attn.position_alpha"),
    ],
)
def test_sources_that_do_not_fit_are_refused(source: Callable[[], Any], named: str) -> None:
    model = student()
    before = copy.deepcopy(model.state_dict())
    with pytest.raises(ValueError, match=f"does not fit the student: {named}"):
        initialise_from(model, source())
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())


def test_create_model_loads_a_saved_student(tmp_path: Path) -> None:
    arguments: dict[str, Any] = {"num_classes": 3, "img_size": 24}
    saved = create("dearkd_micro_patch4_32", **arguments).eval()
    torch.nn.init.normal_(saved.blocks[0].attn.position_centres)
    path = tmp_path / "model.safetensors"
    save_file(saved.state_dict(), path)
    loaded = create("dearkd_micro_patch4_32", checkpoint_path=str(path), **arguments)
    assert torch.equal(loaded.eval()(images(24, 24)), saved(images(24, 24)))


def test_pretrained_reads_deit_weights_from_a_file(tmp_path: Path) -> None:
    torch.manual_seed(1)
    source = create("deit_micro_distilled_patch4_32", num_heads=9).eval()
    path = tmp_path / "deit.safetensors"
    save_file(source.state_dict(), path)
    overlay = {"file": str(path)}
    model = create("dearkd_micro_patch4_32", pretrained=True, pretrained_cfg_overlay=overlay)
    torch.testing.assert_close(
        without_position(model.eval())(images(32, 32)), source(images(32, 32))
    )


def test_pretrained_without_weights_is_timms_error() -> None:
    with pytest.raises(RuntimeError, match="No pretrained weights exist for dearkd_micro"):
        create("dearkd_micro_patch4_32", pretrained=True)


@pytest.mark.parametrize(
    ("kwargs", "message"),
    [
        ({"mhca_depth": 4}, "mhca_depth must be 0 to 3"),
        ({"mhca_fusion": "mixed"}, "mhca_fusion must be additive or gated, got 'mixed'"),
        ({"mhca_depth": -1}, "mhca_depth must be 0 to 3"),
        ({"patch_drop_rate": 0.1}, "patch_drop_rate must be 0"),
        ({"attn_drop_rate": 1.5}, "attn_drop_rate must be at least 0 and less than 1, got 1.5"),
        ({"proj_drop_rate": -0.1}, "proj_drop_rate must be at least 0 and less than 1, got -0.1"),
        ({"drop_path_rate": 1}, "drop_path_rate must be at least 0 and less than 1, got 1"),
        ({"no_embed_class": True}, "no_embed_class must be False"),
        ({"reg_tokens": 4}, "reg_tokens=4 has no effect on a distilled transformer; leave it out"),
        ({"fc_norm": True}, "fc_norm=True has no effect"),
        ({"pos_embed": "none"}, "pos_embed=none has no effect"),
        ({"pool_include_prefix": True}, "pool_include_prefix=True has no effect"),
        ({"mhca_dropout": 1.0}, "mhca_dropout must be at least 0 and less than 1, got 1"),
        ({"mhca_alpha": -1.0}, "mhca_alpha must be at least 0 and at most 100, got -1"),
        (
            {"mhca_depth": 0, "mhca_alpha": 0.1},
            "mhca_alpha=0.1 and mhca_dropout=0 have no effect with mhca_depth=0",
        ),
        (
            {"mhca_depth": 0, "mhca_fusion": "gated"},
            "mhca_fusion=gated, mhca_alpha=1 and mhca_dropout=0 have no effect with mhca_depth=0",
        ),
    ],
)
def test_bad_settings_are_refused(kwargs: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        student(**kwargs)
    with pytest.raises(ValueError, match=message):
        create("dearkd_micro_patch4_32", depth=3, **{"mhca_depth": 2, **kwargs})


@pytest.mark.parametrize("name", timm.list_models("dearkd_*_patch*"))
def test_options_of_mhca_reach_every_registered_student(name: str) -> None:
    options = {"mhca_depth": 4, "attn_drop_rate": 0.1, "proj_drop_rate": 0.2}
    with torch.device("meta"):
        model = create(name, mhca_fusion="gated", **options)
    kinds = [isinstance(block.attn, GatedMultiHeadConvAttention) for block in model.blocks]
    assert kinds == [True] * 4 + [False] * (len(kinds) - 4)
    for block in model.blocks:
        assert (block.attn.attn_drop.p, block.attn.proj_drop.p) == (0.1, 0.2)


def test_heads_start_as_sharp_as_they_are_told_to() -> None:
    model: Any = student(mhca_alpha=0.25, mhca_dropout=0.1)
    layers = [block.attn for block in model.blocks if hasattr(block.attn, "position_alpha")]
    assert len(layers) == 2
    for attn in layers:
        assert attn.position_drop == 0.1
        assert torch.equal(attn.position_alpha, torch.full((9,), 0.25))
    model.blocks[0].attn.position_alpha.data.zero_()
    model.blocks[0].attn.reset_parameters()
    assert torch.equal(model.blocks[0].attn.position_alpha, torch.full((9,), 0.25))


def test_dropout_in_mhca_acts_in_training_alone() -> None:
    model = student(attn_drop_rate=0.5)
    assert torch.equal(model(images()), model(images()))
    model.train()
    assert not torch.equal(model(images()), model(images()))


def test_dynamic_size_is_a_model_set_to_that_size() -> None:
    dynamic = student(dynamic_img_size=True)
    for height, width in ((16, 16), (24, 12), (12, 24)):
        resized = student()
        resized.set_input_size((height, width))
        x = images(height, width)
        torch.testing.assert_close(dynamic(x), resized(x), rtol=1e-4, atol=1e-5)
    # 18 tokens on a 6x3 grid are not the same 18 on a 3x6 grid
    tokens = torch.randn(2, 20, 36)
    attn, wide = dynamic.blocks[0].attn, dynamic.blocks[0].attn(tokens)
    attn.set_grid_size((6, 3))
    assert (attn(tokens) - wide).abs().max() > 1e-2


def test_set_input_size_changes_the_grid_and_nothing_learned_but_pos_embed() -> None:
    model = student()
    before = copy.deepcopy(model.state_dict())
    model.set_input_size((24, 12))
    assert model.blocks[0].attn.grid_size == (6, 3)
    assert model(images(24, 12)).shape == (2, 5)
    changed = {n for n, v in model.state_dict().items() if v.shape != before[n].shape}
    assert changed == {"pos_embed"}
    same = model.state_dict()["blocks.0.attn.position_centres"]
    assert torch.equal(same, before["blocks.0.attn.position_centres"])


def test_forward_intermediates_gives_the_tapped_map() -> None:
    model = student()
    final, maps = model.forward_intermediates(images(), indices=[1], norm=False, output_fmt="NCHW")
    assert maps[0].shape == (2, 36, 4, 4)
    torch.testing.assert_close(model.forward_head(final), model(images()))
    tokens = model._pos_embed(model.patch_embed(images()))
    tokens = model.blocks[1](model.blocks[0](tokens))[:, 2:]
    torch.testing.assert_close(maps[0].flatten(2).mT, tokens)


def test_distilled_training_returns_both_heads() -> None:
    model = student().train()
    model.set_distilled_training(True)
    class_logits, dist_logits = model(images())
    assert class_logits.shape == dist_logits.shape == (2, 5)
    model.eval()
    torch.testing.assert_close(model(images()), (class_logits + dist_logits) / 2)


def test_gradient_checkpointing_changes_nothing() -> None:
    model, gradients = student().train(), []
    for enable in (False, True):
        model.set_grad_checkpointing(enable)
        model.zero_grad()
        model(images()).square().sum().backward()
        gradients.append(model.blocks[0].attn.position_alpha.grad.clone())
    torch.testing.assert_close(*gradients)
    assert gradients[0].abs().min() > 0


def test_copies_and_state_dicts_round_trip() -> None:
    model = student(dynamic_img_size=True)
    torch.nn.init.normal_(model.blocks[0].attn.position_centres)
    clone = copy.deepcopy(model)
    assert torch.equal(clone(images()), model(images()))
    fresh = student(dynamic_img_size=True)
    fresh.load_state_dict(model.state_dict())
    assert torch.equal(fresh(images()), model(images()))

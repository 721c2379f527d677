"""Attention distance and token cosine: against slow forms, limits, and timm's own forward."""

import math

import pytest
import timm
import torch
import torch.nn.functional as F

from dearkd.analysis.attention_distance import (
    attention_distance,
    block_views,
    grid_of,
    has_readable_attention,
    measure_attention,
    token_cosine,
)


def slow_distance(weights, rows, columns):
    """ConViT's eq. 8 as four loops over patches, rows divided by their sum over patches."""
    batch, heads, tokens, _ = weights.shape
    prefix = tokens - rows * columns
    result = torch.zeros(heads, dtype=torch.float64)
    for b in range(batch):
        for h in range(heads):
            for i in range(rows * columns):
                row = weights[b, h, prefix + i, prefix:]
                for j in range(rows * columns):
                    down, right = i // columns - j // columns, i % columns - j % columns
                    result[h] += row[j] / row.sum() * math.hypot(down, right)
    return result / (batch * rows * columns)


@pytest.mark.parametrize("prefix", [0, 1, 2])
def test_distance_is_equation_8(prefix):
    generator = torch.Generator().manual_seed(prefix)
    tokens = prefix + 3 * 4
    scores = torch.randn(2, 3, tokens, tokens, dtype=torch.float64, generator=generator)
    weights = (2 * scores).softmax(-1)
    expected = slow_distance(weights, 3, 4)
    torch.testing.assert_close(attention_distance(weights, (3, 4)), expected, rtol=1e-12, atol=0)


def test_distance_of_known_heads():
    patches = 5 * 5
    itself = torch.eye(patches)
    right = torch.eye(patches).roll(1, dims=1)  # the next patch; the last of a row: far left, below
    everywhere = torch.full((patches, patches), 1 / patches)
    where = [(i // 5, i % 5) for i in range(patches)]
    spread = sum(math.dist(a, b) for a in where for b in where) / patches**2
    steps = (20 * 1 + 4 * math.hypot(1, 4) + math.hypot(4, 4)) / patches
    weights = torch.stack([itself, right, everywhere])[None].double()
    expected = torch.tensor([0.0, steps, spread], dtype=torch.float64)
    torch.testing.assert_close(attention_distance(weights, (5, 5)), expected, rtol=1e-6, atol=1e-9)


def test_what_goes_to_prefix_tokens_does_not_shorten_the_distance():
    scores = torch.randn(1, 2, 9, 9, dtype=torch.float64)
    alone = attention_distance(scores.softmax(-1), (3, 3))
    for gift in (-5.0, 0.0, 5.0):
        with_token = F.pad(scores, (1, 0, 1, 0), value=gift).softmax(-1)
        torch.testing.assert_close(attention_distance(with_token, (3, 3)), alone)
    nothing_left = F.pad(torch.zeros(1, 2, 10, 9), (1, 0), value=1.0)
    assert attention_distance(nothing_left, (3, 3)).tolist() == [0.0, 0.0]


def test_token_cosine_of_known_tokens():
    tokens = torch.zeros(2, 5, 4)
    tokens[0, 0], tokens[0, 1] = torch.tensor([1.0, 0, 0, 0]), torch.tensor([3.0, 4, 0, 0])
    tokens[1, 0], tokens[1, 1] = torch.tensor([1.0, 1, 0, 0]), torch.tensor([-1.0, -1, 0, 0])
    assert token_cosine(tokens).item() == pytest.approx((0.6 - 1.0) / 2)


@pytest.mark.parametrize(
    ("name", "arguments"),
    [
        ("toy_student", {}),
        ("toy_student", {"mhca_fusion": "gated"}),
        ("deit_tiny_patch16_224", {"img_size": 48, "depth": 3}),
        ("deit_tiny_distilled_patch16_224", {"img_size": 48, "depth": 3}),
        ("vit_base_patch32_clip_224", {"img_size": 96, "depth": 2}),  # norm_pre
        ("vit_small_patch16_dinov3", None),
        ("vit_tiny_patch16_224", {"img_size": 48, "depth": 2, "global_pool": "avg"}),
    ],
)
def test_views_end_where_the_models_own_forward_ends(name, arguments):
    if arguments is None:
        assert not has_readable_attention(timm.create_model(name))  # rotary positions
        return
    torch.manual_seed(0)
    model = timm.create_model(name, num_classes=10, **arguments).eval()
    assert has_readable_attention(model)
    side = model.patch_embed.img_size[0]
    images = torch.randn(2, 3, side, side)
    with torch.no_grad():
        views = list(block_views(model, images))
        expected, last = model.forward_features(images), model.norm(views[-1].tokens)
    assert len(views) == len(model.blocks) + 1
    assert views[0].weights is None
    torch.testing.assert_close(last, expected, rtol=1e-4, atol=1e-5)
    rows, columns = grid_of(model, images)
    for view in views[1:]:
        assert view.weights.shape[-1] == rows * columns + model.num_prefix_tokens
        torch.testing.assert_close(view.weights.sum(-1), torch.ones_like(view.weights[..., 0]))


@pytest.mark.parametrize("name", ["resnet10t", "swin_tiny_patch4_window7_224", "convit_tiny"])
def test_other_networks_are_not_mistaken_for_readable_ones(name):
    assert not has_readable_attention(timm.create_model(name))


def test_measures_by_hand_and_the_mode_is_kept():
    torch.manual_seed(0)
    model = timm.create_model("toy_student", num_classes=10).double().train()
    images = torch.randn(3, 3, 16, 16, dtype=torch.float64)
    measures = measure_attention(model, images)
    assert model.training
    model.eval()
    with torch.no_grad():
        views = list(block_views(model, images))
    for block, view in enumerate(views[1:]):
        expected = slow_distance(view.weights, 4, 4)
        torch.testing.assert_close(measures.distance[block], expected)
    for depth, view in enumerate(views):
        a, b = view.tokens[:, 0], view.tokens[:, 1]
        cosine = (a * b).sum(-1) / (a.norm(dim=-1) * b.norm(dim=-1))
        assert measures.cosine[depth].item() == pytest.approx(cosine.mean().item())
    assert measures.cosine.shape == (len(model.blocks) + 1,)


def test_a_sharp_head_at_an_offset_has_that_distance():
    model = timm.create_model("toy_student", num_classes=10, img_size=64).eval()
    attn = model.blocks[0].attn
    with torch.no_grad():
        attn.position_alpha.fill_(50.0)
        attn.position_centres.copy_(torch.tensor([[0.0, 0.0], [0.0, 1.0], [2.0, 0.0], [3.0, 4.0]]))
        inner = list(block_views(model, torch.randn(1, 3, 64, 64)))[1].weights[0]
    middle = 2 + 8 * 16 + 8  # a patch far from the borders: they bend the heads
    for head, (down, right) in enumerate([(0, 0), (0, 1), (2, 0), (3, 4)]):
        assert inner[head, middle].argmax().item() == middle + down * 16 + right


def test_no_token_cosine_without_a_distillation_token():
    model = timm.create_model("vit_tiny_patch16_224", img_size=32, depth=1, num_classes=4)
    measures = measure_attention(model, torch.randn(2, 3, 32, 32))
    assert measures.cosine is None
    assert measures.distance.shape == (1, 3)

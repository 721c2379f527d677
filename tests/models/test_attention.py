import math
from typing import Any

import pytest
import torch
from timm.layers.attention import Attention
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from dearkd.models.attention import (
    GatedMultiHeadConvAttention,
    MultiHeadConvAttention,
    attention_matrix,
)
from dearkd.models.position import (
    initial_positions,
    patch_coordinates,
    position_channels,
    position_scores,
    split_channels,
)

GRIDS = [(4, 4), (3, 5), (5, 2), (1, 6)]
HEADS, DIM = 4, 24


def layer(
    kind: type[MultiHeadConvAttention] = MultiHeadConvAttention,
    grid: tuple[int, int] = (4, 4),
    dtype: torch.dtype = torch.float64,
    **kwargs: Any,
) -> Any:
    """A layer whose heads sit at random places, one of them looking away (alpha < 0)."""
    torch.manual_seed(0)
    attn = kind(DIM, num_heads=HEADS, qkv_bias=True, **kwargs).to(dtype)
    attn.set_grid_size(grid)
    with torch.no_grad():
        attn.position_alpha.copy_(torch.tensor([0.7, 1.3, 0.05, -0.2]))
        attn.position_centres.normal_()
    return attn


def tokens(grid: tuple[int, int], prefix: int, dtype: torch.dtype = torch.float64) -> Tensor:
    generator = torch.Generator().manual_seed(1)
    shape = (2, grid[0] * grid[1] + prefix, DIM)
    return torch.randn(shape, generator=generator, dtype=torch.float64).to(dtype).requires_grad_()


def relative_encoding(grid: tuple[int, int], prefix: int) -> Tensor:
    """r of every pair, one by one: (|delta|^2, rows down, columns right), 0 for prefixes."""
    height, width = grid
    count = height * width + prefix
    r = torch.zeros(count, count, 3, dtype=torch.float64)
    for i in range(height * width):
        for j in range(height * width):
            down, right = j // width - i // width, j % width - i % width
            r[prefix + i, prefix + j] = torch.tensor([down**2 + right**2, down, right])
    return r


def slow_scores(attn: MultiHeadConvAttention, grid: tuple[int, int], prefix: int) -> Tensor:
    alpha, centres = attn.position_alpha, attn.position_centres
    v = torch.stack((-alpha, 2 * alpha * centres[:, 0], 2 * alpha * centres[:, 1]), dim=1)
    return (relative_encoding(grid, prefix)[None] * v[:, None, None, :]).sum(-1)


def slow_forward(attn: MultiHeadConvAttention, x: Tensor, prefix: int) -> Tensor:
    """The definition head by head, for the additive and the gated form."""
    position = slow_scores(attn, attn.grid_size, prefix)
    q, k, v = attn.qkv(x).chunk(3, dim=-1)
    size, outputs = DIM // HEADS, []
    for head in range(HEADS):
        part = slice(head * size, (head + 1) * size)
        content = q[..., part] @ k[..., part].mT / math.sqrt(size)
        if isinstance(attn, GatedMultiHeadConvAttention):
            gate = 1 / (1 + torch.exp(-attn.position_gate[head]))
            weights = (1 - gate) * content.softmax(-1) + gate * position[head].softmax(-1)
        else:
            weights = (content + position[head]).softmax(-1)
        outputs.append(weights @ v[..., part])
    return attn.proj(torch.cat(outputs, dim=-1))


def output_and_gradients(attn: MultiHeadConvAttention, x: Tensor, out: Tensor) -> list[Tensor]:
    weights = torch.linspace(-1, 1, out.numel(), dtype=out.dtype).view_as(out)
    return [out, *torch.autograd.grad((out * weights).sum(), [x, *attn.parameters()])]


@pytest.mark.parametrize("kind", [MultiHeadConvAttention, GatedMultiHeadConvAttention])
@pytest.mark.parametrize("prefix", [0, 2])
@pytest.mark.parametrize("grid", GRIDS)
def test_layer_is_the_definition_in_output_and_all_gradients(
    grid: tuple[int, int], prefix: int, kind: type[MultiHeadConvAttention]
) -> None:
    attn, x = layer(kind, grid), tokens(grid, prefix)
    ours = output_and_gradients(attn, x, attn(x))
    slow = output_and_gradients(attn, x, slow_forward(attn, x, prefix))
    for got, expected in zip(ours, slow, strict=True):
        assert (got - expected).abs().max() <= 1e-10
        assert got.abs().max() > 0


def test_unfused_path_is_the_fused_one() -> None:
    attn, x = layer(), tokens((4, 4), 2)
    fused = attn(x)
    attn.fused_attn = False
    assert (attn(x) - fused).abs().max() <= 1e-12


@pytest.mark.parametrize("grid", GRIDS)
def test_dense_scores_are_v_dot_r_pair_by_pair(grid: tuple[int, int]) -> None:
    attn = layer(grid=grid)
    ours = position_scores(
        attn.position_alpha, attn.position_centres, patch_coordinates(grid, torch.float64), 2
    )
    torch.testing.assert_close(ours, slow_scores(attn, grid, 2), rtol=0, atol=1e-12)


def test_prefix_pairs_score_exactly_zero() -> None:
    attn = layer()
    coordinates = patch_coordinates((4, 4), torch.float64)
    scores = position_scores(attn.position_alpha, attn.position_centres, coordinates, 2)
    assert (scores[:, :2] == 0).all() and (scores[:, :, :2] == 0).all()
    query, key = position_channels(
        attn.position_alpha, attn.position_centres, coordinates, 2, attn.scale
    )
    folded = query @ key.mT
    assert (folded[:, :2] == 0).all()  # a prefix query sees no position at all
    # For a patch query every column lacks the same c_i, the prefix ones included.
    constant = folded[:, 2:, :2]
    assert (constant[..., 0] == constant[..., 1]).all()
    patches = (folded[:, 2:, 2:] - constant[..., :1]) * attn.scale
    torch.testing.assert_close(patches, scores[:, 2:, 2:], rtol=0, atol=1e-12)


@pytest.mark.parametrize(("down", "right"), [(1, 0), (0, 1), (-1, 0), (0, -1), (1, -1)])
def test_a_sharp_head_looks_at_the_patch_at_its_centre(down: int, right: int) -> None:
    grid = (4, 5)
    attn = layer(grid=grid)
    with torch.no_grad():
        attn.qkv.weight.zero_()
        attn.qkv.bias.zero_()
        attn.position_alpha.fill_(50.0)
        attn.position_centres.copy_(torch.tensor([down, right]).expand(HEADS, 2))
    matrix = attention_matrix(attn, tokens(grid, 2))
    values = torch.randn(2, HEADS, 22, 6, dtype=torch.float64)
    zeros = torch.zeros_like(values)
    for row in range(1, 3):
        for column in range(1, 4):
            query, key = 2 + row * 5 + column, 2 + (row + down) * 5 + column + right
            assert (matrix[:, :, query, key] > 0.999).all()
            moved = attn._fused(zeros, zeros, values)[:, :, query]
            torch.testing.assert_close(moved, values[:, :, key], rtol=0, atol=1e-6)


@pytest.mark.parametrize(("heads", "side"), [(3, 1), (6, 2), (9, 3), (12, 3), (16, 4)])
def test_heads_start_on_a_square_grid_of_centres(heads: int, side: int) -> None:
    alpha, centres = initial_positions(heads)
    steps = [i - (side - 1) / 2 for i in range(side)]
    expected = [[down, right] for down in steps for right in steps]
    assert centres[: side**2].tolist() == expected
    assert (alpha[: side**2] == 1).all()
    assert (centres[side**2 :] == 0).all() and (alpha[side**2 :] < 0.2).all()


def test_alpha_zero_is_timm_attention() -> None:
    attn = layer()
    with torch.no_grad():
        attn.position_alpha.zero_()
    plain = Attention(DIM, num_heads=HEADS, qkv_bias=True).double()
    loaded = plain.load_state_dict(attn.state_dict(), strict=False)
    assert loaded.missing_keys == []
    assert sorted(loaded.unexpected_keys) == ["position_alpha", "position_centres"]
    x = tokens((4, 4), 2)
    assert (attn(x) - plain(x)).abs().max() <= 1e-12


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("head_dim", [12, 16, 32, 48])
def test_split_channels_keep_half_precision_close(head_dim: int, dtype: torch.dtype) -> None:
    """Worst entry of the position term's attention matrix, 14x14 patches, learned-like heads."""
    torch.manual_seed(0)
    alpha, centres = torch.rand(12) * 1.5 + 0.05, torch.randn(12, 2) * 1.5
    coordinates, scale = patch_coordinates((14, 14)), head_dim**-0.5
    exact = position_scores(alpha.double(), centres.double(), coordinates.double(), 2)

    def error(scores: Tensor) -> float:
        return (scores.softmax(-1) - exact.softmax(-1)).abs().max().item()

    def product(query: Tensor, key: Tensor) -> Tensor:
        return query.to(dtype).double() @ key.to(dtype).double().mT * scale

    four = position_channels(alpha, centres, coordinates, 2, scale)
    split = error(product(*split_channels(*four)))
    assert split <= 4e-4  # 1.0e-4 to 2.8e-4 measured in bfloat16, a tenth in float16
    assert error(exact.to(dtype).double()) > 5 * split  # a bias tensor in that dtype
    assert error(product(*four)) > 50 * split  # the channels without the split


def test_split_channels_have_the_gradient_of_the_four() -> None:
    attn = layer(dtype=torch.float32)
    coordinates = patch_coordinates((4, 4))
    leaves = [attn.position_alpha, attn.position_centres]
    four = position_channels(leaves[0], leaves[1], coordinates, 2, attn.scale)
    for channels in (four, split_channels(*four)):
        product = channels[0] @ channels[1].mT
        product.sin().sum().backward(retain_graph=True)
    gradients = torch.autograd.grad((four[0] @ four[1].mT).sin().sum(), leaves)
    for leaf, gradient in zip(leaves, gradients, strict=True):
        torch.testing.assert_close(leaf.grad, 2 * gradient, rtol=1e-4, atol=1e-4)


def test_autocast_costs_the_position_term_nothing() -> None:
    """bfloat16 autocast is as close to float32 with the position term as without it."""
    grid = (14, 14)
    attn = layer(grid=grid, dtype=torch.float32)
    x = tokens(grid, 2, torch.float32)

    def error() -> float:
        with torch.autocast("cpu", torch.bfloat16):
            half = attn(x)
        assert half.dtype == torch.bfloat16
        return (half.float() - attn(x)).abs().max().item() / attn(x).abs().max().item()

    with torch.no_grad():
        attn.position_alpha.abs_()
        with_position = error()
        attn.position_alpha.zero_()
        assert with_position < 2 * error()


class _Recorder(TorchDispatchMode):
    def __init__(self) -> None:
        super().__init__()
        self.names: set[str] = set()
        self.largest = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):  # type: ignore[no-untyped-def]
        out = func(*args, **(kwargs or {}))
        self.names.add(func.overloadpacket.__name__)
        for item in out if isinstance(out, (tuple, list)) else (out,):
            if isinstance(item, Tensor):
                self.largest = max(self.largest, item.numel())
        return out


def test_additive_takes_the_fused_kernel_and_builds_no_bias() -> None:
    grid = (12, 12)
    attn = layer(grid=grid, dtype=torch.float32)
    with _Recorder() as recorder:
        attn(tokens(grid, 2, torch.float32)).sum().backward()
    assert any("flash_attention" in name and "backward" not in name for name in recorder.names)
    assert any("flash_attention" in name and "backward" in name for name in recorder.names)
    assert recorder.largest < HEADS * 146 * 146


@pytest.mark.parametrize("kind", [MultiHeadConvAttention, GatedMultiHeadConvAttention])
@pytest.mark.parametrize("which", ["attn_drop", "proj_drop"])
def test_dropout_acts_in_training_alone(which: str, kind: type[MultiHeadConvAttention]) -> None:
    rates: dict[str, Any] = {which: 0.5}
    attn, x = layer(kind, **rates), tokens((4, 4), 2)
    assert not torch.equal(attn(x), attn(x))
    attn.eval()
    assert torch.equal(attn(x), attn(x))


@pytest.mark.parametrize("unfused", [False, True])
@pytest.mark.parametrize("kind", [MultiHeadConvAttention, GatedMultiHeadConvAttention])
def test_position_dropout_takes_the_term_from_some_heads_of_some_images(
    kind: type[MultiHeadConvAttention], unfused: bool
) -> None:
    attn, x = layer(kind), tokens((4, 4), 2)
    attn.position_drop = 0.5
    if unfused:
        attn.fused_attn = False
    torch.manual_seed(3)
    got = attn(x)
    torch.manual_seed(3)
    kept = torch.rand(2, HEADS) >= 0.5
    assert 0 < kept.sum() < 2 * HEADS
    for image, alive in enumerate(kept):
        twin = layer(kind)
        twin.load_state_dict(attn.state_dict())
        with torch.no_grad():
            if isinstance(twin, GatedMultiHeadConvAttention):
                twin.position_gate.masked_fill_(~alive, -math.inf)  # by content alone
            else:
                twin.position_alpha.mul_(alive)
        alone = slow_forward(twin, x[image : image + 1], 2)
        torch.testing.assert_close(got[image : image + 1], alone, rtol=0, atol=1e-10)
    attn.eval()
    assert torch.equal(attn(x), attn(x))


def test_attention_matrix_reproduces_plain_and_convolutional_layers() -> None:
    plain = Attention(DIM, num_heads=HEADS).double()
    x = tokens((4, 4), 2)
    for attn in (plain, layer(), layer(GatedMultiHeadConvAttention)):
        matrix = attention_matrix(attn, x)
        value = attn.qkv(x).chunk(3, dim=-1)[2].unflatten(-1, (HEADS, -1)).transpose(1, 2)
        out = attn.proj((matrix @ value).transpose(1, 2).flatten(2))
        torch.testing.assert_close(out, attn(x), rtol=0, atol=1e-12)


def test_a_sample_does_not_see_its_batch() -> None:
    attn, x = layer(), tokens((4, 4), 2)
    torch.testing.assert_close(attn(x)[:1], attn(x[:1]), rtol=0, atol=1e-12)


def test_masks_are_refused() -> None:
    attn, x = layer(), tokens((4, 4), 2)
    with pytest.raises(ValueError, match="no attn_mask or is_causal"):
        attn(x, attn_mask=torch.zeros(18, 18, dtype=torch.float64))
    with pytest.raises(ValueError, match="no attn_mask or is_causal"):
        attn(x, is_causal=True)

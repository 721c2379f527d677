"""Attention, forward and backward: MHCA beside ConViT's GPSA, a bias tensor and plain attention.

    python scripts/bench_attention.py --json scripts/results/bench_attention_cpu.json
    python scripts/bench_attention.py --device cuda --json scripts/results/bench_attention_cuda.json

"ours" is the layer with its projections as training has it on this device
(`dearkd.models.attention.set_attention`); "folded" and "products" are its two forms, one of
which it is. GPSA is timm's, on the patches alone, as it knows no prefix tokens. Outputs of
"folded", "products" and "bias tensor" are compared before anything is timed. "ours, mixed" is the
arithmetic of training on a CPU with units for bf16. ``--growth`` times "ours" and "plain" over 66
to 1,026 tokens instead.
"""

import argparse
import copy
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from side_by_side import floors, in_turns, machine, print_rows, write
from timm.layers.attention import Attention
from timm.models.convit import GPSA
from torch import Tensor, nn

from dearkd.models.attention import MultiHeadConvAttention, dense_positions, set_attention
from dearkd.models.position import (
    folded_channels,
    patch_coordinates,
    position_scores,
)
from dearkd.models.precision import precision_context
from synth.facts import bf16_units

Layers = dict[str, nn.Module]

# dim, heads, batch on a CPU
STUDENTS = {"micro": (108, 9, 64), "Ti": (192, 12, 16), "S": (384, 12, 16), "B": (768, 16, 8)}
GROWTH = (8, 14, 20, 26, 32)
"""Sides of the grids of ``--growth``: 66, 198, 402, 678 and 1,026 tokens."""


class BiasAttention(MultiHeadConvAttention):
    """The usual way: the position scores as a float mask of heads * tokens^2 numbers."""

    def _fused(self, query: Tensor, key: Tensor, value: Tensor) -> Tensor:
        bias = dense_positions(self.position_alpha, self.position_centres, self.grid_size, value)
        return F.scaled_dot_product_attention(query, key, value, attn_mask=bias)


class Alone(nn.Module):
    """A layer as a network of one, with a grid for ``set_attention``."""

    def __init__(self, layer: nn.Module, side: int) -> None:
        super().__init__()
        self.layer = layer
        self.patch_embed = nn.Identity()
        self.patch_embed.num_patches = side * side  # type: ignore[assignment]


def layers(dim: int, heads: int, side: int, device: torch.device) -> Layers:
    """One layer of each kind; those of ours share their weights."""
    torch.manual_seed(0)
    folded = MultiHeadConvAttention(dim, num_heads=heads, qkv_bias=True).to(device)
    folded.set_grid_size((side, side))
    products, ours = copy.deepcopy(folded), copy.deepcopy(folded)
    setattr(products, "fused_attn", False)  # noqa: B010 - final for TorchScript alone
    set_attention(Alone(ours, side), device)
    bias = BiasAttention(dim, num_heads=heads, qkv_bias=True).to(device)
    bias.set_grid_size((side, side))
    bias.load_state_dict(folded.state_dict())
    return {
        "ours": ours,
        "folded": folded,
        "products": products,
        "bias tensor": bias,
        "plain": Attention(dim, num_heads=heads, qkv_bias=True).to(device),
        "GPSA": GPSA(dim, num_heads=heads, qkv_bias=True).to(device),
    }


def step(layer: nn.Module, tokens: Tensor, precision: str) -> Callable[[], None]:
    """Forward and backward pass of a layer."""
    x = tokens.clone().requires_grad_()

    def run() -> None:
        with precision_context(x.device, precision):
            out = layer(x)
        out.backward(torch.ones_like(out))

    return run


def row(student: str, side: int, args: argparse.Namespace, precision: str) -> dict[str, Any]:
    """Seconds of each kind of layer in one of the students, at one grid."""
    dim, heads, batch = STUDENTS[student]
    device = torch.device(args.device)
    batch = batch * (32 if args.device == "cuda" else 1)
    tokens = torch.randn(batch, side * side + 2, dim, device=device)
    kinds = layers(dim, heads, side, device)
    check(kinds, tokens)
    chosen = ("ours", "plain") if args.growth else tuple(kinds)
    calls = {}
    for name in chosen:
        seen = tokens[:, 2:] if name == "GPSA" else tokens
        calls[name] = step(kinds[name].train(), seen, precision)
    if args.device == "cpu" and bf16_units(torch.device("cpu")):
        calls["ours, mixed"] = step(kinds["ours"].train(), tokens, "mixed")
    count = side * side + 2
    # four projections and two products of attention; three times that with the backward pass
    flops = 3 * 2 * batch * (4 * count * dim**2 + 2 * count**2 * dim)
    return {
        "work": f"{student}, {count} tokens, batch {batch}, {precision}",
        "seconds": in_turns(calls, args.rounds, args.device),
        "floor": floors(flops, 3 * 8 * batch * count * dim, args.device),
    }


@torch.no_grad()
def check(kinds: Layers, tokens: Tensor) -> None:
    """Refuses to time layers that differ."""
    outputs = {name: kinds[name](tokens) for name in ("folded", "products", "bias tensor")}
    for name, output in outputs.items():
        error = (output - outputs["bias tensor"]).abs().max() / output.abs().max()
        if error > (1e-2 if tokens.is_cuda else 1e-4):  # TF32 on CUDA
            raise SystemExit(f"{name} differs from the bias tensor by {error:.1e}")


def bfloat16_error(head_dim: int = 16) -> dict[str, float]:
    """Worst entry of the attention matrix on 14x14 patches, against float64."""
    torch.manual_seed(0)  # as learned ones are: the first ones are exact in bf16
    alpha, centres = torch.rand(12) * 1.5 + 0.05, torch.randn(12, 2) * 1.5
    exact = position_scores(
        alpha.double(), centres.double(), patch_coordinates((14, 14), torch.float64), 2
    )
    tokens, scale = torch.empty(1, 12, 198, head_dim, dtype=torch.bfloat16), head_dim**-0.5
    query, key = folded_channels(alpha, centres, (14, 14), tokens, scale)
    folded = query.double() @ key.double().mT * scale
    forms = {"folded": folded, "bias": exact.bfloat16().double()}
    truth = exact.softmax(-1)
    return {name: (form.softmax(-1) - truth).abs().max().item() for name, form in forms.items()}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    parser.add_argument("--growth", action="store_true", help="time against the number of tokens")
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--json", type=Path, help="where to write the numbers")
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    precisions = ("fp32", "bf16") if args.device == "cuda" else ("fp32",)
    cases = (
        [("Ti", side) for side in GROWTH]
        if args.growth
        else [(name, 8) for name in STUDENTS] + [(name, 14) for name in ("Ti", "S", "B")]
    )
    rows = [row(student, side, args, chosen) for chosen in precisions for student, side in cases]
    print_rows(rows)
    result = {"machine": machine(args.device), "settings": vars(args), "rows": rows}
    write(args.json, result | {"bfloat16_error": bfloat16_error()})


if __name__ == "__main__":
    main()

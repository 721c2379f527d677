"""Time of attention, forward and backward: folded MHCA, MHCA with a bias tensor, plain.

"layer" is the whole layer, "core" what stands between its two projections.

The three run in turns in one process, so that a busy machine slows all of them alike; the table
gives the median of the runs. Command: python scripts/bench_attention.py --threads 1 --out x.json
"""

import argparse
import itertools
import json
import statistics
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import timm
import torch
import torch.nn.functional as F
from timm.layers.attention import Attention
from torch import Tensor

import dearkd.models  # noqa: F401 - registers the students with timm
from dearkd.models.attention import MultiHeadConvAttention, dense_positions
from dearkd.models.position import folded_channels, patch_coordinates, position_scores

# dim, heads, grid: the micro student at 32 px, then DearKD-Ti, -S and -B at 224 px
SHAPES = {
    "micro 32px": (108, 9, (8, 8), 64),
    "tiny 224px": (192, 12, (14, 14), 16),
    "small 224px": (384, 12, (14, 14), 16),
    "base 224px": (768, 16, (14, 14), 8),
}


class BiasAttention(MultiHeadConvAttention):
    """The usual way: the position scores as a float mask of heads * tokens^2 numbers."""

    def _fused(self, query: Tensor, key: Tensor, value: Tensor) -> Tensor:
        bias = dense_positions(self.position_alpha, self.position_centres, self.grid_size, value)
        return F.scaled_dot_product_attention(query, key, value, attn_mask=bias)


def core(attn: Attention, qkv: Tensor) -> Tensor:
    query, key, value = qkv.unbind(0)
    if isinstance(attn, MultiHeadConvAttention):
        return attn._fused(query, key, value)
    return F.scaled_dot_product_attention(query, key, value)


def steps(part: str, shape: str, device: str, dtype: torch.dtype) -> dict[str, Callable[[], None]]:
    dim, heads, grid, batch = SHAPES[shape]
    batch *= 8 if device == "cuda" else 1
    count = grid[0] * grid[1] + 2
    x = torch.randn(batch, count, dim, device=device, requires_grad=True)
    # the layout that the projection hands over: (batch, tokens, 3, heads, head_dim), permuted
    qkv = torch.randn(batch, count, 3, heads, dim // heads, device=device, dtype=dtype)
    qkv = qkv.requires_grad_()

    def step(attn: Attention) -> Callable[[], None]:
        attn.to(device)
        if isinstance(attn, MultiHeadConvAttention):
            attn.set_grid_size(grid)

        def run() -> None:
            with torch.autocast(device, dtype, enabled=dtype != torch.float32):
                out = attn(x) if part == "layer" else core(attn, qkv.permute(2, 0, 3, 1, 4))
            out.backward(torch.ones_like(out))
            if device == "cuda":
                torch.cuda.synchronize()

        return run

    kinds = {"folded": MultiHeadConvAttention, "bias": BiasAttention, "plain": Attention}
    return {name: step(kind(dim, num_heads=heads, qkv_bias=True)) for name, kind in kinds.items()}


def milliseconds(runs: dict[str, Callable[[], None]], repeats: int) -> dict[str, float]:
    times: dict[str, list[float]] = {name: [] for name in runs}
    for repeat in range(repeats + 2):
        for name, run in runs.items():
            start = time.perf_counter()
            run()
            if repeat >= 2:  # the first two warm caches up
                times[name].append(1e3 * (time.perf_counter() - start))
    return {name: statistics.median(values) for name, values in times.items()}


def images_per_second(name: str, batch: int, repeats: int, device: str) -> float:
    model: Any = timm.create_model(name, num_classes=10).to(device)
    images = torch.randn(batch, 3, *model.default_cfg["input_size"][1:], device=device)

    def step() -> None:
        model(images).square().mean().backward()
        if device == "cuda":
            torch.cuda.synchronize()

    return 1e3 * batch / milliseconds({name: step}, repeats)[name]


def bfloat16_error(head_dim: int = 16) -> dict[str, float]:
    """Worst entry of the attention matrix on 14x14 patches, against float64."""
    torch.manual_seed(0)
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
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--repeats", type=int, default=10)
    parser.add_argument("--out", type=Path, help="where to write the numbers as JSON")
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    settings = [("cpu", torch.float32)]
    if torch.cuda.is_available():
        settings += [("cuda", torch.float32), ("cuda", torch.bfloat16)]
    rows = []
    print(f"{'':32}  folded    bias   plain   bias/folded  folded/plain   (ms)")
    for device, dtype in settings:
        for shape, part in itertools.product(SHAPES, ("layer", "core")):
            ms = milliseconds(steps(part, shape, device, dtype), arguments.repeats)
            name = f"{device} {str(dtype).removeprefix('torch.')} {shape} {part}"
            ratios = ms["bias"] / ms["folded"], ms["folded"] / ms["plain"]
            times = "".join(f"{ms[kind]:8.2f}" for kind in ("folded", "bias", "plain"))
            print(f"{name:32}{times}{ratios[0]:14.2f}{ratios[1]:14.2f}")
            rows.append(
                {"device": device, "dtype": str(dtype), "shape": shape, "part": part, "ms": ms}
            )
    students = {}
    for name in ("dearkd_micro_patch4_32", "dearkd_micro_mhsa_patch4_32"):
        students[name] = images_per_second(name, 128, 5, settings[-1][0])
        print(f"{name}: {students[name]:.0f} images/s, forward and backward, batch 128, float32")
    error = bfloat16_error()
    print(f"bfloat16 error of the weights: folded {error['folded']:.1e}, bias {error['bias']:.1e}")
    if arguments.out:
        versions = {"torch": torch.__version__, "timm": timm.__version__}
        result = {"threads": arguments.threads, **versions, "layers": rows}
        result |= {"images_per_second": students, "bfloat16_error": error}
        arguments.out.write_text(json.dumps(result, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()

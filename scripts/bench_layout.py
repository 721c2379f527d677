"""Seconds of CNNs in both memory layouts, in float32: a training step, and a teacher's forward.

    python scripts/bench_layout.py --json scripts/results/bench_layout_cpu.json

`dearkd.training.arithmetic.layout_rule` goes by it. Networks have random weights, which costs a
step the same; the two layouts take turns in one process and give the same answers, to rounding,
which is checked before anything is timed.
"""

import argparse
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import timm
import torch
from side_by_side import in_turns, machine, print_rows, write

import dearkd.models  # noqa: F401 - registers our networks with timm
from dearkd.models.cost import LAYOUTS

NETWORKS = {  # pixels a side, images
    "dearkd_resnet10t_32": (16, 32),
    "dearkd_cnn8_32": (32, 64),
    "resnet18": (224, 8),
    "resnet50": (112, 8),
    "tf_efficientnet_lite0": (224, 8),
    "convnext_tiny": (224, 4),
}
CLOSE = 1e-4
"""Largest difference of the two layouts' logits, as a share of their own size."""


def main() -> None:
    """Prints a row for each network and part; "ours" is channels_last."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--networks", nargs="+", default=list(NETWORKS), choices=list(NETWORKS))
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--json", type=Path)
    given = parser.parse_args()
    rows = [row for name in given.networks for row in _rows(name, given.rounds)]
    print_rows(rows)
    write(given.json, {"machine": machine(), "rows": rows})


def _rows(name: str, rounds: int) -> Iterator[dict[str, Any]]:
    size, count = NETWORKS[name]
    torch.manual_seed(0)
    images = torch.randn(count, 3, size, size)
    copies = {}
    for layout, form in LAYOUTS.items():
        torch.manual_seed(0)
        network = timm.create_model(name, num_classes=10).to(memory_format=form)
        copies[layout] = (network, images.contiguous(memory_format=form))
    answers = [_forward(*copy)() for copy in copies.values()]
    assert (answers[0] - answers[1]).abs().max() <= CLOSE * answers[0].abs().max(), name
    for part, call in {"training step": _step, "forward": _forward}.items():
        times = in_turns({layout: call(*copy) for layout, copy in copies.items()}, rounds)
        yield {
            "work": f"{name}, {count} images of {size} px, {part}",
            "seconds": {"ours": times["channels_last"], "contiguous": times["contiguous"]},
        }


def _step(network: torch.nn.Module, images: torch.Tensor) -> Callable[[], None]:
    def call() -> None:
        network.train()
        network(images).square().mean().backward()

    return call


def _forward(network: torch.nn.Module, images: torch.Tensor) -> Callable[[], torch.Tensor]:
    def call() -> torch.Tensor:
        network.eval()
        with torch.inference_mode():
            return network(images)

    return call


if __name__ == "__main__":
    main()

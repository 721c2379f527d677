"""How far images are from a network's BatchNorm statistics, layer by layer: what R_BN is made of.

    python scripts/bn_layers.py tf_efficientnet_lite0 --img-size 224 --out layers.json \
        --weights weights/tf_efficientnet_lite0.safetensors --sets imagenet_sample/val runs/lite0

For every set of images, two numbers a layer, as `objective.bn_relative` takes them: the distance
of the means in units of the stored standard deviations, that of the variances in units of the
stored variances. Beside them R_BN as the paper has it, R_BN so scaled, and R_TV and R_L2 of the
images. A recipe for a new teacher is good where synthetic images come near the row of real ones.
"""

import argparse
import json
import sys
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from dearkd.data.loaders import BadImages
from dearkd.measures.image_set import ImageSet, open_set
from dearkd.trained.open import open_trained
from dearkd.trained.resolve import resolve
from synth.bn_statistics import with_statistics
from synth.classifier import normalise
from synth.priors import l2, total_variation


def main() -> None:
    args = _arguments()
    loaded = open_trained(resolve(args.teacher, weights=args.weights)).network
    network: Any = loaded
    cfg = network.pretrained_cfg
    layers = [name for name, m in network.named_modules() if isinstance(m, nn.BatchNorm2d)]
    result: dict[str, Any] = {"teacher": args.teacher, "layers": layers, "sets": {}}
    for name in args.sets:
        pixels = _pixels(name, args.images, args.img_size)
        images = normalise(pixels, tuple(cfg["mean"]), tuple(cfg["std"]))
        result["sets"][name] = _distances(network, images)
    _print(result)
    if args.out:
        args.out.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")


def _pixels(name: str, count: int, img_size: int) -> Tensor:
    """About ``count`` images, as many of every class as fit."""
    classes = len(set(open_set(name, 1, 0).labels.tolist()))
    source = open_set(name, max(1, count // classes), 0)
    pictures = ImageSet(source, img_size, BadImages("skip"))
    step = max(1, len(source) // count)
    rows = [row for rows in pictures.batches(1).values() for (row,) in rows][::step]
    return pictures.pixels(tuple(rows[:count]))


@torch.no_grad()
def _distances(network: nn.Module, images: Tensor) -> dict[str, Any]:
    clone, recorder = with_statistics(network, torch.float32)
    assert recorder is not None
    recorder.start(1)
    clone(images)
    seen = recorder.seen
    return {
        "images": len(images),
        "mean": [((m - sm).norm() / sv.sqrt().norm()).item() for m, _, sm, sv in seen],
        "variance": [((v - sv).norm() / sv.norm()).item() for _, v, _, sv in seen],
        "stored_variance_norm": [sv.norm().item() for *_, sv in seen],
        "bn_statistics": recorder.loss().item(),
        "bn_statistics_relative": recorder.loss(relative=True).item(),
        "total_variation": total_variation(images).mean().item(),
        "l2": l2(images).mean().item(),
    }


def _print(result: dict[str, Any]) -> None:
    say, sets = sys.stdout.write, result["sets"]
    say("| layer (norm of stored variances) | " + " | ".join(sets) + " |\n")
    say("|---|" + "---|" * len(sets) + "\n")
    for index, layer in enumerate(result["layers"]):
        norm = next(iter(sets.values()))["stored_variance_norm"][index]
        cells = [f"{s['mean'][index]:.3f} {s['variance'][index]:.3f}" for s in sets.values()]
        say(f"| {layer} ({norm:.1f}) | " + " | ".join(cells) + " |\n")
    for term in ("bn_statistics", "bn_statistics_relative", "total_variation", "l2"):
        say(f"| {term} | " + " | ".join(f"{s[term]:.4g}" for s in sets.values()) + " |\n")


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("teacher", help="timm name or run folder")
    parser.add_argument("--weights", type=Path)
    parser.add_argument("--sets", nargs="+", required=True, help="image folders or parquet files")
    parser.add_argument("--img-size", type=int, required=True)
    parser.add_argument("--images", type=int, default=20)
    parser.add_argument("--out", type=Path)
    return parser.parse_args()


if __name__ == "__main__":
    main()

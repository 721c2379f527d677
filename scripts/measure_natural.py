"""What images have in common and how far they differ: where `synth.natural` has its numbers from.

    python scripts/measure_natural.py --sets cifar10 photos/ runs/spectrum --img-size 32 \
        --json scripts/results/natural_images.json

For real images it says what a spectrum should begin with, for a synthetic set whether inversion has
kept it. All is of pixels in [0, 1] and of the opponents of `synth.natural`:

std, means, contrast   of all pixels; between images, of their means; within the median image
slope                  how much more steeply than 1 / f light's amplitudes fall, to 3/4 of Nyquist
lowest                 the means' amplitude, in units of that of the lowest frequency
between images         standard deviations of the slope, of the log contrast, and of the log of
                       colour's share (half of the 16th to the 84th percentile: it has long tails)
between places         standard deviation, within an image, of the log contrast of its 4x4 parts
"""

import argparse
import json
from itertools import pairwise
from pathlib import Path

import torch
from torch import Tensor

from dearkd.data.loaders import BadImages
from dearkd.measures.image_set import ImageSet, open_set
from synth.natural import colours

RINGS = 8


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--sets", nargs="+", required=True, metavar="IMAGES")
    parser.add_argument("--img-size", type=int, nargs="+", default=[32], metavar="PX")
    parser.add_argument("--images", type=int, default=2000, help="of a set, at most")
    parser.add_argument("--json", type=Path)
    args = parser.parse_args()
    if min(args.img_size) < 16:
        parser.error(f"--img-size {min(args.img_size)} has too few frequencies; take at least 16")
    rows = []
    for name in args.sets:
        for size in args.img_size:
            row = {"images": name, "px": size, **measure(pixels(name, args.images, size))}
            print(json.dumps(row))
            rows.append(row)
    if args.json:
        args.json.write_text(json.dumps(rows, indent=1) + "\n", encoding="utf-8")


def pixels(name: str, count: int, size: int) -> Tensor:
    """At most ``count`` images, spread evenly over the set."""
    source = open_set(name, None, 0)
    pictures = ImageSet(source, size, BadImages("skip"))
    rows = [row for rows in pictures.batches(1).values() for (row,) in rows]
    chosen = torch.linspace(0, len(rows) - 1, min(count, len(rows))).round().long().tolist()
    return pictures.pixels(tuple(rows[index] for index in chosen)).double()


def measure(images: Tensor) -> dict[str, float]:
    """The numbers of images of shape (N, 3, size, size) in [0, 1]."""
    size = images.shape[-1]
    opponents = torch.einsum("oc,bchw->bohw", torch.linalg.inv(colours(3)), images)
    opponents -= opponents.mean(dim=(0, 2, 3), keepdim=True)
    power = torch.fft.fft2(opponents, norm="ortho").abs().square()
    means, power[..., 0, 0] = power[:, 0, 0, 0].clone(), 0
    waves = (size * torch.fft.fftfreq(size, dtype=torch.float64)).round()
    frequencies = torch.hypot(waves[:, None], waves)
    light, colour = power[:, 0].sum(dim=(-2, -1)), power[:, 1:].sum(dim=(1, 2, 3))
    light, colour = light.clamp(min=1e-9), colour.clamp(min=1e-9)
    edges = torch.logspace(0, torch.log2(torch.tensor(3 * size / 8)), RINGS + 1, base=2)
    rings, centres = [], []
    for low, high in pairwise(edges.tolist()):
        inside = (frequencies >= low) & (frequencies < high)
        if inside.any():
            rings.append(power[:, 0, inside].mean(1).clamp(min=1e-9).log() / 2)
            centres.append(frequencies[inside].log().mean())
    x = torch.stack(centres) - torch.stack(centres).mean()
    slopes = -(torch.stack(rings, dim=1) * x).sum(1) / x.square().sum() - 1
    lowest = power[:, 0, frequencies == 1].mean()
    share = (colour / light).log() / 2
    low, high = share.quantile(torch.tensor([0.16, 0.84], dtype=torch.float64))
    parts = images.mean(1).unfold(1, size // 4, size // 4).unfold(2, size // 4, size // 4)
    places = parts.flatten(3).std(-1).clamp(min=1e-3).log().flatten(1).std(1)
    numbers = {
        "std": images.std(),
        "means": images.mean(dim=(2, 3)).std(0).mean(),
        "contrast": images.std(dim=(2, 3)).mean(1).median(),
        "slope": slopes.mean(),
        "lowest": (means.mean() / lowest).sqrt(),
        "slope between images": slopes.std(),
        "log contrast between images": (light.log() / 2).std(),
        "log colour between images": (high - low) / 2,
        "log contrast between places": places.mean(),
    }
    return {name: round(value.item(), 4) for name, value in numbers.items()}


if __name__ == "__main__":
    main()

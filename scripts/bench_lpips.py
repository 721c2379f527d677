"""LPIPS through the embedding against ``lpips.LPIPS`` pair by pair: largest difference, speed.

    python scripts/bench_lpips.py --data imagenet/val --alex FILE --vgg FILE --json results.json

Weights: scripts/convert_lpips_backbone.py. SqueezeNet's are not among them: its backbone is random,
from seed 0. Where ``--pairs`` is below the number of pairs, the slow side's time is extrapolated
from that many. Seconds are of this process's CPU time, which other work disturbs little.
"""

import argparse
import itertools
import random
import time
import warnings
from pathlib import Path
from typing import Any

import lpips
import torch
from side_by_side import machine, write
from torch import Tensor

from dearkd.data.loaders import BadImages
from dearkd.data.order import ranked
from dearkd.measures.diversity import pair_mean, squared_distance_sums
from dearkd.measures.image_set import ImageSet, open_set
from dearkd.measures.lpips_embedding import LpipsEmbedding, LpipsNet, backbone_shapes
from dearkd.measures.lpips_weights import load_lpips


def random_backbone(net: LpipsNet) -> dict[str, Tensor]:
    """He-initialised tensors from seed 0: as good as trained ones to compare arithmetic."""
    generator, state = torch.Generator().manual_seed(0), {}
    for key, shape in backbone_shapes(net).items():
        fan_in = torch.Size(shape[1:]).numel() or shape[0]
        state[key] = torch.randn(shape, generator=generator) * (2 / fan_in) ** 0.5
    return state


def reference(embedding: LpipsEmbedding) -> Any:
    """The package's own network with the same backbone."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        net = lpips.LPIPS(net=embedding.net, pnet_rand=True, verbose=False)
    net.net.load_state_dict(embedding.backbone.state_dict())
    return net


@torch.inference_mode()
def compare(embedding: LpipsEmbedding, images: Tensor, count: int | None) -> dict[str, Any]:
    """Differences on ``count`` random pairs (default: all), and both times for all pairs."""
    pairs = list(itertools.combinations(range(len(images)), 2))
    chosen = random.Random(0).sample(pairs, count) if count else pairs
    theirs, batches = reference(embedding), images.split(20)
    embedding(images[:2]), theirs(images[:1], images[1:2])  # warm up
    start = time.process_time()
    rows = [embedding(batch) for batch in batches]
    mean = pair_mean(squared_distance_sums(rows, lambda batch: batch))
    ours = time.process_time() - start
    start = time.process_time()
    slow = [theirs(images[[a]], images[[b]], normalize=True).item() for a, b in chosen]
    seconds = (time.process_time() - start) * len(pairs) / len(chosen)
    phi = torch.cat(rows).double()
    fast = [(phi[a] - phi[b]).square().sum().item() for a, b in chosen]
    return {
        "net": embedding.net,
        "pairs": len(pairs),
        "pairs_run_one_by_one": len(chosen),
        "largest_difference": max(abs(a - b) for a, b in zip(fast, slow, strict=True)),
        "mean_by_embedding": mean.mean,
        "mean_pair_by_pair": sum(slow) / len(slow),
        "seconds_by_embedding": ours,
        "seconds_pair_by_pair": seconds,
        "ratio": seconds / ours,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", required=True)
    parser.add_argument("--alex", type=Path, help="weights; without them this network is left out")
    parser.add_argument("--vgg", type=Path)
    parser.add_argument("--images", type=int, default=100)
    parser.add_argument("--img-size", type=int, default=64)
    parser.add_argument("--pairs", type=int, help="pairs run one by one; default: all")
    parser.add_argument("--json", type=Path, help="where to write the numbers as JSON")
    args = parser.parse_args()
    torch.set_num_threads(1)
    source = open_set(args.data, None, 0)
    images = ImageSet(source, args.img_size, BadImages("fail"))
    pixels = images.pixels(tuple(ranked(len(source), 0)[: args.images].tolist()))
    nets = [load_lpips(net, file) for net, file in (("alex", args.alex), ("vgg", args.vgg)) if file]
    nets.append(LpipsEmbedding("squeeze", random_backbone("squeeze")))
    rows = []
    for embedding in nets:
        row = compare(embedding, pixels, args.pairs)
        print(
            f"{row['net']:8} largest difference {row['largest_difference']:.1e} on "
            f"{row['pairs_run_one_by_one']} pairs, {row['seconds_by_embedding']:.2f} s against "
            f"{row['seconds_pair_by_pair']:.1f} s: {row['ratio']:.0f} times as fast"
        )
        rows.append(row)
    settings = {"images": len(pixels), "img_size": args.img_size}
    write(args.json, {"machine": machine(), "settings": settings, "nets": rows})


if __name__ == "__main__":
    main()

"""Top-1 of the CNN of a tenth of CIFAR-10 on the images that it learned from, and on the others.

    python scripts/teacher_on_its_images.py --data cifar10/train.parquet \
        --json scripts/results/cifar10_tenth_teacher_labels.json

Both are of the training images outside the validation split; whole images, float32.
"""

import argparse
import json
from pathlib import Path

import numpy as np
from accelerate import Accelerator

from dearkd.data.datasets import open_data, subset
from dearkd.data.feed import evaluation_loader
from dearkd.data.sources import SubsetSource
from dearkd.judging.evaluate import evaluate
from dearkd.trained.open import open_trained
from dearkd.trained.resolve import resolve

WEIGHTS = "scripts/results/cifar10_tenth_teacher.safetensors"
VALIDATION, FRACTION = 5000, 0.1  # as configs/train/cifar10_teacher.yaml and its command have them


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", required=True, help="CIFAR-10's training file")
    parser.add_argument("--json", type=Path)
    args = parser.parse_args()
    images, _ = open_data(args.data, validation=VALIDATION)
    own = subset(images, FRACTION)
    others = SubsetSource(images, np.setdiff1d(np.arange(len(images)), own.rows))
    found = {name: judged(part) for name, part in (("its own", own), ("the others", others))}
    for name, entry in found.items():
        print(f"{name}: {entry['images']:,} images, top-1 {entry['top1']:.2f} %")
    if args.json is not None:
        args.json.write_text(json.dumps({"weights": WEIGHTS, **found}, indent=1) + "\n")


def judged(part: SubsetSource) -> dict[str, float]:
    """Number of images and top-1 in percent."""
    cnn = open_trained(resolve(WEIGHTS))
    classes = tuple(range(cnn.num_classes))
    state = Accelerator(cpu=True)
    loader = evaluation_loader(part, cnn.view, cnn.img_size, classes, state, workers=0)
    result = evaluate(cnn.network, loader, state)
    return {"images": len(part), "top1": result["logits"]["top1"]}


if __name__ == "__main__":
    main()

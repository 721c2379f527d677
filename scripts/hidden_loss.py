"""What the hidden loss can reach, and what it does reach in a few hundred steps.

    python scripts/hidden_loss.py --out scripts/results/hidden_loss_digits.json
    python scripts/hidden_loss.py --data cifar10/train.parquet --teacher runs/cnn --steps 0

All numbers are shares of the loss of a prediction of zero. ``constant`` is what the best constant
for each channel leaves. ``own``: an aligner alone, fitted to predict the teacher's features from
these features themselves, is the floor of its form; ``untrained``: the same from a student's first
weights. ``trained``: a student after some steps of DearKD's first stage, on views it has not seen.
"""

import argparse
import json
import platform
from itertools import islice
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from dearkd.analysis.probe import evaluation_views
from dearkd.config import load_config
from dearkd.data.order import spread_rows
from dearkd.losses import hidden_loss
from dearkd.models.aligner import Aligner, AlignerForm
from dearkd.run_folder.processes import process_state
from dearkd.training.batches import sample_batches
from dearkd.training.build import build

FIXED = ["precision=fp32", "memory_format=contiguous", "trackers=[]", "teacher.precision=fp32"]
FIXED += ["teacher.memory_format=contiguous"]
FORMS = [
    {"target_scale": scale, "aligner_norm": norm, "aligner_relu": relu}
    for scale in ("position", "stage", "none")
    for norm in (True, False)
    for relu in (True, False)
]
OTHERS: list[dict[str, Any]] = [
    {"hidden_weight": 10},
    {"hidden_weight": 100},
    {"pair_preset": "early-middle-late"},
]
LR, WARM_UP, UNSEEN_EPOCH = 1e-3, 30, 9999


def made(options: argparse.Namespace, settings: dict[str, Any]) -> Any:
    """A configuration's parts with these fields of ``distill``."""
    given = {"data.train": options.data, "data.fraction": options.fraction}
    given |= {"student": options.student, "teacher.name": options.teacher}
    words = [f"distill.{name}={str(value).lower()}" for name, value in settings.items()]
    return build(load_config(None, [*FIXED, *words], given))


def shares(aligned: Tensor, target: Tensor) -> dict[str, float]:
    """The loss of a prediction and of the best constant, of 1 for a prediction of zero."""
    zero = target.square().mean()
    centred = target - target.mean(dim=(0, 2, 3), keepdim=True)
    return {
        "loss": round((hidden_loss(aligned, target) / zero).item(), 3),
        "constant": round((centred.square().mean() / zero).item(), 3),
    }


def fitted(source: Tensor, features: Tensor, nonnegative: bool, form: AlignerForm) -> float:
    """The loss that an aligner alone ends at, in 400 steps of 64 images."""
    torch.manual_seed(0)
    aligner = Aligner(source.shape[1], features.shape[1], nonnegative, form)
    if form.target_scale == "stage":
        aligner.measure([features])
    target, size = aligner.target(features, source), tuple(features.shape[-2:])
    optimizer = torch.optim.AdamW(aligner.parameters(), lr=1e-2, weight_decay=0.0)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, 400)
    for _ in range(400):
        rows = torch.randint(len(source), (64,))
        optimizer.zero_grad()
        hidden_loss(aligner(source[rows], size), target[rows]).backward()
        optimizer.step()
        schedule.step()
    with torch.no_grad():
        return shares(aligner(source, size), target)["loss"]


def floors(options: argparse.Namespace) -> list[dict[str, Any]]:
    """The floor of each form, and what an untrained student gives it."""
    parts = made(options, {})
    objective, teacher = parts.stages[0].objective, parts.teacher
    (pair,) = objective.pairs
    rows = spread_rows(len(parts.train), 640)
    images = evaluation_views(parts.train, rows, parts.trained().metadata)
    with torch.no_grad():
        features = torch.cat(
            [teacher(part, [pair.stage]).features[0] for part in torch.split(images, 64)]
        )
        first = objective.eval()._student_forward(images)[1][pair.block]
    return [
        {
            **form,
            "own": fitted(features, features, pair.nonnegative, AlignerForm(**form)),
            "untrained": fitted(first, features, pair.nonnegative, AlignerForm(**form)),
        }
        for form in FORMS
        if pair.nonnegative or not form["aligner_relu"]
    ]


def trained(options: argparse.Namespace, settings: dict[str, Any]) -> dict[str, Any]:
    """A student after some steps, by pair: on views of an epoch that it has not seen."""
    parts = made(options, settings)
    objective = parts.stages[0].objective
    batches = sample_batches(parts, process_state(), 32)
    objective.measure_targets(batch[0] for batch in islice(batches(0, 0), 16))
    parameters = [each for each in objective.train().parameters() if each.requires_grad]
    optimizer = torch.optim.AdamW(parameters, lr=LR, weight_decay=0.05)
    rate = torch.optim.lr_scheduler.OneCycleLR(
        optimizer, LR, options.steps, pct_start=WARM_UP / options.steps
    )
    torch.manual_seed(0)
    stream = (batch for epoch in range(UNSEEN_EPOCH) for batch in batches(epoch, 0))
    for images, labels, _ in islice(stream, options.steps):
        terms = objective(images, labels)
        optimizer.zero_grad()
        terms["loss"].backward()
        optimizer.step()
        rate.step()
    images = torch.cat([batch[0] for batch in islice(batches(UNSEEN_EPOCH, 0), 8)])
    with torch.no_grad():
        maps = objective.eval()._student_forward(images)[1]
        features = objective.teacher(images, objective.stages).features
    by_stage = dict(zip(objective.stages, features, strict=True))
    found = []
    for aligner, pair in zip(objective.aligners, objective.pairs, strict=True):
        own, theirs = maps[pair.block], by_stage[pair.stage]
        with torch.no_grad():
            aligned = aligner(own, tuple(theirs.shape[-2:]))
            found.append(shares(aligned, aligner.target(theirs, own)))
    return {**settings, "pairs": found, "class": round(terms["class"].item(), 3)}


def main() -> None:
    """Measures and writes."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", default="digits")
    parser.add_argument("--fraction", type=float, default=1.0)
    parser.add_argument("--teacher")
    parser.add_argument("--student", default="dearkd_micro_patch4_32")
    parser.add_argument("--steps", type=int, default=300)
    parser.add_argument("--out", type=Path)
    options = parser.parse_args()
    torch.set_num_threads(1)
    result: dict[str, Any] = {
        "data": options.data,
        "student": options.student,
        "steps": options.steps,
        "torch": torch.__version__,
        "machine": platform.machine(),
        "floors": floors(options),
        "trained": [],
    }
    for settings in [*FORMS, *OTHERS] if options.steps else []:
        result["trained"].append(trained(options, settings))
        print(result["trained"][-1], flush=True)
    text = json.dumps(result, indent=1)
    print(text)
    if options.out is not None:
        options.out.write_text(text + "\n")


if __name__ == "__main__":
    main()

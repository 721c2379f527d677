"""Two stages on a GPU: the gradients of compiled and replayed steps beside launched ones.

    python scripts/replayed_stages.py --data cifar10 --teacher-weights \
        scripts/results/cifar10_teacher.safetensors

Four runs of two stages, replayed as CUDA graphs, went wrong in their second stage (RESULTS.md), and
runs of two stages are not replayed since. This finds where. Every way to compile trains the same
short run in a process of its own, all side by side; in the first steps of each stage the step is
made once more as Python launches it, from the same weights and images, and each parameter's
gradients are compared. A row is a step: both losses, the median error of a gradient, how many are
off by more than a fifth, and the worst. bf16 alone costs a few percent.
"""

import argparse
import itertools
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import nn

WAYS = {
    "launched": "not compiled",
    "compiled": "torch.compile, kernels launched",
    "replayed": "CUDA graph trees (mode reduce-overhead)",
    "anew": "the same, with dynamo reset before each stage",
    "no trees": "a graph for each compiled function, without trees",
    "not donated": "trees, and backward passes that keep what the forward pass saved",
    "cloned": "trees, and gradients copied out of the graphs' memory",
}
WATCHED = 12
"""Steps of each stage that are made twice."""
OFF = 0.2
"""Relative error from which a gradient is counted as off."""


def main() -> None:
    args = _arguments()
    if args.way:
        watch(args)
        return
    with tempfile.TemporaryDirectory() as folder:
        running = {}
        for way in WAYS:
            line = [sys.executable, *sys.argv, "--way", way, "--out", str(Path(folder, way))]
            with Path(folder, f"{way}.log").open("w") as log:
                running[way] = subprocess.Popen(
                    line,
                    stdout=log,
                    stderr=subprocess.STDOUT,
                    env={**os.environ, "OMP_NUM_THREADS": "1"},
                )
        for way, process in running.items():
            code = process.wait()
            text = Path(folder, f"{way}.log").read_text()
            print(f"== {way}: {WAYS[way]}; exit code {code}")
            rows = [line for line in text.splitlines() if line.startswith(("step ", "epoch "))]
            print("\n".join(rows) if rows and not code else text[-2000:], flush=True)


def watch(args: argparse.Namespace) -> None:
    """Trains the run one way, in this process, and prints a row for each watched step."""
    import dearkd.training.loop as loop
    from dearkd.api import train
    from dearkd.training.passes import Passes

    if args.way == "no trees":
        torch._inductor.config.triton.cudagraph_trees = False
    if args.way == "not donated":
        torch._functorch.config.donated_buffer = False
    loop.compile_step = compiled_as(args.way)
    made = Passes._made

    def made_twice(self: Passes, objective: nn.Module, position: Any) -> int:
        if position.epoch not in (0, args.epochs) or position.step >= WATCHED:
            return made(self, objective, position)
        batch = next(self.feed)
        self.feed = itertools.chain([batch], self.feed)
        images = made(self, objective, position)
        if args.way == "cloned":
            copy_gradients(objective)
        compare(self, objective, position, batch)
        return images

    Passes._made = made_twice
    short = {"validation": 5000, "fraction": 0.04, "batch_size": 64, "augment": "light"}
    train(
        data=args.data,
        **{f"data__{key}": value for key, value in short.items()},
        data__workers=0,
        student=args.student,
        teacher="dearkd_cnn8_32",
        teacher_weights=args.teacher_weights,
        stage1=args.epochs,
        stage2=args.epochs,
        compile=True,
        trackers=[],
        out=args.out,
    )
    for line in Path(args.out, "metrics.jsonl").read_text().splitlines():
        told = json.loads(line)
        terms = {key: told.get(key) for key in ("stage", "loss", "class", "top1")}
        print(f"epoch {told['epoch']} {terms}", flush=True)


def compiled_as(way: str) -> Callable[..., str | None]:
    """What takes the place of ``compile_step``."""

    def compile_step(
        objective: nn.Module, optimizer: Any, device: torch.device, *, whole: bool
    ) -> str | None:
        if way == "anew":
            torch._dynamo.reset()
        if way != "launched":
            replayed = way != "compiled" and device.type == "cuda"
            objective.compile(mode="reduce-overhead" if replayed else None)
        return None

    return compile_step


def copy_gradients(objective: nn.Module) -> None:
    for parameter in objective.parameters():
        if parameter.grad is not None:
            parameter.grad = parameter.grad.clone()


def compare(passes: Any, objective: nn.Module, position: Any, batch: Any) -> None:
    """Prints the row of a step whose gradients are there."""
    from dearkd.models.precision import precision_context

    trained = {name: p for name, p in objective.named_parameters() if p.grad is not None}
    ours = {name: p.grad.clone() for name, p in trained.items() if p.grad is not None}
    passes._seed(position, 0)
    with precision_context(passes.accelerator.device, passes.config.precision):
        loss = objective._call_impl(*batch)["loss"]  # what is compiled is __call__
    exact = torch.autograd.grad(loss, list(trained.values()))
    errors = {
        name: ((ours[name] - one).norm() / one.norm().clamp(min=1e-12)).item()
        for name, one in zip(trained, exact, strict=True)
    }
    worst = sorted(errors, key=lambda name: -errors[name])
    median = errors[worst[len(worst) // 2]]
    off = sum(error > OFF for error in errors.values())
    told = ", ".join(f"{name} {errors[name]:.3f}" for name in worst[:3])
    print(
        f"step {position.stage} {position.step}: launched loss {loss.item():.4f}, "
        f"median error {median:.4f}, off {off} of {len(worst)}, worst {told}",
        flush=True,
    )


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", required=True, help="CIFAR-10's training images")
    parser.add_argument("--teacher-weights", required=True)
    parser.add_argument("--student", default="dearkd_mini_mhsa_patch4_32")
    parser.add_argument("--epochs", type=int, default=2, help="of each stage")
    parser.add_argument("--way", choices=WAYS, help=argparse.SUPPRESS)
    parser.add_argument("--out", help=argparse.SUPPRESS)
    return parser.parse_args()


if __name__ == "__main__":
    main()

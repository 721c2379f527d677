"""Seconds a synthesis step: ours beside a reference loop in the published layout, in one run.

The reference stands in ``deepinversion_reference.py``. First both objectives and gradients are
compared on the same images (float32), then the two take turns, so that a busy machine slows both.

    python scripts/bench_synth.py --teacher resnet50 --classes 0 1 2 3 4 --per-class 2 \
        --json bench.json

With ``--teacher-weights W.safetensors`` (timm's keys) the teacher is a real one; a step costs the
same without. With ``--verifier`` both loops also make images, start to end, once for each of
``--seeds``, which it judges; ``--reference-views image`` lets the reference draw as ours does:

    python scripts/bench_synth.py --teacher tf_efficientnet_lite0 --teacher-weights LITE0 \
        --verifier tf_efficientnet_lite2 --verifier-weights LITE2 --resolutions 112 224 \
        --iterations 80 80 --seeds 0 1 2 --lr 0.1 --objective bn_relative=true bn_weight=0.2 \
        tv_weight=0.02 ep_weight=0.5 triplet_weight=1 \
        --classes 0 217 482 491 497 566 569 571 574 701 --json bench.json
"""

import argparse
import dataclasses
import json
import random
import statistics
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import timm
import torch
import torch.nn.functional as F
from deepinversion_reference import ReferenceLoop
from omegaconf import OmegaConf
from side_by_side import machine, write
from torch import Tensor

from synth.classifier import Classifier, to_pixels
from synth.groups import Group
from synth.inversion import first_canvas, invert
from synth.jitter import draw_views, jitter_flip
from synth.kernels import Kernels, build_objective, choose_kernels
from synth.objective import Objective, targets_of
from synth.objective_settings import ObjectiveConfig
from synth.settings import SynthesisConfig


class OurLoop:
    """The step of ``synth.stage`` with its pieces."""

    def __init__(self, objective: Objective, group: Group, config: SynthesisConfig) -> None:
        self.objective, self.config = objective, config
        self.targets = targets_of((group,), config.objective, "cpu")
        size, count = config.resolutions[-1], len(group.targets)
        limit = round(config.jitter_fraction * size)
        self.views = iter(draw_views(1000, count, limit, 0.5, torch.Generator()))

    def step(
        self, canvas: Tensor, optimizer: torch.optim.Optimizer, low: Tensor, high: Tensor
    ) -> None:
        """One iteration."""
        optimizer.zero_grad(set_to_none=True)
        seen = jitter_flip(canvas, next(self.views))
        self.objective(seen, self.targets)["objective"].sum().backward()
        optimizer.step()
        with torch.no_grad():
            canvas.clamp_(low, high)


def main() -> None:
    args = _arguments()
    random.seed(args.seeds[0])
    torch.manual_seed(args.seeds[0])
    torch.set_num_threads(args.threads)
    teacher = _classifier(args.teacher, args.teacher_weights)
    group = Group(id=0, targets=tuple(c for c in args.classes for _ in range(args.per_class)))
    config = _config(args)
    canvas = torch.randn(len(group.targets), 3, config.resolutions[-1], config.resolutions[-1])
    result: dict[str, Any] = {"machine": machine(), "settings": vars(args), "images": len(canvas)}
    result["check"] = _check(teacher, config, group, canvas)
    kernels = choose_kernels(config, teacher, ((group,),), torch.device("cpu"))
    result["kernels"] = dataclasses.asdict(kernels)
    result |= _race(teacher, config, group, canvas, kernels, args.steps)
    if args.verifier is not None:
        verifier, each = _classifier(args.verifier, args.verifier_weights), args.reference_views
        result["whole"] = [
            _whole(teacher, verifier, replace(config, seed=seed), group, kernels, each == "image")
            for seed in args.seeds
        ]
    print(json.dumps(result, indent=1, default=str))
    write(args.json, result)


def _whole(
    teacher: Classifier,
    verifier: Classifier,
    config: SynthesisConfig,
    group: Group,
    kernels: Kernels,
    view_of_each: bool,
) -> dict[str, Any]:
    """Both loops from one noise to finished images: seconds (compiling too) and verdicts."""
    random.seed(config.seed)

    def ours() -> Tensor:
        objective = build_objective(config, teacher, kernels)
        *_, last = invert(objective, (group,), config, torch.device("cpu"))
        return last.images

    def reference() -> Tensor:
        loop = ReferenceLoop(teacher, config, group.targets, view_of_each)
        images = loop.images(
            first_canvas((group,), config, teacher.mean, teacher.std), *_bounds(teacher)
        )
        loop.close()
        return images

    out: dict[str, Any] = {"seed": config.seed}
    for name, make in (("ours", ours), ("reference", reference)):
        start = time.perf_counter()
        images = make()
        out[name] = {"seconds": time.perf_counter() - start}
        pixels = to_pixels(images, teacher.mean, teacher.std)
        for role, judge in (("teacher", teacher), ("verifier", verifier)):
            out[name] |= _verdict(judge, pixels, group.targets, role)
    return out


def _verdict(
    judge: Classifier, pixels: Tensor, targets: tuple[int, ...], role: str
) -> dict[str, float]:
    """Share of images put into their class, and the mean cross-entropy in nats."""
    labels = torch.tensor(targets)
    probabilities = judge.judge(pixels)[0]
    own = probabilities.gather(1, labels[:, None]).log()
    return {
        role: (probabilities.argmax(1) == labels).double().mean().item(),
        f"{role}_cross_entropy": -own.mean().item(),
    }


def _check(
    teacher: Classifier, config: SynthesisConfig, group: Group, canvas: Tensor
) -> dict[str, float]:
    """Objective and gradient of the two loops on the same images, and of ours in bf16."""
    reference = ReferenceLoop(teacher, config, group.targets)
    images = canvas.clone().requires_grad_()
    expected = reference.objective(images)
    (gradient,) = torch.autograd.grad(expected, images)
    reference.close()
    out = {"reference_objective": expected.item()}
    for name, dtype in (("fp32", torch.float32), ("bf16", torch.bfloat16)):
        ours = Objective(teacher, config.objective, dtype=dtype, channels_last=True)
        total = ours(images, targets_of((group,), config.objective, "cpu"))["objective"].sum()
        (own,) = torch.autograd.grad(total, images)
        out[f"{name}_objective"] = total.item()
        cosine = F.cosine_similarity(own.flatten(), gradient.flatten(), dim=0)
        out[f"{name}_gradient_cosine"] = cosine.item()
        out[f"{name}_gradient_error"] = ((own - gradient).norm() / gradient.norm()).item()
    if abs(out["fp32_objective"] / expected.item() - 1) > 1e-4 or out["fp32_gradient_error"] > 1e-2:
        raise SystemExit(f"the two objectives differ: {out}")
    return out


def _race(
    teacher: Classifier,
    config: SynthesisConfig,
    group: Group,
    canvas: Tensor,
    kernels: Kernels,
    steps: int,
) -> dict[str, Any]:
    ours = OurLoop(build_objective(config, teacher, kernels), group, config)
    reference = ReferenceLoop(teacher, config, group.targets)
    seconds: dict[str, list[float]] = {"ours": [], "reference": []}
    runners = {}
    for name, loop in (("ours", ours), ("reference", reference)):
        pixels = canvas.clone().requires_grad_()
        optimizer = torch.optim.Adam(
            [pixels], lr=config.lr, betas=config.betas, fused=name == "ours"
        )
        runners[name] = (loop, pixels, optimizer)
    for turn in range(steps + 1):
        for name, (loop, pixels, optimizer) in runners.items():
            start = time.perf_counter()
            loop.step(pixels, optimizer, *_bounds(teacher))
            if turn:  # the first one warms up
                seconds[name].append(time.perf_counter() - start)
    reference.close()
    medians = {name: statistics.median(values) for name, values in seconds.items()}
    return {
        "seconds": seconds,
        "median_seconds": medians,
        "speedup": medians["reference"] / medians["ours"],
    }


def _bounds(teacher: Classifier) -> tuple[Tensor, Tensor]:
    mean, std = torch.tensor(teacher.mean), torch.tensor(teacher.std)
    return (-mean / std).view(-1, 1, 1), ((1 - mean) / std).view(-1, 1, 1)


def _config(args: argparse.Namespace) -> SynthesisConfig:
    given = OmegaConf.from_dotlist(args.objective)
    objective = OmegaConf.merge(OmegaConf.structured(ObjectiveConfig), given)
    return SynthesisConfig(
        resolutions=tuple(args.resolutions),
        iterations=tuple(args.iterations),
        lr=args.lr,
        seed=args.seeds[0],
        compile=args.compile,
        objective=OmegaConf.to_object(objective),  # type: ignore[arg-type]
    )


def _classifier(name: str, weights: Path | None) -> Classifier:
    checkpoint = {"checkpoint_path": str(weights)} if weights else {}
    network = timm.create_model(name, pretrained=False, **checkpoint).eval()
    data = network.pretrained_cfg
    return Classifier(
        name=name,
        network=network,
        mean=tuple(data["mean"]),
        std=tuple(data["std"]),
        img_size=data["input_size"][-1],
        num_classes=network.num_classes,
    )


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--teacher", default="resnet50")
    parser.add_argument("--teacher-weights", type=Path)
    parser.add_argument("--verifier", help="makes whole images with both loops and judges them")
    parser.add_argument("--verifier-weights", type=Path)
    parser.add_argument("--resolutions", type=int, nargs="+", default=[224])
    parser.add_argument("--iterations", type=int, nargs="+", default=[1000])
    parser.add_argument("--classes", type=int, nargs="+", default=[0, 1, 2, 3, 4])
    parser.add_argument("--per-class", type=int, default=2)
    parser.add_argument("--objective", nargs="*", default=[], metavar="KEY=VALUE")
    parser.add_argument("--lr", type=float, default=SynthesisConfig.lr)
    parser.add_argument("--compile", choices=("auto", "always", "never", "fastest"), default="auto")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0])
    parser.add_argument("--reference-views", choices=("batch", "image"), default="batch")
    parser.add_argument("--steps", type=int, default=5, help="timed steps of each loop")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--json", type=Path)
    args = parser.parse_args()
    pairs = min(len({*args.classes}), args.per_class) > 1
    if _config(args).objective.intra_divergence and not pairs:
        parser.error(
            f"--per-class {args.per_class} with {len({*args.classes})} of --classes: the boundary "
            "terms want at least 2 classes of 2 images; name more, or switch them off by "
            "--objective ep_weight=0 triplet_weight=0"
        )
    return args


if __name__ == "__main__":
    main()

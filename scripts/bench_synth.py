"""Seconds a synthesis step: ours beside a reference loop in the published layout, in one run.

The reference is written from the description of the public loops, with the equations of ours:
forward hooks for the BatchNorm statistics, the teacher not frozen, float32, contiguous, the loss
read every step, one roll and one flip for the whole batch. First both objectives and gradients are
compared on the same images (float32), then the two take turns, so that a busy machine slows both.

    python scripts/bench_synth.py --teacher resnet50 --img-size 224 --classes 5 --per-class 2 \
        --steps 5 --out bench.json

With ``--teacher-weights W.safetensors`` (timm's keys) the teacher is a real one; a step costs the
same without.
"""

import argparse
import json
import random
import statistics
import time
from pathlib import Path
from typing import Any

import timm
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from synth.augment import draw_views, jitter_flip
from synth.classifier import Classifier
from synth.config import SynthesisConfig
from synth.groups import Group
from synth.kernels import build_objective, measure_kernels
from synth.objective import Objective, targets_of
from synth.priors import l2, total_variation

BETAS = (0.5, 0.9)
LR = 0.2


class ReferenceLoop:
    """The published layout: hooks, unfrozen, float32, a sync every step."""

    def __init__(self, teacher: Classifier, config: SynthesisConfig, targets: tuple[int, ...]):
        self.network, self.config = teacher.network.eval().requires_grad_(True), config
        self.labels = torch.tensor(targets)
        self.inputs: list[tuple[nn.BatchNorm2d, Tensor]] = []
        self.handles = [
            module.register_forward_hook(lambda m, args, out: self.inputs.append((m, args[0])))
            for module in self.network.modules()
            if isinstance(module, nn.BatchNorm2d)
        ]
        self.embedding: list[Tensor] = []
        head: nn.Module = self.network.get_classifier()
        self.handles.append(
            head.register_forward_hook(lambda m, args, out: self.embedding.append(args[0]))
        )

    def close(self) -> None:
        """Take the hooks off again."""
        for handle in self.handles:
            handle.remove()
        self.network.requires_grad_(False)

    def objective(self, images: Tensor) -> Tensor:
        """The weighted sum, term by term."""
        self.inputs.clear()
        self.embedding.clear()
        weights = self.config.objective
        loss = F.cross_entropy(self.network(images), self.labels)
        loss = loss + weights.tv_weight * total_variation(images).mean()
        loss = loss + weights.l2_weight * l2(images).mean()
        for index, (module, x) in enumerate(self.inputs):
            mean = x.mean([0, 2, 3])
            var = x.permute(1, 0, 2, 3).reshape(x.shape[1], -1).var(1, unbiased=False)
            distance = (module.running_mean - mean).norm(2) + (module.running_var - var).norm(2)
            factor = weights.bn_first_multiplier if index == 0 else 1.0
            loss = loss + weights.bn_weight * factor * distance
        return loss + self._intra_divergence()

    def _intra_divergence(self) -> Tensor:
        """Row by row; differences rather than cdist, whose gradient at 0 is not defined."""
        unit = F.normalize(self.embedding[0], dim=1)
        weights, labels, count = self.config.objective, self.labels, len(self.labels)
        total = unit.new_zeros(())
        for anchor in range(count):
            same = [i for i in range(count) if i != anchor and labels[i] == labels[anchor]]
            other = [i for i in range(count) if labels[i] != labels[anchor]]
            positives = torch.stack([(unit[anchor] - unit[i]).norm() for i in same])
            negatives = torch.stack([(unit[anchor] - unit[i]).norm() for i in other])
            triplet = F.relu(positives.max() - negatives.min() + weights.triplet_margin)
            total = total - weights.ep_weight * positives.min() + weights.triplet_weight * triplet
        return total / count

    def step(
        self, canvas: Tensor, optimizer: torch.optim.Optimizer, low: Tensor, high: Tensor
    ) -> float:
        """One iteration, the loss read at its end."""
        limit = round(self.config.jitter_fraction * canvas.shape[-1])
        shifts = (random.randint(-limit, limit), random.randint(-limit, limit))
        seen = torch.roll(canvas, shifts, dims=(2, 3))
        if random.random() < 0.5:
            seen = seen.flip(3)
        optimizer.zero_grad()
        self.network.zero_grad()
        loss = self.objective(seen)
        loss.backward()
        optimizer.step()
        canvas.data = torch.minimum(torch.maximum(canvas.data, low), high)
        return loss.item()


class OurLoop:
    """The step of ``synth.inversion`` with its pieces."""

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
    torch.manual_seed(0)
    torch.set_num_threads(args.threads)
    teacher = _teacher(args)
    targets = tuple(c for c in range(args.classes) for _ in range(args.per_class))
    group = Group(id=0, targets=targets)
    config = SynthesisConfig(resolutions=(args.img_size,), iterations=(1000,))
    canvas = torch.randn(len(targets), 3, args.img_size, args.img_size)
    result: dict[str, Any] = vars(args) | {"torch": torch.__version__, "images": len(targets)}
    result["check"] = _check(teacher, config, group, canvas)
    kernels = measure_kernels(config, teacher, (group,), torch.device("cpu"))
    result |= {"precision": kernels.precision, "channels_last": kernels.channels_last}
    result |= _race(teacher, config, group, canvas, kernels, args.steps)
    text = json.dumps(result, indent=1, default=str)
    print(text)
    if args.out:
        args.out.write_text(text + "\n")


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
    kernels: Any,
    steps: int,
) -> dict[str, Any]:
    ours = OurLoop(build_objective(config, teacher, kernels), group, config)
    low, high = (
        torch.tensor([(v - m) / s for m, s in zip(teacher.mean, teacher.std, strict=True)])
        for v in (0.0, 1.0)
    )
    bounds = low.view(-1, 1, 1), high.view(-1, 1, 1)
    reference = ReferenceLoop(teacher, config, group.targets)
    seconds: dict[str, list[float]] = {"ours": [], "reference": []}
    runners = {}
    for name, loop in (("ours", ours), ("reference", reference)):
        pixels = canvas.clone().requires_grad_()
        optimizer = torch.optim.Adam([pixels], lr=LR, betas=BETAS, fused=name == "ours")
        runners[name] = (loop, pixels, optimizer)
    for turn in range(steps + 1):
        for name, (loop, pixels, optimizer) in runners.items():
            start = time.perf_counter()
            loop.step(pixels, optimizer, *bounds)
            if turn:  # the first one warms up
                seconds[name].append(time.perf_counter() - start)
    reference.close()
    medians = {name: statistics.median(values) for name, values in seconds.items()}
    return {
        "seconds": seconds,
        "median_seconds": medians,
        "speedup": medians["reference"] / medians["ours"],
    }


def _teacher(args: argparse.Namespace) -> Classifier:
    weights = args.teacher_weights
    checkpoint = {"checkpoint_path": str(weights)} if weights else {}
    network = timm.create_model(args.teacher, pretrained=False, **checkpoint).eval()
    data = network.pretrained_cfg
    return Classifier(
        name=args.teacher,
        network=network,
        mean=tuple(data["mean"]),
        std=tuple(data["std"]),
        img_size=args.img_size,
        num_classes=network.num_classes,
    )


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--teacher", default="resnet50")
    parser.add_argument("--teacher-weights", type=Path)
    parser.add_argument("--img-size", type=int, default=224)
    parser.add_argument("--classes", type=int, default=5)
    parser.add_argument("--per-class", type=int, default=2)
    parser.add_argument("--steps", type=int, default=5)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--out", type=Path)
    return parser.parse_args()


if __name__ == "__main__":
    main()

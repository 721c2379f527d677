"""A synthesis loop in the published layout, to measure ours against (``bench_synth.py``).

Written from the description of the public loops, with the equations of ours: forward hooks for the
BatchNorm statistics, the teacher not frozen, float32, contiguous, the loss read every step, one
roll and one flip for the whole batch.
"""

import random

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from synth.classifier import Classifier
from synth.priors import l2, total_variation
from synth.settings import SynthesisConfig
from synth.stage import learning_rate

__all__ = ["ReferenceLoop"]


class ReferenceLoop:
    """The published layout: hooks, unfrozen, float32, a sync every step."""

    def __init__(
        self,
        teacher: Classifier,
        config: SynthesisConfig,
        targets: tuple[int, ...],
        view_of_each: bool = False,
    ) -> None:
        self.network, self.config = teacher.network.eval().requires_grad_(True), config
        self.view_of_each = view_of_each
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
            means = (module.running_mean - mean).norm(2)
            variances = (module.running_var - var).norm(2)
            if weights.bn_relative:
                means = means / module.running_var.sqrt().norm(2)
                variances = variances / module.running_var.norm(2)
            distance = means + variances
            factor = weights.bn_first_multiplier if index == 0 else 1.0
            loss = loss + weights.bn_weight * factor * distance
        return loss + self._intra_divergence() if weights.intra_divergence else loss

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
        parts = canvas.split(1) if self.view_of_each else (canvas,)
        seen = torch.cat([_view(part, limit) for part in parts])
        optimizer.zero_grad()
        self.network.zero_grad()
        loss = self.objective(seen)
        loss.backward()
        optimizer.step()
        canvas.data = torch.minimum(torch.maximum(canvas.data, low), high)
        return loss.item()

    def images(self, canvas: Tensor, low: Tensor, high: Tensor) -> Tensor:
        """All stages, from the given noise."""
        for size, iterations in self.config.stages:
            if canvas.shape[-1] != size:
                canvas = F.interpolate(canvas, size=(size, size), mode="bilinear")
            canvas = canvas.detach().clone().requires_grad_()
            optimizer = torch.optim.Adam([canvas], betas=self.config.betas)
            for i in range(iterations):
                lr = learning_rate(i, iterations, self.config.lr, self.config.warmup_iterations)
                optimizer.param_groups[0]["lr"] = lr
                self.step(canvas, optimizer, low, high)
        return canvas.detach()


def _view(images: Tensor, limit: int) -> Tensor:
    shifts = (random.randint(-limit, limit), random.randint(-limit, limit))
    rolled = torch.roll(images, shifts, dims=(2, 3))
    return rolled.flip(3) if random.random() < 0.5 else rolled

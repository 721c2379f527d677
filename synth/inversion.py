"""Noise to images: the optimisation of one batch of groups through all its stages."""

import dataclasses
import math
from collections.abc import Iterator
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from synth.groups import Group, generator_for
from synth.jitter import draw_boxes, draw_views, jitter_flip, zoom_in
from synth.objective import Objective, Targets, targets_of
from synth.refusal import NotFiniteError, SynthError
from synth.settings import SynthesisConfig

__all__ = ["Step", "first_canvas", "invert", "learning_rate", "read_terms", "tune_bn_weight"]

BN_TERM_RANGE = (1.0, 10.0)  # where DeepInversion's issue 14 wants the weighted BN term
PILOTS = 4  # at most; the term falls with the weight, so one pilot may miss the range


@dataclass(frozen=True, kw_only=True)
class Step:
    """Where a batch stands, read from the device once.

    Sent every ``log_interval`` iterations, at the end of a stage, and with every gradient norm.
    """

    stage: int  # from 0
    iteration: int  # done in this stage
    resolution: int  # pixels a side
    terms: dict[str, list[float]]  # unweighted terms and the objective, one value a group
    grad_norms: dict[str, float]  # of the weighted terms over the batch; empty unless asked for
    images: Tensor  # a copy of the canvas, normalised for the teacher


def invert(
    objective: Objective,
    groups: tuple[Group, ...],
    config: SynthesisConfig,
    device: torch.device,
) -> Iterator[Step]:
    """Optimise a batch; the last step of the last stage carries the images that are kept.

    Raises:
        NotFiniteError: If the objective is no longer finite (looked at every ``log_interval``
            iterations).
    """
    targets = targets_of(groups, config.objective, device)
    canvas = first_canvas(groups, config, len(objective.teacher.mean)).to(device, objective.exact)
    for stage, (resolution, _) in enumerate(config.stages):
        canvas = _resized(canvas, _canvas_size(config, resolution))
        for step in _run_stage(objective, canvas, targets, groups, config, stage):
            yield step
            canvas = step.images  # after the stage: its last step's


def first_canvas(groups: tuple[Group, ...], config: SynthesisConfig, channels: int) -> Tensor:
    """Standard normal noise in normalised pixel space, drawn for each group on its own."""
    size = _canvas_size(config, config.resolutions[0])
    noise = [
        torch.randn(
            (len(group.targets), channels, size, size),
            generator=generator_for(config.seed, group.id, "noise"),
        )
        for group in groups
    ]
    return torch.cat(noise)


def learning_rate(iteration: int, iterations: int, peak: float, warmup: int) -> float:
    """Rate of an iteration (from 0): linear up to ``peak``, then a half cosine towards 0.

    Source:
        The public DeepInversion code: ``peak * (i + 1) / warmup``, then the cosine over the rest.

    Departure:
        A stage shorter than four warm-ups warms up for a quarter of itself.
    """
    warmup = min(warmup, iterations // 4)
    if iteration < warmup:
        return peak * (iteration + 1) / warmup
    return peak * (1 + math.cos(math.pi * (iteration - warmup) / (iterations - warmup))) / 2


def tune_bn_weight(
    objective: Objective,
    groups: tuple[Group, ...],
    config: SynthesisConfig,
    device: torch.device,
) -> float:
    """Set (and return) ``objective.bn_weight`` so that the BN term ends a pilot run within 1-10.

    A pilot is the first stage cut to ``auto_iterations``. Where its final term is out of range the
    weight is scaled to put it at sqrt(10), and tried again.

    Source:
        The rule of thumb in DeepInversion's issue 14.

    Departure:
        How to find the weight is ours; the term of a full run ends lower than that of a pilot.

    Raises:
        SynthError: If four pilots do not reach the range.
    """
    pilot = _pilot(config)
    low, high = BN_TERM_RANGE
    term = math.nan
    for _ in range(PILOTS):
        last = _last(invert(objective, groups, pilot, device))
        raw = sum(last.terms["bn_statistics"]) / len(groups)
        term = objective.bn_weight * raw
        if low <= term <= high:
            return objective.bn_weight
        objective.bn_weight = math.sqrt(low * high) / raw
    raise SynthError(
        f"auto_weights left the BN term at {term:.3g} after {PILOTS} pilot runs, wanted "
        f"{low:g}-{high:g}; set bn_weight by hand"
    )


def _run_stage(
    objective: Objective,
    start: Tensor,
    targets: Targets,
    groups: tuple[Group, ...],
    config: SynthesisConfig,
    stage: int,
) -> Iterator[Step]:
    resolution, iterations = config.stages[stage]
    canvas = start.clone().requires_grad_()
    views = _stage_views(groups, config, stage).to(canvas.device)
    boxes = _stage_boxes(groups, config, stage)
    boxes = None if boxes is None else boxes.to(canvas.device)
    low, high = _pixel_range(objective, canvas)
    optimizer = torch.optim.Adam([canvas], lr=config.lr, betas=config.betas, fused=True)
    keeps_best = config.keep == "best" and stage == len(config.stages) - 1
    best = _Best(canvas, len(groups)) if keeps_best else None
    for iteration in range(iterations):
        lr = learning_rate(iteration, iterations, config.lr, config.warmup_iterations)
        optimizer.param_groups[0]["lr"] = lr
        ep_factor = _ep_factor(config, stage, iteration)
        seen = jitter_flip(_resized(canvas, resolution), views[iteration])
        if boxes is not None:
            seen = zoom_in(seen, boxes[iteration])
        terms = objective(seen, targets, ep_factor=ep_factor)
        norms = _grad_norms(objective.weighted(terms, ep_factor), canvas, config, iteration)
        optimizer.zero_grad(set_to_none=True)
        torch.autograd.backward(terms["objective"].sum())
        if best is not None:
            best.update(canvas, terms["objective"])
        optimizer.step()
        with torch.no_grad():
            canvas.clamp_(low, high)
        done = iteration + 1
        if done % config.log_interval == 0 or done == iterations or norms:
            images = best.images if best is not None and done == iterations else canvas.detach()
            yield _step(stage, done, resolution, terms, norms, images.clone())


class _Best:
    """Each group's images at its lowest objective so far: true copies, chosen on the device."""

    def __init__(self, canvas: Tensor, groups: int) -> None:
        self.images = canvas.detach().clone()
        self.lowest = torch.full((groups,), math.inf, dtype=canvas.dtype, device=canvas.device)

    def update(self, canvas: Tensor, objective: Tensor) -> None:
        """Take over the groups that got better; the objective is that of ``canvas`` as it is."""
        better = objective.detach() < self.lowest
        self.lowest = torch.where(better, objective.detach(), self.lowest)
        mask = better.repeat_interleave(len(canvas) // len(better))[:, None, None, None]
        self.images = torch.where(mask, canvas.detach(), self.images)


def read_terms(terms: dict[str, Tensor], when: str) -> dict[str, list[float]]:
    """The terms as numbers, one a group: the one sync with the device.

    Raises:
        NotFiniteError: If the objective is not finite.
    """
    values = torch.stack([term.detach() for term in terms.values()]).tolist()
    named = dict(zip(terms, values, strict=True))
    if not all(math.isfinite(value) for value in named["objective"]):
        bad = next(name for name in named if not all(map(math.isfinite, named[name])))
        raise NotFiniteError(
            f"{bad} is {named[bad]} {when}; lower lr or the weights, or use precision=fp32, "
            "in a new folder"
        )
    return named


def _step(
    stage: int,
    done: int,
    resolution: int,
    terms: dict[str, Tensor],
    norms: dict[str, Tensor],
    images: Tensor,
) -> Step:
    return Step(
        stage=stage,
        iteration=done,
        resolution=resolution,
        terms=read_terms(terms, f"after {done} iterations at {resolution} px"),
        grad_norms={name: float(norm) for name, norm in norms.items()},
        images=images,
    )


def _grad_norms(
    weighted: dict[str, Tensor], canvas: Tensor, config: SynthesisConfig, iteration: int
) -> dict[str, Tensor]:
    """2-norm of each weighted term's gradient: one more backward a term, so only on demand."""
    if not config.grad_norm_interval or (iteration + 1) % config.grad_norm_interval:
        return {}
    return {
        name: torch.autograd.grad(term.sum(), canvas, retain_graph=True)[0].norm()
        for name, term in weighted.items()
    }


def _stage_views(groups: tuple[Group, ...], config: SynthesisConfig, stage: int) -> Tensor:
    resolution, iterations = config.stages[stage]
    max_shift = round(config.jitter_fraction * resolution)
    views = [
        draw_views(
            iterations,
            len(group.targets),
            max_shift,
            config.flip_probability,
            generator_for(config.seed, group.id, "views", stage),
        )
        for group in groups
    ]
    return torch.cat(views, dim=1)


def _stage_boxes(groups: tuple[Group, ...], config: SynthesisConfig, stage: int) -> Tensor | None:
    if config.smallest_crop == 1:
        return None
    iterations = config.iterations[stage]
    boxes = [
        draw_boxes(
            iterations,
            len(group.targets),
            config.smallest_crop,
            generator_for(config.seed, group.id, "boxes", stage),
        )
        for group in groups
    ]
    return torch.cat(boxes, dim=1)


def _pixel_range(objective: Objective, like: Tensor) -> tuple[Tensor, Tensor]:
    mean, std = (
        torch.tensor(values, dtype=like.dtype, device=like.device).view(-1, 1, 1)
        for values in (objective.teacher.mean, objective.teacher.std)
    )
    return -mean / std, (1 - mean) / std


def _ep_factor(config: SynthesisConfig, stage: int, iteration: int) -> float:
    warmup = config.objective.ep_warmup_iterations
    return 1.0 if stage or not warmup else min(1.0, (iteration + 1) / warmup)


def _canvas_size(config: SynthesisConfig, resolution: int) -> int:
    return config.resolutions[-1] if config.canvas == "pooled" else resolution


def _resized(images: Tensor, size: int) -> Tensor:
    """A smaller view by average pooling (the divisor is exact), a larger canvas bilinearly."""
    now = images.shape[-1]
    if now == size:
        return images
    if now > size:
        return F.avg_pool2d(images, now // size)
    return F.interpolate(images, size=(size, size), mode="bilinear", align_corners=False)


def _pilot(config: SynthesisConfig) -> SynthesisConfig:
    iterations = min(config.objective.auto_iterations, config.iterations[0])
    return dataclasses.replace(
        config,
        resolutions=config.resolutions[:1],
        iterations=(iterations,),
        canvas="upsample",
        keep="final",
        grad_norm_interval=0,
    )


def _last(steps: Iterator[Step]) -> Step:
    *_, last = steps
    return last

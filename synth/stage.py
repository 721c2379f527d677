"""One stage of a batch: images are optimised at one resolution, whatever makes them.

:func:`run_stage` is the loop. Pixels or a spectrum (:mod:`synth.canvas`) and any other way to make
images give it a :class:`Drawing`, which turns what is optimised into images, and an optimiser for
that.
"""

import dataclasses
import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor

from synth.early_stop import EarlyStop
from synth.groups import Group, generator_for
from synth.jitter import draw_boxes, draw_views, jitter_flip, shift_flip, zoom_in
from synth.objective import Objective, Targets
from synth.refusal import NotFiniteError
from synth.settings import SynthesisConfig

__all__ = [
    "Drawing",
    "MakeImages",
    "Schedule",
    "Step",
    "Views",
    "draw_stage_views",
    "learning_rate",
    "read_terms",
    "resized",
    "run_stage",
]


@dataclass(frozen=True, kw_only=True)
class Step:
    """Where a batch stands after an iteration, read from the device once.

    One is sent every ``log_interval`` iterations, at the end of a stage, and with every gradient
    norm.
    """

    stage: int  # from 0
    iteration: int  # done in this stage
    resolution: int  # pixels a side
    terms: dict[str, list[float]]  # unweighted terms and the objective, one value a group
    grad_norms: dict[str, float]  # of the weighted terms over the batch; empty unless asked for
    images: Tensor  # a copy of the batch's images, normalised for the teacher
    stopped: tuple[int | None, ...]  # the iteration after which each group stopped early, or None

    def without_images(self) -> "Step":
        """The same step with no images, of which not even the memory is kept, as by a view."""
        return dataclasses.replace(self, images=self.images.new_empty(0))


MakeImages = Callable[[Objective, tuple[Group, ...], SynthesisConfig, torch.device], Iterator[Step]]
"""A way to make images: optimises a batch of groups through all stages and tells every step.

The last step carries the batch's finished images, group after group.
"""


Schedule = Callable[[int, int, float, int], float]
"""A rate of an iteration (from 0), of the iterations of a stage, the peak and the warm-up."""


@runtime_checkable
class Drawing(Protocol):
    """What a stage optimises, seen as the images that it stands for."""

    def images(self) -> Float[Tensor, "batch channels height width"]:
        """The batch's images as they are now, normalised for the teacher, group after group.

        Differentiable with respect to what the stage's optimiser changes.
        """
        ...

    def limit(self) -> None:
        """Bring what is optimised back into its range; called after each step of the optimiser."""
        ...


@dataclass(frozen=True, kw_only=True)
class Views:
    """The random views of all iterations of a stage, one for each image."""

    shifts: Int[Tensor, "iterations batch 3"]  # of synth.jitter.draw_views
    boxes: Float[Tensor, "iterations batch 3"] | None  # of draw_boxes; None: the whole image
    edge: Float[Tensor, "channels 1 1"] | None = None  # what is shifted in; None: it wraps around

    def of(self, images: Tensor, iteration: int) -> Tensor:
        """The images as the objective sees them in an iteration (from 0)."""
        shifts = self.shifts[iteration]
        if self.edge is None:
            seen = jitter_flip(images, shifts)
        else:
            seen = shift_flip(images, shifts, self.edge)
        return seen if self.boxes is None else zoom_in(seen, self.boxes[iteration])


def run_stage(
    objective: Objective,
    drawing: Drawing,
    optimizer: torch.optim.Optimizer,
    targets: Targets,
    groups: tuple[Group, ...],
    config: SynthesisConfig,
    stage: int,
    *,
    edge: Tensor | None = None,
    schedule: Schedule | None = None,
) -> Iterator[Step]:
    """Optimise ``drawing`` for the iterations of one stage (from 0).

    The objective sees random views of the images, average-pooled to the stage's resolution where
    they are larger; ``edge`` (channels, 1, 1) is what a shift brings in, by default the other side
    of the image. The learning rates that ``optimizer`` comes with are the peaks of ``schedule``, by
    default :func:`learning_rate`.
    With ``keep="best"`` the last step of the last stage carries each group's images at its lowest
    objective. The stage ends when all groups have stopped (:mod:`synth.early_stop`); the images of
    one that stopped before the others stay what they were.

    Raises:
        NotFiniteError: If the objective is no longer finite (checked with every step that is sent).
    """
    resolution, iterations = config.stages[stage]
    views = draw_stage_views(groups, config, stage, targets.labels.device, edge)
    rate = schedule or learning_rate
    peaks = [part["lr"] for part in optimizer.param_groups]
    keeps_best = config.keep == "best" and stage == len(config.stages) - 1
    best = _Best(len(groups)) if keeps_best else None
    stop = EarlyStop(len(groups), config)
    for iteration in range(iterations):
        for part, peak in zip(optimizer.param_groups, peaks, strict=True):
            part["lr"] = rate(iteration, iterations, peak, config.warmup_iterations)
        ep_factor = _ep_factor(config, stage, iteration)
        images = drawing.images()
        seen = views.of(resized(images, resolution), iteration)
        terms = objective(seen, targets, ep_factor=ep_factor)
        norms = _grad_norms(objective.weighted(terms, ep_factor), images, config, iteration)
        optimizer.zero_grad(set_to_none=True)
        torch.autograd.backward(terms["objective"].sum())
        if best is not None:
            best.update(images, terms["objective"])
        optimizer.step()
        drawing.limit()
        done = iteration + 1
        if done % config.log_interval == 0 or done == iterations or norms:
            chosen = best.images if best is not None and done == iterations else _now(drawing)
            read = read_terms(terms, f"after {done} iterations at {resolution} px")
            yield Step(
                stage=stage,
                iteration=done,
                resolution=resolution,
                terms=read,
                grad_norms={name: float(norm) for name, norm in norms.items()},
                images=stop.look(done, read, chosen.clone()),
                stopped=tuple(stop.at),
            )
        if stop.is_over:
            return


def draw_stage_views(
    groups: tuple[Group, ...],
    config: SynthesisConfig,
    stage: int,
    device: torch.device,
    edge: Tensor | None = None,
) -> Views:
    """The views of a stage, drawn for each group on its own: they don't depend on the batch."""
    resolution, iterations = config.stages[stage]
    shift = round(config.jitter_fraction * resolution)
    shifts, boxes = [], []
    for group in groups:
        count = len(group.targets)
        random = generator_for(config.seed, group.id, "views", stage)
        shifts.append(draw_views(iterations, count, shift, config.flip_probability, random))
        if config.smallest_crop < 1:
            random = generator_for(config.seed, group.id, "boxes", stage)
            boxes.append(draw_boxes(iterations, count, config.smallest_crop, random))
    return Views(
        shifts=torch.cat(shifts, dim=1).to(device),
        boxes=torch.cat(boxes, dim=1).to(device) if boxes else None,
        edge=edge,
    )


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


def resized(
    images: Float[Tensor, "batch channels height width"], size: int
) -> Float[Tensor, "batch channels size size"]:
    """Square images at ``size`` pixels a side: average-pooled down, or enlarged bilinearly.

    Going down, ``size`` divides the side that the images have.
    """
    now = images.shape[-1]
    if now == size:
        return images
    if now > size:
        return F.avg_pool2d(images, now // size)
    return F.interpolate(images, size=(size, size), mode="bilinear", align_corners=False)


class _Best:
    """Copies of each group's images at its lowest objective so far, chosen on the device."""

    images: Tensor

    def __init__(self, groups: int) -> None:
        self.groups = groups
        self.lowest: Tensor | None = None

    def update(self, images: Tensor, objective: Tensor) -> None:
        """Take over the groups whose objective, that of these ``images``, fell."""
        images, objective = images.detach(), objective.detach()
        if self.lowest is None:
            self.images, self.lowest = images.clone(), torch.full_like(objective, math.inf)
        better = objective < self.lowest
        self.lowest = torch.where(better, objective, self.lowest)
        mask = better.repeat_interleave(len(images) // self.groups)[:, None, None, None]
        self.images = torch.where(mask, images, self.images)


@torch.no_grad()
def _now(drawing: Drawing) -> Tensor:
    return drawing.images().detach()


def _grad_norms(
    weighted: dict[str, Tensor], images: Tensor, config: SynthesisConfig, iteration: int
) -> dict[str, Tensor]:
    """2-norm of each weighted term's gradient to the images; empty unless due.

    It takes one more backward for each term.
    """
    if not config.grad_norm_interval or (iteration + 1) % config.grad_norm_interval:
        return {}
    return {
        name: torch.autograd.grad(term.sum(), images, retain_graph=True)[0].norm()
        for name, term in weighted.items()
    }


def _ep_factor(config: SynthesisConfig, stage: int, iteration: int) -> float:
    """The share of ``ep_weight`` that counts in an iteration: less than 1 while it warms up."""
    warmup = config.objective.ep_warmup_iterations
    return 1.0 if stage or not warmup else min(1.0, (iteration + 1) / warmup)

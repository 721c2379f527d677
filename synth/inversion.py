"""Inversion: the pixels themselves are optimised, from noise through all stages.

Source:
    DeepInversion (Yin et al. 2020, https://arxiv.org/abs/1912.08795).
"""

from collections.abc import Iterator

import torch
from jaxtyping import Float
from torch import Tensor

from synth.classifier import pixel_range
from synth.groups import Group, generator_for
from synth.objective import Objective, targets_of
from synth.settings import SynthesisConfig
from synth.stage import Step, resized, run_stage

__all__ = ["Canvas", "first_canvas", "invert"]


class Canvas:
    """Pixels that are optimised, kept between black and white.

    ``start`` holds the images that a stage begins with, normalised with ``mean`` and ``std``; it is
    copied.
    """

    def __init__(
        self,
        start: Float[Tensor, "batch channels height width"],
        mean: tuple[float, ...],
        std: tuple[float, ...],
    ) -> None:
        self.pixels = start.clone().requires_grad_()
        self.low, self.high = pixel_range(mean, std, start)

    def images(self) -> Float[Tensor, "batch channels height width"]:
        """The pixels as they are now."""
        return self.pixels

    @torch.no_grad()
    def limit(self) -> None:
        """Clip every pixel to the range that [0, 1] has after normalisation."""
        self.pixels.clamp_(self.low, self.high)


def invert(
    objective: Objective,
    groups: tuple[Group, ...],
    config: SynthesisConfig,
    device: torch.device,
) -> Iterator[Step]:
    """Optimise the pixels of a batch by Adam; the last step carries the images that are kept.

    Each stage goes on from the images of the one before, enlarged to its resolution.

    Raises:
        NotFiniteError: If the objective is no longer finite (checked every ``log_interval``
            iterations).
    """
    targets, teacher = targets_of(groups, config.objective, device), objective.teacher
    images = first_canvas(groups, config, len(teacher.mean)).to(device, objective.exact)
    for stage, resolution in enumerate(config.resolutions):
        start = resized(images, _canvas_size(config, resolution))
        canvas = Canvas(start, teacher.mean, teacher.std)
        optimizer = torch.optim.Adam([canvas.pixels], lr=config.lr, betas=config.betas, fused=True)
        for step in run_stage(objective, canvas, optimizer, targets, groups, config, stage):
            yield step
            images = step.images  # after the stage: its last step's


def first_canvas(
    groups: tuple[Group, ...], config: SynthesisConfig, channels: int
) -> Float[Tensor, "batch channels height width"]:
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


def _canvas_size(config: SynthesisConfig, resolution: int) -> int:
    """Pixels a side that are optimised in a stage of this resolution."""
    return config.resolutions[-1] if config.canvas == "pooled" else resolution

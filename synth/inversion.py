"""Inversion: the images themselves are optimised, from noise or leaves through all stages.

Source:
    DeepInversion (Yin et al. 2020, https://arxiv.org/abs/1912.08795).
"""

from collections.abc import Iterator

import torch
from jaxtyping import Float
from torch import Tensor

from synth.canvas import Canvas, Pixels, Spectrum
from synth.classifier import Classifier
from synth.groups import Group, generator_for
from synth.leaves import leaves_of_each
from synth.natural import GREY, STD, Look, amplitudes_of_each, places_of_each
from synth.objective import Objective, targets_of
from synth.settings import SynthesisConfig
from synth.stage import Step, resized, run_stage

__all__ = ["first_canvas", "invert"]


def invert(
    objective: Objective,
    groups: tuple[Group, ...],
    config: SynthesisConfig,
    device: torch.device,
) -> Iterator[Step]:
    """Optimise the images of a batch by Adam; the last step carries the images that are kept.

    Each stage goes on from the images of the one before, enlarged to its resolution.

    Raises:
        NotFiniteError: If the objective is no longer finite (checked every ``log_interval``
            iterations).
    """
    targets, teacher = targets_of(groups, config.objective, device), objective.teacher
    images = first_canvas(groups, config, teacher.mean, teacher.std).to(device, objective.exact)
    for stage, resolution in enumerate(config.resolutions):
        start = resized(images, _canvas_size(config, resolution))
        canvas = _canvas(start, groups, config, teacher)
        optimizer = torch.optim.Adam(
            [canvas.parameter], lr=config.lr, betas=config.betas, fused=True
        )
        for step in run_stage(objective, canvas, optimizer, targets, groups, config, stage):
            yield step
            images = step.images  # after the stage: its last step's


def first_canvas(
    groups: tuple[Group, ...],
    config: SynthesisConfig,
    mean: tuple[float, ...],
    std: tuple[float, ...],
) -> Float[Tensor, "batch channels height width"]:
    """Images normalised with ``mean`` and ``std``, drawn for each group on its own.

    They are standard normal noise. Where the spectrum is optimised, they are leaves with a texture,
    which have what natural images have (:mod:`synth.natural`): their spectrum, edges, colours and
    standard deviation, and their variety, around a grey halfway between black and white.
    """
    size = _canvas_size(config, config.resolutions[0])
    channels = len(std)
    noise = [
        torch.randn(
            (len(group.targets), channels, size, size),
            generator=generator_for(config.seed, group.id, "noise"),
        )
        for group in groups
    ]
    drawn = torch.cat(noise)
    if config.basis == "pixels":
        return drawn
    leaves = [
        leaves_of_each(
            len(group.targets), channels, size, generator_for(config.seed, group.id, "leaves")
        )
        for group in groups
    ]
    natural = _look(groups, config, channels, size).scenes(drawn.double(), torch.cat(leaves))
    grey, unit = (torch.tensor(each)[:, None, None] for each in (mean, std))
    return (natural * STD / unit + (GREY - grey) / unit).to(drawn)


def _canvas(
    start: Tensor, groups: tuple[Group, ...], config: SynthesisConfig, teacher: Classifier
) -> Canvas:
    if config.basis == "pixels":
        return Pixels(start, teacher.mean, teacher.std)
    look = _look(groups, config, *start.shape[1:3])
    return Spectrum(start, teacher.mean, teacher.std, look)


def _look(groups: tuple[Group, ...], config: SynthesisConfig, channels: int, size: int) -> Look:
    """The groups' images' own, the same whatever groups they share a batch with."""
    amplitudes, places = [], []
    for group in groups:
        count = len(group.targets)
        drawn = generator_for(config.seed, group.id, "natural")
        amplitudes.append(amplitudes_of_each(count, channels, size, drawn))
        places.append(places_of_each(count, size, generator_for(config.seed, group.id, "field")))
    return Look.of(torch.cat(amplitudes), torch.cat(places))


def _canvas_size(config: SynthesisConfig, resolution: int) -> int:
    """Pixels a side that are optimised in a stage of this resolution."""
    return config.resolutions[-1] if config.canvas == "pooled" else resolution

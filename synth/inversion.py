"""Inversion: the images themselves are optimised, from noise through all stages.

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
from synth.natural import STD, amplitudes_of_each, colours
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
    images = first_canvas(groups, config, teacher.std).to(device, objective.exact)
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
    groups: tuple[Group, ...], config: SynthesisConfig, std: tuple[float, ...]
) -> Float[Tensor, "batch channels height width"]:
    """Noise in normalised pixel space (divided by ``std``), drawn for each group on its own.

    It is standard normal. Where the spectrum is optimised, it has what natural images have
    (:mod:`synth.natural`): their spectrum, colours and standard deviation, and their variety.
    """
    size = _canvas_size(config, config.resolutions[0])
    noise = [
        torch.randn(
            (len(group.targets), len(std), size, size),
            generator=generator_for(config.seed, group.id, "noise"),
        )
        for group in groups
    ]
    drawn = torch.cat(noise)
    if config.basis == "pixels":
        return drawn
    spectrum = torch.fft.fft2(drawn.double()) * _amplitudes(groups, config, len(std), size)
    natural = torch.einsum("co,bohw->bchw", colours(len(std)), torch.fft.ifft2(spectrum).real)
    return (natural * STD / torch.tensor(std)[:, None, None]).to(drawn)


def _canvas(
    start: Tensor, groups: tuple[Group, ...], config: SynthesisConfig, teacher: Classifier
) -> Canvas:
    if config.basis == "pixels":
        return Pixels(start, teacher.mean, teacher.std)
    amplitudes = _amplitudes(groups, config, *start.shape[1:3])
    return Spectrum(start, teacher.mean, teacher.std, amplitudes)


def _amplitudes(
    groups: tuple[Group, ...], config: SynthesisConfig, channels: int, size: int
) -> Float[Tensor, "batch channels size size"]:
    """The groups' images' own, the same whatever groups they share a batch with."""
    return torch.cat(
        [
            amplitudes_of_each(
                len(group.targets), channels, size, generator_for(config.seed, group.id, "natural")
            )
            for group in groups
        ]
    )


def _canvas_size(config: SynthesisConfig, resolution: int) -> int:
    """Pixels a side that are optimised in a stage of this resolution."""
    return config.resolutions[-1] if config.canvas == "pooled" else resolution

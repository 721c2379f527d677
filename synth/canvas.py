"""What inversion optimises: the pixels of the images, or their spectrum."""

import dataclasses
from typing import Protocol

import torch
from jaxtyping import Float
from torch import Tensor

from synth.classifier import pixel_range
from synth.natural import Look
from synth.stage import Drawing

__all__ = ["Canvas", "Pixels", "Spectrum"]

MEAN_STEP = 0.25
"""A step in an image's mean, by what it would be in the mean's own unit. Whole steps take the means
of images of 224 px twice as far apart as those of photographs, with this they stay."""

UNIT = 0.5
"""Standard deviation of the normalisation for which a step is as long as Adam takes it: ours, that
of the networks on which rates were tried. In another's unit a step is as many pixels."""


class Canvas(Drawing, Protocol):
    """Images kept between black and white, and the one tensor that an optimiser changes."""

    parameter: Tensor


class Pixels:
    """The pixels themselves.

    ``start`` holds the images that a stage begins with, normalised with ``mean`` and ``std``; it is
    copied.
    """

    def __init__(
        self,
        start: Float[Tensor, "batch channels height width"],
        mean: tuple[float, ...],
        std: tuple[float, ...],
    ) -> None:
        self.parameter = start.clone().requires_grad_()
        self.low, self.high = pixel_range(mean, std, start)

    def images(self) -> Float[Tensor, "batch channels height width"]:
        """The pixels as they are now."""
        return self.parameter

    @torch.no_grad()
    def limit(self) -> None:
        """Clip every pixel to the range that [0, 1] has after normalisation."""
        self.parameter.clamp_(self.low, self.high)


class Spectrum:
    """The images' Fourier coefficients, in units of what natural images have of each.

    A step of Adam is as long for a coefficient as for any other, so that in the images it is longer
    the lower the frequency, and longer in light than in colour: light and shade and large shapes
    move first. ``start``, ``mean`` and ``std`` are as of :class:`Pixels`, with square images;
    ``look`` says what each image has.

    Source:
        Olah, Mordvintsev & Schubert 2017, Feature Visualization,
        https://distill.pub/2017/feature-visualization, "Preconditioning and Parameterization".

    Departure:
        There colours are decorrelated by a measured covariance, here by fixed opponents, so that no
        data is asked for. Images that are not of three channels keep theirs as they are. There all
        images have one spectrum; here one that is drawn with low contrast or little colour, or a
        place of it, moves in small steps, so that images stay as unlike each other as they began.
    """

    def __init__(
        self,
        start: Float[Tensor, "batch channels size size"],
        mean: tuple[float, ...],
        std: tuple[float, ...],
        look: Look,
    ) -> None:
        units = torch.full_like(look.amplitudes[0, 0], UNIT * len(std) / sum(std))
        units[0, 0] *= MEAN_STEP
        self.look = dataclasses.replace(look, amplitudes=look.amplitudes * units).to(start)
        self.parameter = self._coefficients(start).requires_grad_()
        self.low, self.high = pixel_range(mean, std, start)

    def images(self) -> Float[Tensor, "batch channels size size"]:
        """The images that the coefficients stand for."""
        return self.look.images(torch.view_as_complex(self.parameter))

    @torch.no_grad()
    def limit(self) -> None:
        """Clip every pixel to the range that [0, 1] has after normalisation."""
        self.parameter.copy_(self._coefficients(self.images().clamp(self.low, self.high)))

    def _coefficients(self, images: Tensor) -> Float[Tensor, "batch opponents size half 2"]:
        """Their real and imaginary parts."""
        return torch.view_as_real(self.look.coefficients(images))

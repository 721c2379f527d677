"""What inversion optimises: the pixels of the images, or their spectrum."""

from typing import Protocol

import torch
from jaxtyping import Float
from torch import Tensor

from synth.classifier import pixel_range
from synth.stage import Drawing

__all__ = ["Canvas", "Pixels", "Spectrum", "amplitudes", "colours"]

OPPONENTS = ((1, 1, 1), (1, 0, -1), (1, -2, 1))
"""Light, red against blue, and both against green: nearly natural images' principal colours."""
SPREAD = (1.0, 0.3, 0.15)
"""How far natural images spread along each, in units of the first. Measured: 1, 0.28, 0.14 on 200
images of ImageNet and 1, 0.29, 0.13 on CIFAR-10."""


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
    move first. Arguments as of :class:`Pixels`; with square images.

    Source:
        Olah, Mordvintsev & Schubert 2017, Feature Visualization,
        https://distill.pub/2017/feature-visualization, "Preconditioning and Parameterization".

    Departure:
        There colours are decorrelated by a measured covariance, here by fixed opponents, so that no
        data is asked for. Images that are not of three channels keep theirs as they are.
    """

    def __init__(
        self,
        start: Float[Tensor, "batch channels size size"],
        mean: tuple[float, ...],
        std: tuple[float, ...],
    ) -> None:
        self.size = start.shape[-1]
        self.scale = amplitudes(self.size)[:, : self.size // 2 + 1].to(start)
        natural = colours(start.shape[1])
        self.colours = natural.to(start)
        self.inverse = torch.linalg.inv(natural).to(start)  # once: on a GPU it waits for the device
        self.parameter = self._coefficients(start).requires_grad_()
        self.low, self.high = pixel_range(mean, std, start)

    def images(self) -> Float[Tensor, "batch channels size size"]:
        """The images that the coefficients stand for."""
        spectrum = torch.view_as_complex(self.parameter) * self.scale
        opponents = torch.fft.irfft2(spectrum, s=(self.size, self.size), norm="ortho")
        return torch.einsum("co,bohw->bchw", self.colours, opponents)

    @torch.no_grad()
    def limit(self) -> None:
        """Clip every pixel to the range that [0, 1] has after normalisation."""
        self.parameter.copy_(self._coefficients(self.images().clamp(self.low, self.high)))

    def _coefficients(self, images: Tensor) -> Float[Tensor, "batch opponents size half 2"]:
        """Real and imaginary parts, of one half: a real image's other half says the same."""
        opponents = torch.einsum("oc,bchw->bohw", self.inverse, images)
        return torch.view_as_real(torch.fft.rfft2(opponents, norm="ortho") / self.scale)


def amplitudes(size: int) -> Float[Tensor, "size size"]:
    """How large natural images' Fourier coefficients are by frequency (rows, columns): 1 / f.

    Their mean square is 1: of white noise of a variance they make images of that variance. The mean
    (frequency 0) has what the lowest frequency has.
    """
    waves = torch.fft.fftfreq(size, dtype=torch.float64)
    fall = 1 / torch.hypot(waves[:, None], waves).clamp(min=1 / size)
    return fall / fall.square().mean().sqrt()


def colours(channels: int) -> Float[Tensor, "channels channels"]:
    """The channels' values (rows) of natural images' colours (columns), in units of their spread.

    Of three independent opponents of variance 1 they make channels whose mean variance is 1. Other
    than three channels are independent.
    """
    if channels != len(OPPONENTS):
        return torch.eye(channels, dtype=torch.float64)
    directions = torch.tensor(OPPONENTS, dtype=torch.float64)
    directions /= directions.norm(dim=1, keepdim=True)
    spread = torch.tensor(SPREAD, dtype=torch.float64)
    return (directions * spread[:, None]).T * channels**0.5 / spread.norm()

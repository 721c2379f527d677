"""What inversion optimises: the pixels of the images, or their spectrum."""

from typing import Protocol

import torch
from jaxtyping import Float
from torch import Tensor

from synth.classifier import pixel_range
from synth.stage import Drawing

__all__ = ["Canvas", "Pixels", "Spectrum", "amplitudes"]


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
    """The images' Fourier coefficients, in units of what natural images have at each frequency.

    A step of Adam is as long for a coefficient as for any other, so that in the images it is longer
    the lower the frequency: light and shade and large shapes move first. Arguments as of
    :class:`Pixels`; with square images.

    Source:
        Olah, Mordvintsev & Schubert 2017, Feature Visualization,
        https://distill.pub/2017/feature-visualization, "Preconditioning and Parameterization".

    Departure:
        Colours are left as they are: what goes with what in them is known from data alone.
    """

    def __init__(
        self,
        start: Float[Tensor, "batch channels size size"],
        mean: tuple[float, ...],
        std: tuple[float, ...],
    ) -> None:
        self.size = start.shape[-1]
        self.scale = amplitudes(self.size)[:, : self.size // 2 + 1].to(start)
        self.parameter = self._coefficients(start).requires_grad_()
        self.low, self.high = pixel_range(mean, std, start)

    def images(self) -> Float[Tensor, "batch channels size size"]:
        """The images that the coefficients stand for."""
        spectrum = torch.view_as_complex(self.parameter) * self.scale
        return torch.fft.irfft2(spectrum, s=(self.size, self.size), norm="ortho")

    @torch.no_grad()
    def limit(self) -> None:
        """Clip every pixel to the range that [0, 1] has after normalisation."""
        self.parameter.copy_(self._coefficients(self.images().clamp(self.low, self.high)))

    def _coefficients(self, images: Tensor) -> Float[Tensor, "batch channels size half 2"]:
        """Real and imaginary parts, of one half: a real image's other half says the same."""
        return torch.view_as_real(torch.fft.rfft2(images, norm="ortho") / self.scale)


def amplitudes(size: int) -> Float[Tensor, "size size"]:
    """How large natural images' Fourier coefficients are by frequency (rows, columns): 1 / f.

    Their mean square is 1: of white noise of a variance they make images of that variance. The mean
    (frequency 0) has what the lowest frequency has.
    """
    waves = torch.fft.fftfreq(size, dtype=torch.float64)
    fall = 1 / torch.hypot(waves[:, None], waves).clamp(min=1 / size)
    return fall / fall.square().mean().sqrt()

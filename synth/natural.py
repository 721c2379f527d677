"""What natural images have in common, and how far they differ from one another.

Departure:
    All numbers here are ours: rounded from what scripts/measure_natural.py finds in 2,000 images of
    CIFAR-10 and in 200 of ImageNet at 32 to 224 px (SPREAD was measured before it was written). No
    data is asked for, so a network that was trained on other pictures than photographs gives images
    as unlike each other as photographs.
    The exponent of 1 / f is 1 on average, where 1.1 to 1.25 was measured: an inversion adds to it.
"""

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from jaxtyping import Complex, Float
from torch import Tensor

__all__ = [
    "GREY",
    "LOOK",
    "STD",
    "Look",
    "amplitudes",
    "amplitudes_of_each",
    "colours",
    "places_of_each",
]

LOOK = 4
"""The version of what is drawn here: one set's images are all of one."""
GREY = 0.5
"""Mean of all pixels in [0, 1]: halfway; CIFAR-10's is 0.47, ImageNet's 0.45."""
STD = 0.25
"""Standard deviation of all pixels in [0, 1]: measured 0.25 to 0.27."""
OPPONENTS = ((1, 1, 1), (1, 0, -1), (1, -2, 1))
"""Light, red against blue, and both against green: nearly natural images' principal colours."""
SPREAD = (1.0, 0.3, 0.15)
"""How far natural images spread along each, in units of the first. Measured: 1, 0.28, 0.14 on
ImageNet and 1, 0.29, 0.13 on CIFAR-10."""
MEAN = 2.0
"""How far images differ in their mean, in units of the amplitude of the lowest frequency: measured
2.0 to 2.1. That is less in all where more frequencies share the variance: 0.10 of the range from
black to white at 32 px and 0.08 at 224 px, where 0.13 was measured."""
STEEPNESS, CONTRAST, COLOURFULNESS = 0.2, 0.3, 0.6
"""Standard deviations between images: of the exponent of 1 / f (measured 0.15 to 0.22), of the log
contrast (0.30 to 0.35), of the log of colour's share (0.64 to 0.69)."""
PLACES, GRID = 0.8, 4
"""Standard deviation, between the points of a grid (a side) over an image, of the log contrast.
Photographs have calm and busy parts: between 4x4 parts of an image, which differ by chance too, the
log contrast is measured to deviate by 0.52 to 0.65, and by 0.55 after an inversion with these."""
TEXTURE = 0.2
"""Texture's share of the variance of the images that an inversion begins with; leaves have the rest
(:mod:`synth.leaves`)."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Look:
    """What each image of a batch looks like before anything is seen in it.

    It makes images of Fourier coefficients and the other way round. Coefficients of white noise
    (orthonormal) make images of variance 1, on average, that are about as unlike each other as
    natural images are.
    """

    amplitudes: Float[Tensor, "batch channels size half"]  # by opponent and frequency
    places: Float[Tensor, "batch 1 size size"]  # the contrast of each place
    weights: Float[Tensor, "batch 1 size size"]  # 1 / places, over its mean in the image
    contrast: Float[Tensor, "batch channels 1 1"]  # of each opponent, around its mean
    colours: Float[Tensor, "channels channels"]
    inverse: Float[Tensor, "channels channels"]

    @classmethod
    def of(
        cls,
        amplitudes: Float[Tensor, "batch channels size size"],
        places: Float[Tensor, "batch 1 size size"],
    ) -> "Look":
        """The look of images with these amplitudes, this contrast and natural images' colours."""
        natural, inverse = colours(amplitudes.shape[1]), 1 / places
        within = amplitudes.clone()
        within[..., 0, 0] = 0
        return cls(
            amplitudes=amplitudes[..., : amplitudes.shape[-1] // 2 + 1],
            places=places,
            weights=inverse / inverse.mean(dim=(-2, -1), keepdim=True),
            contrast=within.square().mean(dim=(-2, -1), keepdim=True).sqrt(),
            colours=natural,
            inverse=torch.linalg.inv(natural),
        )

    def to(self, like: Tensor) -> "Look":
        """The same in another precision, on another device."""
        return Look(**{name: value.to(like) for name, value in vars(self).items()})

    def images(
        self, coefficients: Complex[Tensor, "batch channels size half"]
    ) -> Float[Tensor, "batch channels size size"]:
        """The images of one half of their coefficients: a real image's other half says the same."""
        size = coefficients.shape[-2]
        spectrum = coefficients * self.amplitudes
        opponents = torch.fft.irfft2(spectrum, s=(size, size), norm="ortho")
        mean = spectrum[..., :1, :1].real / size
        return self._coloured(mean + self.places * (opponents - mean))

    def scenes(
        self,
        noise: Float[Tensor, "batch channels size size"],
        leaves: Float[Tensor, "batch channels size size"],
    ) -> Float[Tensor, "batch channels size size"]:
        """Images to begin with: leaves of mean 0 and variance 1 each, with a texture of noise."""
        texture = self.images(torch.fft.rfft2(noise, norm="ortho"))
        mean = texture.mean(dim=(-2, -1), keepdim=True)
        shapes = self._coloured(self.contrast * leaves)
        return mean + (1 - TEXTURE) ** 0.5 * shapes + TEXTURE**0.5 * (texture - mean)

    def _coloured(self, opponents: Tensor) -> Tensor:
        return torch.einsum("co,bohw->bchw", self.colours, opponents)

    def coefficients(
        self, images: Float[Tensor, "batch channels size size"]
    ) -> Complex[Tensor, "batch channels size half"]:
        """One half of the coefficients that :meth:`images` makes ``images`` of."""
        opponents = torch.einsum("oc,bchw->bohw", self.inverse, images)
        mean = (opponents * self.weights).mean((-2, -1), keepdim=True)
        drawn = mean + (opponents - mean) / self.places
        return torch.fft.rfft2(drawn, norm="ortho") / self.amplitudes


def amplitudes(size: int) -> Float[Tensor, "size size"]:
    """How large natural images' Fourier coefficients are by frequency (rows, columns): 1 / f.

    Their mean square is 1: of white noise of a variance they make images of that variance. The mean
    (frequency 0) has what the lowest frequency has, times ``MEAN``.
    """
    fall = 1 / _frequencies(size)
    fall[0, 0] *= MEAN
    return fall / fall.square().mean().sqrt()


def amplitudes_of_each(
    count: int, channels: int, size: int, generator: torch.Generator
) -> Float[Tensor, "count channels size size"]:
    """Amplitudes by image and opponent: images differ in contrast, in detail and in colour.

    The mean is no part of an image's contrast, but of its colour. The draws are the same at any
    size, and the mean square over many images is 1. Other than three channels are no opponents and
    no colours.
    """
    detail, contrast, colour = torch.randn(
        3, count, 1, 1, 1, generator=generator, dtype=torch.float64
    )
    common = amplitudes(size)
    own = common * _frequencies(size) ** (-STEEPNESS * detail)
    own[..., 0, 0] = 0
    power = common.square().sum() - common[0, 0].square()
    own *= (power / own.square().sum(dim=(-2, -1), keepdim=True)).sqrt()
    own = own * _spread(contrast, CONTRAST)
    own[..., 0, 0] = common[0, 0]
    if channels != len(OPPONENTS):
        return own.expand(-1, channels, -1, -1)
    return torch.cat([own, (own * _spread(colour, COLOURFULNESS)).expand(-1, 2, -1, -1)], dim=1)


def places_of_each(
    count: int, size: int, generator: torch.Generator
) -> Float[Tensor, "count 1 size size"]:
    """The contrast of each image's places: smooth, positive, its mean square 1.

    The draws are the same at any size.
    """
    drawn = torch.randn(count, 1, GRID, GRID, generator=generator, dtype=torch.float64)
    contrast = (PLACES * F.interpolate(drawn, size=(size, size), mode="bicubic")).exp()
    return contrast / contrast.square().mean(dim=(-2, -1), keepdim=True).sqrt()


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


def _frequencies(size: int) -> Float[Tensor, "size size"]:
    """In waves an image, at least one."""
    waves = size * torch.fft.fftfreq(size, dtype=torch.float64)
    return torch.hypot(waves[:, None], waves).clamp(min=1)


def _spread(draws: Float[Tensor, "count 1 1 1"], sigma: float) -> Float[Tensor, "count 1 1 1"]:
    """Log-normal factors whose mean square is 1."""
    return (sigma * draws - sigma**2).exp()

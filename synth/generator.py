"""The network of the generator engine: a latent vector becomes an image."""

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor, nn

__all__ = ["ImageGenerator"]

SLOPE = 0.2  # of the leaky ReLU below zero


class ImageGenerator(nn.Module):
    """Linear to (size / 4)^2 cells, then twice enlarged, with three 3x3 convolutions.

    Every layer has BatchNorm, which takes the statistics of its batch at all times: the images of a
    batch are made together, and there is no other batch to make them for. The last one is followed
    by a sigmoid, so that images are in [0, 1]. With ``classes`` each of them has a learned vector
    that is added to the latent vectors of its images.

    Source:
        Fast-Datafree, Fang et al. 2022, https://arxiv.org/abs/2112.15278: x = G(z).

    Departure:
        The vectors of the classes (NAYER, Tran et al. 2024, https://arxiv.org/abs/2310.00258, has
        embedded names in their place); enlarged to the nearest neighbour; slope 0.2.
    """

    def __init__(
        self, size: int, channels: int, latent_dim: int, width: int, classes: int | None = None
    ) -> None:
        super().__init__()
        self.cells = size // 4  # a side
        self.class_embed = None if classes is None else nn.Embedding(classes, latent_dim)
        self.linear = nn.Linear(latent_dim, 2 * width * self.cells**2)
        self.norm0 = _norm(2 * width)
        self.conv1 = nn.Conv2d(2 * width, 2 * width, 3, padding=1, bias=False)
        self.norm1 = _norm(2 * width)
        self.conv2 = nn.Conv2d(2 * width, width, 3, padding=1, bias=False)
        self.norm2 = _norm(width)
        self.conv3 = nn.Conv2d(width, channels, 3, padding=1, bias=False)
        self.norm3 = _norm(channels)

    def forward(
        self, latents: Float[Tensor, "batch dim"], labels: Int[Tensor, "batch"]
    ) -> Float[Tensor, "batch channels height width"]:
        """Images in [0, 1], ``size`` pixels a side."""
        if self.class_embed is not None:
            latents = latents + self.class_embed(labels)
        cells = self.linear(latents).unflatten(1, (-1, self.cells, self.cells))
        x = self.conv1(_enlarged(self.norm0(cells)))
        x = self.conv2(_enlarged(F.leaky_relu(self.norm1(x), SLOPE)))
        x = self.conv3(F.leaky_relu(self.norm2(x), SLOPE))
        return torch.sigmoid(self.norm3(x))


def _norm(channels: int) -> nn.BatchNorm2d:
    return nn.BatchNorm2d(channels, track_running_stats=False)


def _enlarged(x: Tensor) -> Tensor:
    """Twice as many pixels a side."""
    return F.interpolate(x, scale_factor=2.0, mode="nearest")

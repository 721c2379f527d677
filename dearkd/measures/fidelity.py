"""Nearness of images to a reference set, measured in a network's features.

torchmetrics computes the Frechet distance. Density and coverage are written here by their
definition, on scikit-learn's neighbours: no maintained library has them without many dependencies.
"""

import numpy as np
from jaxtyping import Float
from sklearn.metrics import pairwise_distances_chunked
from sklearn.neighbors import NearestNeighbors
from torch import Tensor, nn
from torchmetrics.image.fid import FrechetInceptionDistance

from dearkd.errors import UserError

__all__ = ["NEAREST", "density_and_coverage", "frechet_distance"]

NEAREST = 5
"""The ball around a real image reaches to this neighbour, as in the paper's experiments."""


def frechet_distance(
    features: Float[Tensor, "images dim"], real_features: Float[Tensor, "real_images dim"]
) -> float:
    """Frechet distance between Gaussians fitted to two sets of features, in float64.

    At least 0. Its estimate falls with the number of images: compare only sets of one size.

    Source:
        Heusel et al. 2017, https://arxiv.org/abs/1706.08500, equation 6, there in Inception's
        features.

    Raises:
        UserError: If a set has fewer than two images.
    """
    if min(len(features), len(real_features)) < 2:
        raise UserError(
            "a Frechet distance needs at least 2 images in each set, "
            f"got {len(features)} and {len(real_features)}"
        )
    as_they_are = nn.Identity()
    as_they_are.num_features = features.shape[1]  # type: ignore[assignment]
    metric = FrechetInceptionDistance(feature=as_they_are)
    metric.update(real_features.double(), real=True)
    metric.update(features.double(), real=False)
    return max(float(metric.compute()), 0.0)  # rounding; in this order NaN stays NaN


def density_and_coverage(
    features: Float[Tensor, "images dim"],
    real_features: Float[Tensor, "real_images dim"],
    nearest: int = NEAREST,
) -> tuple[float, float]:
    """Density (at least 0, can exceed 1) and coverage (in [0, 1]) of images among real ones.

    Every real image has a ball that reaches to its ``nearest``-th real neighbour. Density is the
    mean number of balls that an image lies in, divided by ``nearest``. Coverage is the share of
    real images whose ball holds an image.

    Source:
        Naeem et al. 2020, https://arxiv.org/abs/2002.09797, equations 3 and 4; as in the authors'
        package ``prdc``, a point on the edge of a ball is outside.

    Raises:
        UserError: If there are no more than ``nearest`` real images.
    """
    if len(real_features) <= nearest:
        raise UserError(
            f"density and coverage need more than {nearest} real images, got {len(real_features)}"
        )
    ours = np.asarray(features.double().cpu())
    real = np.asarray(real_features.double().cpu())
    radii = (
        NearestNeighbors(n_neighbors=nearest, algorithm="brute").fit(real).kneighbors()[0][:, -1]
    )
    inside = sum(
        int((distances < radii).sum()) for distances in pairwise_distances_chunked(ours, real)
    )
    closest = NearestNeighbors(n_neighbors=1, algorithm="brute").fit(ours).kneighbors(real)[0][:, 0]
    return inside / (nearest * len(ours)), float((closest < radii).mean())

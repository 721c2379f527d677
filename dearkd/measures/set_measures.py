"""The measures of `dearkd eval` on sets of images, each from the images and a network."""

from collections.abc import Callable, Iterable, Mapping
from typing import Any, NamedTuple

import torch
from accelerate import Accelerator
from torch import Tensor

from dearkd.data.class_matching import class_keys, match_classes
from dearkd.data.feed import evaluation_loader
from dearkd.data.loaders import BadImages, Loader
from dearkd.data.sources import ImageSource
from dearkd.errors import UserError
from dearkd.judging.evaluate import evaluate
from dearkd.measures.diversity import Diversity, distance_sums, diversity, squared_distance_sums
from dearkd.measures.fidelity import NEAREST, density_and_coverage, frechet_distance
from dearkd.measures.image_set import ImageSet, Remembered, Rows
from dearkd.measures.lpips_embedding import LpipsEmbedding
from dearkd.trained.trained import Trained

__all__ = [
    "Advance",
    "Features",
    "Network",
    "feature_diversity",
    "lpips_diversity",
    "lpips_features",
    "nearness",
    "network_features",
    "verdict",
]

Advance = Callable[[int], None]
"""Called with the number of images that have been read, to show progress."""
_PIXELS = {"alex": 1 << 20, "squeeze": 1 << 19, "vgg": 1 << 18}
"""Pixels in a forward pass of LPIPS at most, so that a batch's embeddings take about 50 MB."""


class Network(NamedTuple):
    """A trained classifier and how images are loaded for it."""

    trained: Trained
    accelerator: Accelerator
    batch_size: int
    bad_images: BadImages

    def loader(self, source: ImageSource, class_map: tuple[int, ...]) -> Loader:
        """A loader of every image once, resized and normalised for the network."""
        loader = evaluation_loader(
            source,
            self.trained.view,
            self.trained.img_size,
            class_map,
            self.accelerator,
            batch_size=self.batch_size,
            on_bad_image=self.bad_images.policy,
        )
        self.bad_images.found |= loader.bad_images.found  # named when it looked ahead
        loader.bad_images = self.bad_images
        return loader


class Features(NamedTuple):
    """Pooled features of the readable images of a set."""

    embedding: Tensor
    """(images, dim), float32."""
    labels: Tensor
    """(images,), numbered as the source's."""


@torch.inference_mode()
def lpips_diversity(
    images: ImageSet, embedding: LpipsEmbedding, batch_size: int, advance: Advance
) -> Diversity:
    """Mean LPIPS over all pairs of a class, and of the set.

    Each image goes through the network once if the embeddings of all images fit into memory, three
    times if those of each class do, four times otherwise.
    """

    def embed(rows: Rows) -> Tensor:
        advance(len(rows))
        return embedding(images.pixels(rows).to(embedding.device)).cpu()

    batches = images.batches(_fitting(batch_size, images, embedding))
    remembered = Remembered(embed)
    return diversity(batches, lambda parts: squared_distance_sums(parts, remembered))


@torch.inference_mode()
def lpips_features(
    images: ImageSet, embedding: LpipsEmbedding, batch_size: int, advance: Advance
) -> Tensor:
    """Pooled features of the LPIPS network's last layer: (images, dim)."""
    found = []
    for batches in images.batches(_fitting(batch_size, images, embedding)).values():
        for rows in batches:
            advance(len(rows))
            found.append(embedding.pooled(images.pixels(rows).to(embedding.device)).cpu())
    return torch.cat(found)


@torch.inference_mode()
def network_features(source: ImageSource, network: Network, advance: Advance) -> Features:
    """Pooled features of each readable image, the input of the network's last layer.

    Raises:
        UserError: If no image is readable.
    """
    model, loader = (
        network.trained.network,
        network.loader(source, tuple(range(source.classes.count))),
    )
    found, labels = [], []
    for batch in loader:
        images = batch["image"].to(network.accelerator.device, non_blocking=True)
        features = model.forward_head(model.forward_features(images), pre_logits=True)
        found.append(features.float().cpu())
        labels.append(batch["label"])
        advance(len(images))
    if not labels:
        raise UserError(f"no readable image, the first is {source.name(0)}; check the data")
    return Features(torch.cat(found), torch.cat(labels))


def feature_diversity(features: Features, names: tuple[str, ...] | None) -> Diversity:
    """Mean Euclidean distance of L2-normalised features, in [0, 2], within classes and overall."""
    keys = class_keys(torch.unique(features.labels).tolist(), names)
    return diversity(
        {key: torch.where(features.labels == label)[0].tolist() for label, key in keys.items()},
        lambda rows: distance_sums(features.embedding[list(rows)]),
    )


def nearness(features: Tensor, real_features: Tensor) -> dict[str, Any]:
    """Frechet distance, density and coverage of features (images, dim) among real ones."""
    density, coverage = density_and_coverage(features, real_features)
    return {
        "frechet_distance": frechet_distance(features, real_features),
        "density": density,
        "coverage": coverage,
        "nearest": NEAREST,
        "dim": features.shape[1],
    }


def verdict(source: ImageSource, network: Network, advance: Advance) -> dict[str, float]:
    """Percentage of images whose class is the first prediction (``top1``) or in five (``top5``)."""
    class_map = match_classes(
        source.classes, network.trained.class_names, network.trained.num_classes
    )

    def batches() -> Iterable[Mapping[str, Any]]:
        for batch in network.loader(source, class_map):
            advance(len(batch["label"]))
            yield batch

    result = evaluate(network.trained.network, batches(), network.accelerator, heads=("logits",))
    return result["logits"] | result["images"]


def _fitting(batch_size: int, images: ImageSet, embedding: LpipsEmbedding) -> int:
    """The batch size, or less where that many images have more than ``_PIXELS``."""
    return max(1, min(batch_size, _PIXELS[embedding.net] // images.img_size**2))

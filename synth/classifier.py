"""A frozen classifier with its pixel statistics: the teacher, a verifier, a competing student."""

import hashlib
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from synth.refusal import SynthError

__all__ = ["Classifier", "normalise", "pixel_range", "renormalise", "to_pixels"]


@dataclass(frozen=True, kw_only=True, eq=False)
class Classifier:
    """A timm-like network and how its inputs are normalised and sized.

    ``network`` has ``forward_features``, ``forward_head(..., pre_logits=True)`` and
    ``get_classifier()``. ``img_size`` (pixels a side) is the size it judges images at; synthesis
    has its own resolutions.

    Raises:
        SynthError: If the network lacks these methods, mean and std don't fit, or the number of
            class names is not the number of classes.
    """

    name: str
    network: nn.Module
    mean: tuple[float, ...]
    std: tuple[float, ...]
    img_size: int
    num_classes: int
    class_names: tuple[str, ...] | None = None

    def __post_init__(self) -> None:
        """Check what the network offers."""
        for method in ("forward_features", "forward_head", "get_classifier"):
            if not hasattr(self.network, method):
                raise SynthError(f"{self.name} has no {method}(); synthesis needs a timm-like CNN")
        if len(self.mean) != len(self.std) or min(self.std, default=0.0) <= 0:
            raise SynthError(
                f"mean and std need one value a channel, std positive; got {self.mean}, {self.std}"
            )
        if self.class_names is not None and len(self.class_names) != self.num_classes:
            raise SynthError(
                f"{self.name} has {self.num_classes} classes, got {len(self.class_names)} names"
            )

    def embed(self, images: Tensor) -> Tensor:
        """Pooled penultimate features (batch, dim) of images normalised for this classifier."""
        network: Any = self.network
        return network.forward_head(network.forward_features(images), pre_logits=True)

    @torch.no_grad()
    def judge(self, pixels: Tensor) -> tuple[Tensor, Tensor]:
        """Class probabilities (batch, classes) and embeddings (batch, dim) of uint8 ``pixels``.

        ``pixels`` have the shape (batch, channels, height, width) and are resized to ``img_size``.
        """
        like = next(self.network.parameters())
        images = pixels.to(like.device).to(like.dtype) / 255
        if images.shape[-1] != self.img_size or images.shape[-2] != self.img_size:
            size = (self.img_size, self.img_size)
            images = F.interpolate(images, size=size, mode="bicubic", antialias=True).clamp(0, 1)
        network: Any = self.network
        features = network.forward_features(normalise(images, self.mean, self.std))
        logits = network.forward_head(features)  # of a distilled ViT's two heads the mean
        return logits.float().softmax(dim=1), network.forward_head(features, pre_logits=True)

    def last_layer(self) -> nn.Module:
        """The layer that turns the embedding into logits.

        Raises:
            SynthError: If the network has several heads, as a distilled ViT has.
        """
        network: Any = self.network
        layer = network.get_classifier()
        if isinstance(layer, nn.Conv2d):  # a 1x1 convolution of pooled features: DLA, DPN
            return nn.Sequential(nn.Unflatten(1, (-1, 1, 1)), layer, nn.Flatten(1))
        if isinstance(layer, nn.Module):
            return layer
        raise SynthError(
            f"{self.name} has {len(layer)} heads; images are made from a timm-like CNN with one "
            "(any network can be the verifier)"
        )

    @torch.no_grad()
    def check_last_layer(self, size: int) -> None:
        """Make sure that get_classifier() on the embedding gives the network's logits.

        Raises:
            SynthError: If it does not, or the network cannot take images of ``size`` pixels.
        """
        network: Any = self.network
        like = next(network.parameters())
        shape = (1, len(self.mean), size, size)
        images = torch.zeros(shape, dtype=like.dtype, device=like.device)
        try:
            whole, embedding = network(images), self.embed(images)
        except (RuntimeError, AssertionError) as error:
            reason = str(error).partition("\n")[0] or type(error).__name__
            raise SynthError(f"{self.name} cannot take {size}-pixel images: {reason}") from error
        if not isinstance(whole, Tensor):
            raise SynthError(
                f"{self.name}'s forward returns a {type(whole).__name__}; let it return the logits "
                "alone, (images, classes)"
            )
        logits = self.last_layer()(embedding)
        if logits.shape != whole.shape or not torch.allclose(logits, whole, rtol=1e-3, atol=1e-4):
            raise SynthError(
                f"{self.name}: get_classifier() on the pooled features does not give its logits; "
                "a timm-like CNN with one linear head is needed"
            )
        if whole.shape[1] != self.num_classes:
            raise SynthError(
                f"{self.name} gives {whole.shape[1]} logits, num_classes is {self.num_classes}"
            )

    def weights_hash(self) -> str:
        """SHA-256 of names, types, shapes and bytes of the state dict."""
        digest = hashlib.sha256()
        for name, tensor in sorted(self.network.state_dict().items()):
            digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}\n".encode())
            flat = tensor.detach().cpu().contiguous().reshape(-1)
            digest.update(flat.view(torch.uint8).numpy().tobytes())
        return digest.hexdigest()


def normalise(images: Tensor, mean: tuple[float, ...], std: tuple[float, ...]) -> Tensor:
    """Images in [0, 1] normalised: ``(images - mean) / std`` for each channel."""
    shift, scale = _channels(mean, images), _channels(std, images)
    return (images - shift) / scale


def renormalise(images: Tensor, source: Classifier, target: Classifier) -> Tensor:
    """Images that were normalised for ``source``, normalised for ``target`` instead."""
    if (source.mean, source.std) == (target.mean, target.std):
        return images
    unit = images * _channels(source.std, images) + _channels(source.mean, images)
    return normalise(unit, target.mean, target.std)


def pixel_range(
    mean: tuple[float, ...], std: tuple[float, ...], like: Tensor
) -> tuple[Tensor, Tensor]:
    """The lowest and highest normalised value of each channel: (channels, 1, 1) each.

    They are what 0 and 1 become by normalisation, on the device and in the type of ``like``.
    """
    shift, scale = _channels(mean, like), _channels(std, like)
    return -shift / scale, (1 - shift) / scale


def to_pixels(images: Tensor, mean: tuple[float, ...], std: tuple[float, ...]) -> Tensor:
    """Normalised images as uint8 pixels: rounded, and clipped to 0-255."""
    unit = images * _channels(std, images) + _channels(mean, images)
    return (unit * 255).round().clamp(0, 255).to(torch.uint8)


def _channels(values: tuple[float, ...], like: Tensor) -> Tensor:
    return torch.tensor(values, dtype=like.dtype, device=like.device).view(-1, 1, 1)

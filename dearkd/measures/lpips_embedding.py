"""LPIPS as a squared Euclidean distance between embeddings: one forward for each image, not pair.

LPIPS sums over layers the mean over positions of w . (f_hat(x) - f_hat(y))^2, f_hat being features
normalised at every position and w >= 0 the learned weights of the channels. With
phi(x) = concat over layers of sqrt(w / (H W)) * f_hat(x) that is |phi(x) - phi(y)|^2.
"""

import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

import lpips
import torch
from jaxtyping import Float
from lpips import pretrained_networks
from torch import Tensor, nn

__all__ = ["MIN_SIZE", "LpipsEmbedding", "LpipsNet", "backbone_shapes"]

LpipsNet = Literal["alex", "vgg", "squeeze"]

MIN_SIZE = 32
"""Pixels a side that all three networks can take; alex needs 31."""
_BACKBONES = {
    "alex": pretrained_networks.alexnet,
    "vgg": pretrained_networks.vgg16,
    "squeeze": pretrained_networks.squeezenet,
}


class LpipsEmbedding(nn.Module):
    """phi: embeds images in [0, 1] so that ``lpips.LPIPS`` is a squared Euclidean distance.

    ``backbone`` has the tensors of torchvision's network under its keys (``features.0.weight``);
    the weights of the channels (version 0.1) come with the ``lpips`` package. All are frozen, in
    float32.

    Source:
        Zhang et al. 2018, https://arxiv.org/abs/1801.03924, equation 1.
    """

    def __init__(self, net: LpipsNet, backbone: Mapping[str, Tensor]) -> None:
        super().__init__()
        self.net = net
        self.scaling = lpips.ScalingLayer()
        self.backbone, names = _empty_backbone(net)
        state = {own: backbone[theirs].float() for own, theirs in names.items()}
        self.backbone.load_state_dict(state, assign=True)
        for layer, weight in enumerate(_channel_weights(net)):
            self.register_buffer(f"weight{layer}", weight)
        self.requires_grad_(False).eval()

    @property
    def device(self) -> torch.device:
        """The device of its weights."""
        return next(self.parameters()).device

    def forward(self, images: Float[Tensor, "batch 3 height width"]) -> Float[Tensor, "batch dim"]:
        """The embedding of each image in [0, 1]; its length grows with the number of pixels."""
        parts = []
        for layer, features in enumerate(self._features(images)):
            height, width = features.shape[2:]
            root = (getattr(self, f"weight{layer}") / (height * width)).sqrt()
            parts.append((lpips.normalize_tensor(features) * root).flatten(1))
        return torch.cat(parts, dim=1)

    def pooled(self, images: Float[Tensor, "batch 3 height width"]) -> Float[Tensor, "batch dim"]:
        """The last layer's features of each image in [0, 1], averaged over positions."""
        return self._features(images)[-1].mean(dim=(2, 3))

    def _features(self, images: Tensor) -> tuple[Tensor, ...]:
        # the package's own input is in [-1, 1]; its scaling layer goes on from there
        return self.backbone(self.scaling(2 * images - 1))


def backbone_shapes(net: LpipsNet) -> dict[str, tuple[int, ...]]:
    """The shape of every tensor that a backbone needs, by torchvision's key."""
    backbone, names = _empty_backbone(net)
    return {names[own]: tuple(tensor.shape) for own, tensor in backbone.state_dict().items()}


def _empty_backbone(net: LpipsNet) -> tuple[Any, dict[str, str]]:
    """The network without weights, and torchvision's key by the name of each of its tensors."""
    with warnings.catch_warnings(), torch.device("meta"):
        warnings.simplefilter("ignore")  # the package speaks to torchvision in its old words
        backbone = _BACKBONES[net](pretrained=False)
    # slice2.3.weight: the slices keep torchvision's numbering
    names = {own: f"features.{own.partition('.')[2]}" for own in backbone.state_dict()}
    return backbone, names


def _channel_weights(net: LpipsNet) -> list[Float[Tensor, "1 channels 1 1"]]:
    """The learned weights of the channels, at least 0, layer by layer."""
    file = Path(lpips.__file__).parent / "weights" / "v0.1" / f"{net}.pth"
    state = torch.load(file, map_location="cpu", weights_only=True)
    return [state[f"lin{layer}.model.1.weight"] for layer in range(len(state))]

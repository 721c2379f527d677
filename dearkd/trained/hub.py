"""Whether the model hub answers, and which of its weights have been downloaded before."""

import urllib.request
from urllib.error import HTTPError

import huggingface_hub

__all__ = ["is_cached", "is_reachable"]

HUB_TIMEOUT = 5.0
"""Seconds to wait for the hub before saying that it can't be reached."""


def is_reachable(url: str) -> bool:
    """Whether a server answers; the hub client itself would try for most of a minute."""
    if huggingface_hub.constants.HF_HUB_OFFLINE:
        return False
    try:
        urllib.request.urlopen(urllib.request.Request(url, method="HEAD"), timeout=HUB_TIMEOUT)
    except HTTPError:  # an answer too
        return True
    except OSError:
        return False
    return True


def is_cached(repo: str) -> bool:
    """Whether weights of a repository have been downloaded before."""
    files = ("model.safetensors", "pytorch_model.bin")
    return any(isinstance(huggingface_hub.try_to_load_from_cache(repo, f), str) for f in files)

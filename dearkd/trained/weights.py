"""Reads weights from a file without running code, and loads them into a network they must fit."""

import hashlib
import warnings
from pathlib import Path
from pickle import UnpicklingError

import torch
from timm.models import load_state_dict
from torch import Tensor, nn

from dearkd.errors import UserError, one_line
from dearkd.run_folder.files import archive_flaw

__all__ = ["State", "filled", "hash_of_weights", "read_state"]

State = dict[str, Tensor]


def read_state(file: Path) -> State:
    """The state dict of a file, out of the wrappers that training scripts put around it.

    Raises:
        UserError: If the file is cut short or damaged, holds more than tensors, or is no state
            dict.
    """
    if (flaw := archive_flaw(file)) is not None:
        raise UserError(f"weights {file}: the file {flaw}; fetch it again")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", UserWarning)  # odd pickles: an error comes too
            state = load_state_dict(str(file), weights_only=True)
    except Exception as error:  # what a damaged file raises depends on where it is damaged
        if isinstance(error, UnpicklingError) or isinstance(error.__cause__, UnpicklingError):
            raise UserError(
                f"weights {file} are refused: they hold more than tensors, which may run code when "
                "loaded, or are damaged; save the state dict alone, best as safetensors"
            ) from error
        reason = one_line(error)
        raise UserError(
            f"weights {file} are damaged or none ({reason}); fetch them again"
        ) from error
    if not state or not all(isinstance(value, Tensor) for value in state.values()):
        raise UserError(
            f"weights {file} are no state dict (names to tensors); save "
            "model.state_dict(), best as safetensors"
        )
    return state


def hash_of_weights(network: nn.Module) -> str:
    """SHA-256 of every tensor with its name, whatever device or memory format it is in."""
    digest = hashlib.sha256()
    for name, value in network.state_dict().items():
        digest.update(name.encode())
        digest.update(value.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy())
    return digest.hexdigest()


def filled(network: nn.Module, name: str, state: State, file: Path) -> nn.Module:
    """The network with the weights, after a check that each of them fits and is finite.

    Raises:
        UserError: Naming the first weight that does not.
    """
    own = {key: tuple(value.shape) for key, value in network.state_dict().items()}
    given = {key: tuple(value.shape) for key, value in state.items()}
    for key, shape in own.items():
        if key in given and given[key] != shape:
            raise UserError(
                f"{file} does not fit {name}: {key} is {given[key]} there and {shape} in {name}; "
                "name the model these weights are of"
            )
    missing = [k for k in own if k not in given and not k.endswith("num_batches_tracked")]
    surplus = [key for key in given if key not in own]
    if missing or surplus:
        key = missing[0] if missing else surplus[0]
        what = f"lacks {key} {own[key]}" if missing else f"has {key} {given[key]} besides"
        raise UserError(
            f"{file} does not fit {name}: it {what}; name the model these weights are of"
        )
    broken = [key for key in own if key in given and not torch.isfinite(state[key]).all()]
    if broken:
        raise UserError(
            f"{file} holds values that are no numbers (NaN or infinite) in {broken[0]}; "
            "train or fetch it again"
        )
    network.load_state_dict(
        state, strict=False
    )  # only BatchNorm's counters may be missing, see above
    return network

"""Files of a run that must survive a kill: written beside, synced, then renamed into place."""

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

__all__ = [
    "load_checkpoint",
    "load_weights",
    "raw_student",
    "read_metadata",
    "remove_leftovers",
    "save_checkpoint",
    "save_model",
    "save_tensors",
    "write_atomically",
]


def write_atomically(path: Path, write: Callable[[Path], None]) -> None:
    """Calls ``write`` on a temporary neighbour of ``path`` and renames it when it is on the disk.

    A reader sees the old file or the new one, never a part; on an error the old one stays.

    Raises:
        OSError: Disk full or read-only, after the temporary file is removed.
    """
    temporary = path.with_name(f".{path.name}.tmp{os.getpid()}")
    try:
        write(temporary)
        temporary.chmod(0o644)  # safetensors leaves its files readable to their owner alone
        with temporary.open("rb") as file:
            os.fsync(file.fileno())
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


def save_model(path: Path, model: nn.Module, metadata: dict[str, Any]) -> None:
    """Writes the weights as safetensors, with ``metadata`` as JSON under the key ``dearkd``."""
    tensors = {
        name: tensor.detach().cpu().contiguous() for name, tensor in model.state_dict().items()
    }
    save_tensors(path, tensors, metadata)


def save_tensors(path: Path, tensors: dict[str, Tensor], metadata: dict[str, Any]) -> None:
    """Writes contiguous CPU tensors as safetensors, ``metadata`` as JSON under ``dearkd``."""
    # One key alone: safetensors writes several in random order; equal runs are equal files.
    header = {"dearkd": json.dumps(metadata)}

    def write(target: Path) -> None:
        try:
            save_file(tensors, target, metadata=header)
        except SafetensorError as error:  # hides a full disk behind its own kind
            raise OSError(_unwritten(path, error)) from error

    write_atomically(path, write)


def read_metadata(path: Path) -> dict[str, Any]:
    """What ``save_model`` wrote beside the weights; empty for a file of another origin.

    Raises:
        ValueError: If the file is not safetensors.
    """
    try:
        with safe_open(path, framework="pt") as file:
            return json.loads((file.metadata() or {}).get("dearkd", "{}"))
    except SafetensorError as error:
        raise ValueError(f"{path} is not a safetensors file ({error})") from error


def load_weights(path: Path) -> dict[str, Tensor]:
    """The tensors of a safetensors file.

    Raises:
        ValueError: If the file is not safetensors.
    """
    try:
        return load_file(path)
    except SafetensorError as error:
        raise ValueError(f"{path} is not a safetensors file ({error})") from error


def save_checkpoint(path: Path, state: dict[str, Any]) -> None:
    """Writes tensors and plain values, in a form that ``weights_only`` loading accepts."""

    def write(target: Path) -> None:
        try:
            torch.save(state, target)
        except RuntimeError as error:  # torch's zip writer hides ENOSPC behind its own error
            raise OSError(_unwritten(path, error)) from error

    write_atomically(path, write)


def load_checkpoint(path: Path, device: torch.device | str = "cpu") -> dict[str, Any]:
    """What ``save_checkpoint`` wrote, without running any code from the file.

    Raises:
        FileNotFoundError: If there is none.
        ValueError: If the file is damaged.
    """
    if not path.is_file():
        raise FileNotFoundError(f"no checkpoint at {path}; is that a run folder?")
    try:
        return torch.load(path, map_location=device, weights_only=True)
    except Exception as error:
        reason = _first_line(error)
        raise ValueError(f"{path} is damaged or not a checkpoint ({reason})") from error


def raw_student(checkpoint: Path) -> dict[str, Tensor]:
    """The student's own last weights in a checkpoint, not their moving average.

    Raises:
        FileNotFoundError: If there is no checkpoint.
        ValueError: If it is damaged.
    """
    state = load_checkpoint(checkpoint)["objective"]
    prefix = "student."
    return {k.removeprefix(prefix): v for k, v in state.items() if k.startswith(prefix)}


def remove_leftovers(folder: Path) -> None:
    """Deletes the temporary files that killed processes left; call it under the folder's lock."""
    for file in folder.glob(".*.tmp*"):
        file.unlink(missing_ok=True)


def _unwritten(path: Path, error: Exception) -> str:
    return f"could not write {path}: {_first_line(error)}; is the disk full?"


def _first_line(error: Exception) -> str:
    return (str(error) or type(error).__name__).splitlines()[0]

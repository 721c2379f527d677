"""Writes files so that they survive a kill: under another name, synced, then renamed."""

import errno
import hashlib
import json
import os
import re
import shutil
import stat
import zipfile
from collections.abc import Callable
from pathlib import Path
from pickle import UnpicklingError
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from dearkd.errors import MissingFileError, UserError, WriteError, one_line
from dearkd.json_text import parsed

__all__ = [
    "archive_flaw",
    "file_hash",
    "is_leftover",
    "load_checkpoint",
    "load_weights",
    "new_file_mode",
    "raw_student",
    "read_metadata",
    "remove",
    "remove_leftovers",
    "replace_text",
    "save_checkpoint",
    "save_model",
    "save_tensors",
    "sync",
    "write_atomically",
]

CHECKPOINT_KEYS = {"objective", "optimizer", "ema", "position"}
"""What every checkpoint holds."""
ZIP_START = b"PK\x03\x04"
CHUNK = 1 << 20
"""Bytes that are read at a time where only their checksum is wanted."""
_LEFTOVER = re.compile(r"\..+\.tmp\d+")
"""A name that `write_atomically` and `dearkd export` write under; users have hidden files too."""


def write_atomically(path: Path, write: Callable[[Path], None], keep: Path | None = None) -> None:
    """Writes a file under a temporary name beside ``path``, and renames it once it is on the disk.

    A reader sees the old file or the new one, never a part of it; on an error the old one stays.
    ``write`` is given the temporary name. The old file is kept under the name ``keep``, if given.

    Raises:
        OSError: If the disk is full or read-only; the temporary file is removed.
    """
    temporary = path.with_name(f".{path.name}.tmp{os.getpid()}")
    try:
        mode = new_file_mode(temporary)
        write(temporary)
        sync(temporary, mode)
        if keep is not None and path.exists():
            _keep(path, keep)
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


def replace_text(path: Path, text: str) -> None:
    """Writes UTF-8 text as `write_atomically` does.

    Raises:
        OSError: If the disk is full or read-only; the old file stays.
    """

    def write(file: Path) -> None:
        file.write_text(text, encoding="utf-8")

    write_atomically(path, write)


def new_file_mode(file: Path) -> int:
    """The permissions that the umask leaves to a new file, read from ``file``, which it makes.

    ``os.umask`` returns the umask only by setting another one, which every thread would see.
    """
    file.unlink(missing_ok=True)
    file.touch()
    return stat.S_IMODE(file.stat().st_mode)


def sync(file: Path, mode: int) -> None:
    """Sets the permissions of a written file and waits until it is on the disk.

    Libraries may set others: safetensors makes its files readable to their owner alone.
    """
    with file.open("r+b") as stream:  # Windows syncs only what is open for writing
        file.chmod(mode)
        os.fsync(stream.fileno())


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
        # safetensors writes under a random name, which a kill would leave: in a folder of ours.
        draft = path.with_name(f".{path.name}.tmp0{os.getpid()}")  # no process has such a number
        draft.mkdir(exist_ok=True)
        try:
            save_file(tensors, draft / path.name, metadata=header)
            (draft / path.name).replace(target)
        except SafetensorError as error:  # hides a full disk behind its own kind
            raise WriteError(_unwritten(path, error)) from error
        finally:
            shutil.rmtree(draft, ignore_errors=True)

    write_atomically(path, write)


def read_metadata(path: Path) -> dict[str, Any]:
    """The metadata that ``save_model`` wrote; empty if another program wrote the file.

    Raises:
        UserError: If the file is not safetensors, or its metadata are damaged.
    """
    try:
        with safe_open(path, framework="pt") as file:
            metadata = parsed((file.metadata() or {}).get("dearkd", "{}"))
    except SafetensorError as error:
        raise UserError(_no_tensors(path, error)) from error
    except ValueError as error:
        raise UserError(
            f"{path} has damaged metadata ({one_line(error)}); fetch it again"
        ) from error
    if not isinstance(metadata, dict):
        raise UserError(f"{path} has damaged metadata (no JSON object); fetch it again")
    return metadata


def load_weights(path: Path) -> dict[str, Tensor]:
    """The tensors of a safetensors file.

    Raises:
        UserError: If the file is not safetensors.
    """
    try:
        return load_file(path)
    except SafetensorError as error:
        raise UserError(_no_tensors(path, error)) from error


def save_checkpoint(path: Path, state: dict[str, Any], keep: Path | None = None) -> None:
    """Writes tensors and plain values, in a form that ``weights_only`` loading accepts.

    ``keep``: the name under which the file that was there is kept.
    """

    def write(target: Path) -> None:
        try:
            torch.save(state, target)
        except RuntimeError as error:  # torch's zip writer hides ENOSPC behind its own error
            raise WriteError(_unwritten(path, error)) from error

    write_atomically(path, write, keep)


def load_checkpoint(path: Path) -> dict[str, Any]:
    """The state that ``save_checkpoint`` wrote; no code in the file is run.

    Raises:
        MissingFileError: If there is none.
        UserError: If the file is cut short, damaged or not a checkpoint of dearkd's.
    """
    if not path.is_file():
        raise MissingFileError(f"no checkpoint at {path}; is that a run folder?")
    flaw = archive_flaw(path)
    if flaw is None and not _is_archive(path):
        flaw = "is not a checkpoint that dearkd wrote"
    if flaw is not None:
        raise UserError(_unusable(path, flaw))
    try:
        state = torch.load(path, map_location="cpu", weights_only=True)
    except (OSError, MemoryError, torch.OutOfMemoryError):
        raise  # the machine's trouble, not the file's
    except UnpicklingError as error:  # torch's own message advises to run its code
        flaw = "holds more than tensors and plain values, so dearkd did not write it"
        raise UserError(_unusable(path, flaw)) from error
    except Exception as error:  # the kind depends on where the damage is
        raise UserError(_unusable(path, "is damaged")) from error
    if not isinstance(state, dict) or not state.keys() >= CHECKPOINT_KEYS:
        raise UserError(_unusable(path, "is not a checkpoint that dearkd wrote"))
    return state


def archive_flaw(file: Path) -> str | None:
    """What is wrong with the zip archive that ``torch.save`` wrote; None: nothing, or it is none.

    torch reads such archives without comparing their checksums. A checksum of 0 was left out when
    the file was written (``torch.serialization.set_crc32_options``).
    """
    if file.stat().st_size and not _is_archive(file):
        return None
    try:
        if not zipfile.is_zipfile(file):  # it looks for the directory at the end
            return "is cut short: it was not copied or written to its end"
        with zipfile.ZipFile(file) as archive:
            for record in archive.infolist():
                with archive.open(record) as content:
                    while record.CRC and content.read(CHUNK):
                        pass
    except Exception as error:  # the kind depends on where the damage is
        if isinstance(error, OSError) and error.errno != errno.EINVAL:  # that is a wrong offset
            raise  # the machine's trouble, not the file's
        return "is damaged: its checksum is wrong" if "CRC" in str(error) else "is damaged"
    return None


def raw_student(checkpoint: Path) -> dict[str, Tensor]:
    """The student's own last weights in a checkpoint, not their moving average.

    Raises:
        MissingFileError: If there is no checkpoint.
        UserError: If it is damaged, or not a checkpoint of a training run.
    """
    state = load_checkpoint(checkpoint).get("objective")
    if not isinstance(state, dict):
        raise UserError(_unusable(checkpoint, "is not a checkpoint that dearkd wrote"))
    prefix = "student."
    return {k.removeprefix(prefix): v for k, v in state.items() if k.startswith(prefix)}


def file_hash(file: Path) -> str:
    """SHA-256 of a file's content, which is not read into memory as a whole."""
    with file.open("rb") as content:
        return hashlib.file_digest(content, "sha256").hexdigest()


def is_leftover(entry: Path) -> bool:
    """Whether a file or folder has a temporary name of ours, which is whole under another."""
    return _LEFTOVER.fullmatch(entry.name) is not None


def remove_leftovers(folder: Path) -> None:
    """Deletes what killed processes left half written; the caller must hold the folder's lock."""
    for entry in filter(is_leftover, folder.glob(".*")):
        remove(entry)


def remove(entry: Path) -> None:
    """Deletes a file, or a folder with what is in it."""
    if entry.is_dir() and not entry.is_symlink():
        shutil.rmtree(entry)
    else:
        entry.unlink(missing_ok=True)


def _keep(path: Path, name: Path) -> None:
    """Gives a file a second name, so that it has one when another file takes the first."""
    name.unlink(missing_ok=True)
    try:
        name.hardlink_to(path)
    except OSError:  # a file system without links: for a moment there is no file called ``path``
        path.replace(name)


def _is_archive(file: Path) -> bool:
    """Whether it begins as the zip archives of ``torch.save`` do."""
    with file.open("rb") as stream:
        return stream.read(len(ZIP_START)) == ZIP_START


def _unusable(checkpoint: Path, flaw: str) -> str:
    """A message with the flaw and the ways on for the run that the checkpoint belongs to."""
    text = f"{checkpoint} {flaw}; copy it anew or start another run with another --out"
    best = checkpoint.with_name("best.safetensors")
    if best.is_file():
        text += f" (the weights of the run's best epoch are still in {best}: --which best)"
    return text


def _no_tensors(path: Path, error: SafetensorError) -> str:
    return f"{path} is not a safetensors file or is cut short ({error}); fetch it again"


def _unwritten(path: Path, error: Exception) -> str:
    return f"could not write {path}: {one_line(error)}; is the disk full?"

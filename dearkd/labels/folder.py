"""The folder of a label cache: a manifest, and for each epoch a file of every process that wrote.

Several runs may read and write one folder at a time. A file is written under another name and then
renamed, and belongs to one process alone; a reader takes all files of an epoch together. So a kill
loses what was not yet written and nothing else.
"""

import json
import os
import re
import stat
import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors import SafetensorError, safe_open
from torch import Tensor

from dearkd.errors import UserError, WriteError
from dearkd.json_text import parsed
from dearkd.labels.answers import Answers
from dearkd.run_folder.files import (
    is_leftover,
    load_weights,
    read_metadata,
    remove,
    save_tensors,
    sync,
)

__all__ = ["LabelFolder", "create_manifest", "read_manifest"]

MANIFEST = "labels.json"
LEFTOVER_SECONDS = 24 * 3600
"""Age from which a temporary file is taken for a killed process's."""
_DRAFT = re.compile(rf"\.{re.escape(MANIFEST)}\.[0-9a-f]{{32}}")
"""The name of a manifest that is being written."""


def read_manifest(folder: Path) -> dict[str, Any] | None:
    """What the labels in a folder are of; None where there are none yet.

    Raises:
        UserError: If the folder holds something else, or the manifest is damaged.
    """
    file = folder / MANIFEST
    if folder.exists() and not folder.is_dir():
        raise UserError(f"--cache-labels {folder} is a file; choose a folder")
    if not file.is_file():
        _refuse_other_content(folder)
        return None
    try:
        manifest = parsed(file.read_text(encoding="utf-8"))
    except ValueError:
        manifest = None
    if not isinstance(manifest, dict) or "key" not in manifest:
        raise UserError(f"{file} is damaged; delete {folder}, it is made anew")
    return manifest


def create_manifest(folder: Path, manifest: dict[str, Any]) -> dict[str, Any]:
    """Writes the manifest unless another run was quicker; returns the one that counts.

    Raises:
        WriteError: If the folder cannot be written to.
    """
    target = folder / MANIFEST
    draft = folder / f".{MANIFEST}.{uuid.uuid4().hex}"
    text = json.dumps(manifest, indent=1) + "\n"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        try:
            draft.write_text(text, encoding="utf-8")
            sync(draft, stat.S_IMODE(draft.stat().st_mode))
            _publish(draft, target)
        finally:
            draft.unlink(missing_ok=True)
    except OSError as error:
        reason = error.strerror or error
        raise WriteError(f"cannot write to {folder} ({reason}); choose another folder") from error
    written = read_manifest(folder)
    assert written is not None
    return written


class LabelFolder:
    """The answers of every epoch; ``key`` tells them from those of another cache."""

    def __init__(self, path: Path, answers: Answers, views_per_epoch: int, key: str) -> None:
        self.path = path
        self.answers = answers
        self.views = views_per_epoch
        self.key = key
        self._own_name = uuid.uuid4().hex[:12]

    def epochs(self) -> list[int]:
        """Those of which there is a file."""
        numbers = {file.name.split("-")[1] for file in self.path.glob(_name("*", "*"))}
        return sorted(int(number) for number in numbers if number.isdecimal())

    def known(self, epoch: int) -> NDArray[np.bool_]:
        """Which views of an epoch are there."""
        known = np.zeros(self.views, dtype=bool)
        for file in self._files(epoch):
            known |= self._known(file)
        return known

    def read(self, epoch: int) -> tuple[NDArray[np.bool_], NDArray[Any]]:
        """Which views of an epoch are there, and the answers, by position.

        Raises:
            UserError: If a file is damaged, or of another cache.
        """
        known = np.zeros(self.views, dtype=bool)
        values = np.zeros((self.views, *self.answers.shape), dtype=self.answers.numpy_dtype)
        for file in self._files(epoch):
            here = self._known(file)
            with _whole(file):
                values[here] = load_weights(file)["answers"].numpy()
            known |= here
        return known, values

    def write(self, epoch: int, own: NDArray[np.bool_], answers: NDArray[Any]) -> None:
        """Writes this process's answers to an epoch, in place of what it wrote of it before."""
        file = self.path / _name(f"{epoch:05d}", self._own_name)
        tensors: dict[str, Tensor] = {
            "views": torch.from_numpy(np.packbits(own)),
            "answers": torch.from_numpy(np.ascontiguousarray(answers)),
        }
        self.path.mkdir(parents=True, exist_ok=True)
        save_tensors(file, tensors, {"key": self.key})

    def remove_leftovers(self) -> None:
        """Deletes what killed processes left; a file being written now is younger."""
        for file in self.path.glob(".*"):
            if not (is_leftover(file) or _DRAFT.fullmatch(file.name)):
                continue
            try:
                if time.time() - file.stat().st_mtime > LEFTOVER_SECONDS:
                    remove(file)
            except OSError:  # another run deleted it, or it may not be
                continue

    def _files(self, epoch: int) -> list[Path]:
        return sorted(self.path.glob(_name(f"{epoch:05d}", "*")))

    def _known(self, file: Path) -> NDArray[np.bool_]:
        """Which views a file has, read without the answers."""
        with _whole(file):
            key = read_metadata(file).get("key")
            with safe_open(file, framework="pt") as content:
                bits = content.get_tensor("views").numpy()
            known = np.unpackbits(bits, count=self.views).astype(bool)
        if key != self.key:
            raise UserError(f"{file} is not of the labels in {MANIFEST} beside it; delete it")
        return known


@contextmanager
def _whole(file: Path) -> Iterator[None]:
    """What reading a damaged file raises becomes one line with the remedy."""
    try:
        yield
    except (SafetensorError, ValueError, KeyError, TypeError) as error:
        raise UserError(f"{file} is damaged; delete it, its labels are made anew") from error


def _name(epoch: str, writer: str) -> str:
    return f"epoch-{epoch}-{writer}.safetensors"


def _refuse_other_content(folder: Path) -> None:
    """A folder that holds other things is more likely a mistake than a place for labels."""
    if not folder.is_dir():
        return
    other = [file.name for file in folder.iterdir() if not file.name.startswith((".", "epoch-"))]
    if other:
        raise UserError(
            f"--cache-labels {folder} holds {min(other)} and no {MANIFEST}; choose a new folder"
        )


def _publish(draft: Path, target: Path) -> None:
    """Gives the draft its name unless that is taken, which a rename would overwrite."""
    try:
        os.link(draft, target)
    except FileExistsError:
        return
    except OSError:  # a file system without hard links
        draft.replace(target)

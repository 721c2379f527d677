"""The image folder of a run: atomic files, one part a group, a manifest merged at the end.

    OUT/settings.json          what every process of the run agreed on; written once
    OUT/CLASS/GROUP_IMAGE.png  the images, lossless
    OUT/.parts/group_*.json    targets, verdicts, terms and loss curve of a finished group
    OUT/manifest.json          the parts merged; "classes" has the class folders, their teacher
                               indices and the teacher's class total
    OUT/loss_curves.json       every term of every group over the iterations
    OUT/contact_sheet.png      a look at every class; preview.png while it runs

A group is finished when its part exists. Files appear under their name only when whole, and a
finished file is never written again.
"""

import hashlib
import io
import json
import os
import re
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from synth.groups import Group

__all__ = ["Writer", "class_folders", "pixel_hash", "read_image"]

SPLITS = {"train", "training", "val", "validation", "valid", "eval", "test"}  # not class folders


def class_folders(class_names: tuple[str, ...] | None, num_classes: int) -> tuple[str, ...]:
    """Folder of every class: its name where all names make distinct safe folders, else 5 digits."""
    names = class_names or ()
    safe = all(re.fullmatch(r"\w[\w .()+-]*", name, re.ASCII) for name in names)
    distinct = {name.casefold().rstrip(". ") for name in names}
    if names and safe and len(distinct) == len(names) and not distinct & SPLITS:
        return names
    return tuple(f"{index:05d}" for index in range(num_classes))


class Writer:
    """Writes below one folder; knows what is finished."""

    def __init__(
        self,
        out: Path,
        folders: tuple[str, ...],
        image_format: Literal["png", "webp"],
    ) -> None:
        self.out, self.folders, self.image_format = out, folders, image_format

    def agree(self, settings: dict[str, Any]) -> dict[str, Any]:
        """Write the settings if nobody has yet; return those that stand."""
        path = self.out / "settings.json"
        path.parent.mkdir(parents=True, exist_ok=True)
        temporary = _temporary(path, _json(settings))
        try:
            os.link(temporary, path)  # unlike a rename this fails if another was first
        except FileExistsError:
            pass
        finally:
            temporary.unlink()
        standing = self.settings()
        assert standing is not None
        return standing

    def settings(self) -> dict[str, Any] | None:
        """The settings of the run in this folder, if there is one."""
        path = self.out / "settings.json"
        return json.loads(path.read_text()) if path.exists() else None

    def is_finished(self, group: Group) -> bool:
        """Whether the group's images and part are all on disk."""
        return self._part(group).exists()

    def write_images(self, group: Group, pixels: Tensor) -> list[str]:
        """Write those of the group's uint8 images that are not there; all names, in order."""
        names = self.image_names(group)
        for name, image in zip(names, pixels.cpu(), strict=True):
            path = self.out / name
            path.parent.mkdir(parents=True, exist_ok=True)
            for leftover in path.parent.glob(f".{path.name}.*.tmp"):
                leftover.unlink()  # of a killed attempt: a group has one owner
            if not path.exists():
                _write(path, self._encode(image))
        return names

    def read_images(self, group: Group) -> Tensor:
        """The group's images as they are on disk: uint8 (images, channels, height, width)."""
        return torch.stack([read_image(self.out / name) for name in self.image_names(group)])

    def image_names(self, group: Group) -> list[str]:
        """Path of each image of the group, relative to the run's folder."""
        counts: dict[int, int] = {}
        names = []
        for target in group.targets:
            number = counts[target] = counts.get(target, -1) + 1
            file = f"{group.id:06d}_{number:03d}.{self.image_format}"
            names.append(f"{self.folders[target]}/{file}")
        return names

    def write_part(self, group: Group, part: dict[str, Any]) -> None:
        """Note that the group is finished, with all there is to say about it."""
        path = self._part(group)
        path.parent.mkdir(exist_ok=True)
        _write(path, _json(part))

    def write_json(self, name: str, content: dict[str, Any]) -> Path:
        """Write (or replace) a JSON file of the run's folder."""
        _write(self.out / name, _json(content))
        return self.out / name

    def write_picture(self, name: str, picture: Image.Image) -> Path:
        """Write (or replace) a PNG of the run's folder."""
        _write(self.out / name, _encoded(picture, "png"))
        return self.out / name

    def parts(self, groups: Sequence[Group]) -> list[dict[str, Any]]:
        """The parts of all groups, in order of their ids."""
        return [json.loads(self._part(group).read_text()) for group in groups]

    def _part(self, group: Group) -> Path:
        return self.out / ".parts" / f"group_{group.id:06d}.json"

    def _encode(self, image: Tensor) -> bytes:
        array = image.permute(1, 2, 0).numpy()
        picture = Image.fromarray(array.squeeze(2) if array.shape[2] == 1 else array)
        return _encoded(picture, self.image_format)


def read_image(path: Path) -> Tensor:
    """Pixels of an image file as uint8 (channels, height, width)."""
    with Image.open(path) as picture:
        array = np.array(picture)
    return torch.from_numpy(array.reshape(*array.shape[:2], -1)).permute(2, 0, 1)


def pixel_hash(pixels: Tensor) -> str:
    """sha256 over shape and bytes of uint8 pixels: of what is seen, not of the file format."""
    digest = hashlib.sha256(str(tuple(pixels.shape)).encode())
    digest.update(pixels.contiguous().numpy().tobytes())
    return digest.hexdigest()


def _encoded(picture: Image.Image, image_format: str) -> bytes:
    buffer = io.BytesIO()
    if image_format == "webp":
        picture.save(buffer, "WEBP", lossless=True, exact=True, quality=60, method=4)
    else:
        picture.save(buffer, "PNG", compress_level=6)
    return buffer.getvalue()


def _json(content: dict[str, Any]) -> bytes:
    return (json.dumps(content, indent=1) + "\n").encode()


def _write(path: Path, content: bytes) -> None:
    _temporary(path, content).replace(path)


def _temporary(path: Path, content: bytes) -> Path:
    """A synced file beside ``path``; readers of images know it by its suffix as none."""
    handle, name = tempfile.mkstemp(prefix=f".{path.name}.", suffix=".tmp", dir=path.parent)
    with os.fdopen(handle, "wb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())
    Path(name).chmod(0o644)  # mkstemp gives 0600
    return Path(name)

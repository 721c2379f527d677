"""The image folder of a run: atomic files, one part a group, a manifest merged at the end.

    OUT/settings.json          what every process of the run agreed on; written once
    OUT/CLASS/GROUP_IMAGE.png  the images, lossless; or, with format parquet,
    OUT/data/train-GROUP.parquet  all images of a group
    OUT/.parts/group_*.json    targets, verdicts, terms and loss curve of a finished group
    OUT/manifest.json          the parts merged; "classes" has the class folders, their teacher
                               indices and the teacher's class total
    OUT/loss_curves.json       every term of every group over the iterations
    OUT/contact_sheet.png      a look at every class; preview.png while it runs

A group is finished when its part and its images exist. Files appear under their name only when
whole, and a finished file is never written again.
"""

import io
import re
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import torch
from PIL import Image
from torch import Tensor

from synth.files import json_bytes, read_json, remove_leftovers, write_first, write_whole
from synth.groups import Group
from synth.image_files import encoded, read_image
from synth.refusal import SynthError
from synth.settings import ImageFormat
from synth.shards import read_shard, shard_bytes

__all__ = ["DamagedError", "Writer", "class_folders"]

NAMED = 20  # damaged files in one message at most
PART = ("group", "terms", "images", "curve", "seconds")  # what a part says
SPLITS = {"train", "training", "val", "validation", "valid", "eval", "test"}  # not class folders


def class_folders(class_names: tuple[str, ...] | None, num_classes: int) -> tuple[str, ...]:
    """Folder of every class: its name where all names make distinct safe folders, else 5 digits."""
    names = class_names or ()
    safe = all(re.fullmatch(r"\w[\w .()+-]*", name, re.ASCII) for name in names)
    distinct = {name.casefold().rstrip(". ") for name in names}
    if names and safe and len(distinct) == len(names) and not distinct & SPLITS:
        return names
    return tuple(f"{index:05d}" for index in range(num_classes))


class DamagedError(SynthError):
    """A file of a run that can't be read: ``file`` is its path, ``reason`` what went wrong."""

    def __init__(self, file: Path, reason: object) -> None:
        super().__init__(f"{file} is damaged ({reason}); delete it and resume: it is made again")
        self.file, self.reason = file, reason


class Writer:
    """Writes and reads the files of one run below ``out``; ``folders`` has a name for each class.

    ``class_names`` label the rows of parquet files; by default the folders' names do. Images that
    are not of ``shape`` (channels, height, width) are damaged; None: they may have any.
    """

    def __init__(
        self,
        out: Path,
        folders: tuple[str, ...],
        image_format: ImageFormat,
        class_names: tuple[str, ...] | None = None,
        shape: tuple[int, int, int] | None = None,
    ) -> None:
        self.out, self.folders, self.image_format = out, folders, image_format
        self.class_names, self.shape = class_names or folders, shape

    def agree(self, settings: dict[str, Any]) -> dict[str, Any]:
        """Write the settings unless another process has; return those that are on disk."""
        path = self.out / "settings.json"
        path.parent.mkdir(parents=True, exist_ok=True)
        write_first(path, json_bytes(settings))
        standing = self.settings()
        assert standing is not None
        return standing

    def settings(self) -> dict[str, Any] | None:
        """The settings of the run in this folder; None if there is no run yet.

        Raises:
            SynthError: If the file can't be read.
        """
        path = self.out / "settings.json"
        try:
            return read_json(path) if path.exists() else None
        except ValueError as error:
            raise self.damaged_settings(error) from error

    def damaged_settings(self, reason: object) -> SynthError:
        """What is said of settings that can't be used; unlike images they can't be made again."""
        remedy = "restore it, or name another folder"
        return SynthError(f"{self.out / 'settings.json'} is damaged ({reason}); {remedy}")

    def is_finished(self, group: Group) -> bool:
        """Whether the group's images and part are all on disk."""
        shard = self.shard(group)
        files = self.image_names(group) if shard is None else [shard]
        return self._part(group).exists() and all((self.out / file).exists() for file in files)

    def write_images(self, group: Group, pixels: Tensor) -> list[str]:
        """Write those of the group's images that are not on disk yet; return all names, in order.

        ``pixels`` are uint8 of shape (images, channels, height, width).
        """
        names, shard = self.image_names(group), self.shard(group)
        images = [self._encode(image) for image in pixels.cpu()]
        if shard is not None:
            content = shard_bytes(names, images, group.targets, self.class_names)
            self._write_once(shard, content)
        else:
            for name, image in zip(names, images, strict=True):
                self._write_once(name, image)
        return names

    def read_images(self, group: Group, target: int | None = None) -> Tensor:
        """The group's images as stored: uint8 of shape (images, channels, height, width).

        With ``target`` only those of that class.

        Raises:
            DamagedError: If a file can't be read.
        """
        shard = self.shard(group)
        stored = {} if shard is None else self._stored(shard)
        images = [
            self._read(name) if shard is None else self._read(shard, stored.get(name, b""))
            for name, label in zip(self.image_names(group), group.targets, strict=True)
            if target in (None, label)
        ]
        return torch.stack(images)

    def _stored(self, shard: str) -> dict[str, bytes]:
        try:
            return read_shard(self.out / shard)
        except (OSError, ValueError) as error:  # pyarrow's are of both kinds
            raise DamagedError(self.out / shard, error) from error

    def _read(self, name: str, content: bytes | None = None) -> Tensor:
        """The image in a file, or in ``content``, which was read from that file."""
        file = self.out / name
        try:
            image = read_image(file if content is None else io.BytesIO(content))
            if self.shape not in (None, image.shape):
                found, wanted = (" x ".join(map(str, shape)) for shape in (image.shape, self.shape))
                raise ValueError(f"it has shape {found}, not {wanted}")
            return image
        except (OSError, ValueError, SyntaxError) as error:  # Pillow's
            raise DamagedError(file, error) from error

    def shard(self, group: Group) -> str | None:
        """The group's parquet file, relative to the run's folder; None where images are files."""
        parquet = self.image_format == "parquet"
        return f"data/train-{group.id:06d}.parquet" if parquet else None

    def image_names(self, group: Group) -> list[str]:
        """Each image of the group: its path in the run's folder, or in the parquet file."""
        suffix = "png" if self.image_format == "parquet" else self.image_format
        counts: dict[int, int] = {}
        names = []
        for target in group.targets:
            number = counts[target] = counts.get(target, -1) + 1
            names.append(f"{self.folders[target]}/{group.id:06d}_{number:03d}.{suffix}")
        return names

    def write_part(self, group: Group, part: dict[str, Any]) -> None:
        """Write the group's part, the record by which it counts as finished."""
        path = self._part(group)
        path.parent.mkdir(exist_ok=True)
        write_whole(path, json_bytes(part))

    def write_json(self, name: str, content: dict[str, Any]) -> Path:
        """Write (or replace) a JSON file of the run's folder."""
        write_whole(self.out / name, json_bytes(content))
        return self.out / name

    def write_picture(self, name: str, picture: Image.Image) -> Path:
        """Write (or replace) a PNG of the run's folder."""
        write_whole(self.out / name, encoded(picture, "png"))
        return self.out / name

    def parts(self, groups: Sequence[Group]) -> list[dict[str, Any]]:
        """The parts of all groups, in order of their ids."""
        return [self._read_part(group) for group in groups]

    def refuse_damaged(self, groups: Sequence[Group]) -> None:
        """Read every part and image of these groups, to find the damaged ones.

        Raises:
            SynthError: If any can't be read; it names all, so that they can be deleted at once.
        """
        damaged = [error for group in groups for error in self._damaged(group)]
        if len(damaged) == 1:
            raise damaged[0]
        if damaged:
            files = ", ".join(str(error.file) for error in damaged[:NAMED])
            more = f" and {len(damaged) - NAMED} more" if len(damaged) > NAMED else ""
            raise SynthError(
                f"{len(damaged)} files are damaged ({damaged[0].reason}); delete them and resume: "
                f"they are made again: {files}{more}"
            )

    def _damaged(self, group: Group) -> Iterator[DamagedError]:
        """The files of a group that exist and can't be read."""
        reads: list[Callable[[], object]] = [partial(self._read_part, group)]
        if self.shard(group) is None:
            reads += [partial(self._read, name) for name in self.image_names(group)]
        else:
            reads.append(partial(self.read_images, group))
        for read in reads:
            try:
                read()
            except DamagedError as error:
                if error.file.exists():
                    yield error

    def _read_part(self, group: Group) -> dict[str, Any]:
        path = self._part(group)
        try:
            part = read_json(path)
            if missing := [key for key in PART if key not in part]:
                raise ValueError(f"it lacks {missing[0]}")
            return part
        except (OSError, ValueError) as error:
            raise DamagedError(path, error) from error

    def _part(self, group: Group) -> Path:
        return self.out / ".parts" / f"group_{group.id:06d}.json"

    def _write_once(self, name: str, content: bytes) -> None:
        """Write a file unless it exists, and remove what a killed attempt left of it."""
        path = self.out / name
        path.parent.mkdir(parents=True, exist_ok=True)
        if path.exists():
            remove_leftovers(path)
        else:
            write_whole(path, content)

    def _encode(self, image: Tensor) -> bytes:
        array = image.permute(1, 2, 0).numpy()
        picture = Image.fromarray(array.squeeze(2) if array.shape[2] == 1 else array)
        return encoded(picture, "webp" if self.image_format == "webp" else "png")

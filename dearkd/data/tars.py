"""Images in tar files of the WebDataset layout, read member by member where they lie.

Nothing is unpacked: a shard is gone through once, header by header, and then read at random.
"""

import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from dearkd.data.decode import open_image
from dearkd.data.order import Shards
from dearkd.data.sources import NO_LABEL, UNLABELLED, digest, encoded_labels
from dearkd.data.splits import EVALUATION_NAMES, TRAIN_NAMES
from dearkd.errors import UserError, one_line
from dearkd.json_text import parsed

__all__ = ["TarSource"]

IMAGE_SUFFIXES = ("jpg", "jpeg", "png", "webp")
"""In the order in which a sample's image is looked for."""
TOGETHER = 16
"""Shards whose images are shuffled together, of a thousand images each as a rule."""
_BLOCK = 512
_REGULAR = b"07\0"
"""Types of members that are files."""


class TarSource:
    """Shards on local disk, indexed when they are opened and read at random.

    A sample is a file with an image suffix and, under the same key, ``.cls`` (its class: a number,
    or a name) or ``.json`` (with ``label``). A key is what stands before the first dot. Of several
    images of a key the first by ``IMAGE_SUFFIXES`` is the sample's, as where timm reads the shards
    (``jpg;png;webp``): a ``.png`` beside a ``.jpg`` is a mask. Files like ``KEY.mask.png`` are left
    alone beside an image. The names of all classes, by number, come from
    ``classes`` in an ``info.json`` beside the first shard, or above its ``train`` or ``val``, if
    there is one. Labels are not looked at, and need not be there, where it is not ``labelled``.

    Raises:
        UserError: If a shard is no tar file, or a sample has no image, two of a kind, no label, or
            one that is no class.
    """

    def __init__(self, shards: Sequence[Path], *, labelled: bool = True) -> None:
        self.files = tuple(shards)
        scanned = [_scanned(shard, labelled) for shard in shards]
        counts = [len(samples) for samples in scanned]
        if not sum(counts):
            raise UserError(f"{shards[0].parent} has shards without images; check the folder")
        samples = [sample for own in scanned for sample in own]
        # Arrays, not lists of objects: a forked worker copies every object that it counts.
        self._places = np.asarray([sample[:2] for sample in samples], dtype=np.int64)
        self._names = np.asarray([sample[2].encode() for sample in samples])
        starts = np.cumsum([0, *counts[:-1]])
        self._starts = starts
        self.shards = Shards(starts[np.asarray(counts) > 0], TOGETHER)
        labels = np.asarray([sample[3] for sample in samples])
        self.labels: NDArray[np.int64]
        if not labelled:
            self.labels, self.classes = labels.astype(np.int64), UNLABELLED
            return
        self.labels, self.classes = encoded_labels(
            shards[0].parent, labels, _listed_names(shards[0])
        )

    def __len__(self) -> int:
        return len(self.labels)

    def image(self, index: int) -> Image.Image:
        """The decoded image."""
        start, size = self._places[index].tolist()
        with self._file(index).open("rb") as file:
            file.seek(start)
            content = file.read(size)
        return open_image(content, self.name(index))

    def name(self, index: int) -> str:
        """The member and its shard."""
        return f"{self._names[index].decode()} in {self._file(index)}"

    def fingerprint(self) -> str:
        """Hash of the names of the shards, and of every member's place, size and name."""
        names = (file.name for file in self.files)
        places = self._places.astype("<i8").tobytes()
        return digest([*names, self._starts.astype("<i8").tobytes(), places, *self._names.tolist()])

    def _file(self, index: int) -> Path:
        return self.files[int(np.searchsorted(self._starts, index, side="right")) - 1]


def _listed_names(shard: Path) -> tuple[str, ...] | None:
    folders = [shard.absolute().parent]
    if folders[0].name.lower() in TRAIN_NAMES + EVALUATION_NAMES:
        folders.append(folders[0].parent)
    found = (folder / name for folder in folders for name in ("_info.json", "info.json"))
    info = next((file for file in found if file.is_file()), None)
    if info is None:
        return None
    try:
        names = parsed(info.read_text(encoding="utf-8")).get("classes")
        if not isinstance(names, list | None):
            raise TypeError(f"its classes are {names!r:.40}, no list")
    except (AttributeError, TypeError, ValueError) as error:
        raise UserError(f"{info} is damaged ({one_line(error)}); repair or remove it") from error
    return tuple(map(str, names)) if names else None


def _scanned(shard: Path, labelled: bool) -> list[tuple[int, int, str, int | str]]:
    """Offset, size, member name and label of each sample, in the shard's order."""
    images, labels = _found(shard, labelled)
    if not labelled:
        return [(*place, NO_LABEL) for place in images.values()]
    missing = next((name for key, (_, _, name) in images.items() if key not in labels), None)
    if missing:
        raise UserError(
            f"{missing} in {shard} has no .cls or .json label; add one, or train without labels: "
            "--unlabelled"
        )
    return [(*place, labels[key]) for key, place in images.items()]


def _found(
    shard: Path, labelled: bool
) -> tuple[dict[str, tuple[int, int, str]], dict[str, int | str]]:
    """The image (offset, size, member name) and the label of each key."""
    images: dict[str, tuple[int, int, str]] = {}
    labels: dict[str, int | str] = {}
    others: dict[str, str] = {}
    try:
        with shard.open("rb", buffering=0) as file:
            for name, start, size in _members(file):
                key, suffix = _key_and_suffix(name)
                if suffix in IMAGE_SUFFIXES:
                    images[key] = _preferred(images.get(key), (start, size, name), shard)
                elif suffix.rpartition(".")[2] in IMAGE_SUFFIXES:
                    others[key] = name
                elif labelled and suffix in ("cls", "json") and key not in labels:
                    file.seek(start)
                    label = _label(file.read(size), suffix, f"{name} in {shard}")
                    labels |= {} if label is None else {key: label}
    except UserError:
        raise
    except (OSError, ValueError) as error:
        raise UserError(
            f"{shard} is no webdataset shard ({one_line(error)}); fetch it again"
        ) from error
    other = next((name for key, name in others.items() if key not in images), None)
    if other:
        raise UserError(
            f"{other} in {shard} would be left out, as a key ends at the first dot and this one "
            f"has no image ({', '.join(IMAGE_SUFFIXES)}); rename the file"
        )
    return images, labels


def _key_and_suffix(member: str) -> tuple[str, str]:
    """What the files of a sample have in common, and what tells them apart: ``a/b.c.D``: c.d."""
    folder, _, base = member.rpartition("/")
    key, _, suffix = base.partition(".")
    return f"{folder}/{key}", suffix.lower() if key else ""  # of a hidden file none


def _preferred(
    known: tuple[int, int, str] | None, new: tuple[int, int, str], shard: Path
) -> tuple[int, int, str]:
    """Which of two images of one key is the sample's."""
    if known is None:
        return new
    first, second = (IMAGE_SUFFIXES.index(_key_and_suffix(place[2])[1]) for place in (known, new))
    if first == second:
        raise UserError(
            f"{shard} has two images of one key: {known[2]} and {new[2]}; rename or remove one"
        )
    return known if first < second else new


def _label(content: bytes, suffix: str, place: str) -> int | str | None:
    """The class in a member of a shard; None: it says nothing of one."""
    try:
        found: Any = content.decode().strip()
        if suffix == "json":
            fields = parsed(found)
            found = fields.get("label") if isinstance(fields, dict) else None
        if found is None:
            return None
        if isinstance(found, str) and found:
            return int(found) if re.fullmatch(r"-?\d+", found) else found
    except ValueError as error:
        raise UserError(
            f"{place} is damaged ({one_line(error)}); correct it, or train without labels: "
            "--unlabelled"
        ) from error
    if not isinstance(found, int | float) or found != found // 1:
        raise UserError(
            f"{place} has label {found!r:.40}, neither a whole number nor a name; correct it, or "
            "train without labels: --unlabelled"
        )
    return int(found)


def _members(file: BinaryIO) -> Iterator[tuple[str, int, int]]:
    """Name, offset and size of every regular file in a tar.

    `tarfile` takes three times as long, and takes a damaged header for the end.

    Source:
        POSIX.1-2001, pax: ustar headers, extended ones (x) before them; GNU's long names (L).

    Raises:
        ValueError: If a header or the end of a member is missing.
    """
    end = file.seek(0, 2)
    at, own_name = 0, None
    while at < end:
        file.seek(at)
        header = file.read(_BLOCK)
        if not header.strip(b"\0"):
            return
        name, size, kind = _header(header, at)
        start, at = at + _BLOCK, at + _BLOCK + -(-size // _BLOCK) * _BLOCK
        if at > end:
            raise ValueError(f"{name} is cut off")
        if kind == b"x":
            own_name = _pax_path(file.read(size)) or own_name
        elif kind == b"L":
            own_name = _name(file.read(size))
        else:
            if kind in _REGULAR:
                yield own_name or name, start, size
            own_name = None


def _header(header: bytes, at: int) -> tuple[str, int, bytes]:
    """Name, size and type of a member."""
    try:
        checksum = int(header[148:156].strip(b" \0") or b"0", 8)
        size = int(header[124:136].strip(b" \0") or b"0", 8)
    except ValueError:
        checksum = size = -1
    if len(header) < _BLOCK or checksum != sum(header) - sum(header[148:156]) + 8 * ord(" "):
        raise ValueError(f"byte {at} begins no member of a tar")
    name = _name(header[:100])
    prefix = _name(header[345:500]) if header[257:263] == b"ustar\0" else ""
    return f"{prefix}/{name}" if prefix else name, size, header[156:157]


def _name(field: bytes) -> str:
    """A member's name; tar says nothing of its coding, and where it is not UTF-8 it shows so."""
    return field.rstrip(b"\0").decode(errors="replace")


def _pax_path(content: bytes) -> str | None:
    """The name that an extended header gives the next member; records are ``LENGTH KEY=VALUE``."""
    while content:
        length, _, _ = content.partition(b" ")
        if int(length) <= len(length):
            raise ValueError(f"an extended header has a record of {int(length)} bytes")
        record, content = content[len(length) + 1 : int(length) - 1], content[int(length) :]
        key, _, value = record.partition(b"=")
        if key == b"path":
            return _name(value)
    return None

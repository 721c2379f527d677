"""Image files in folders: those of a class each, or any number of them below one folder."""

import os
from array import array
from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import chain
from pathlib import Path
from typing import Any, NoReturn

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from dearkd.data.decode import open_image
from dearkd.data.order import spread_rows
from dearkd.data.sources import NO_LABEL, Classes, digest, natural_order
from dearkd.data.synthetic_set import ClassTable, read_set
from dearkd.errors import UserError
from dearkd.said import command

__all__ = [
    "IMAGE_SUFFIXES",
    "FolderSource",
    "ImageFiles",
    "PackedNames",
    "class_folders",
    "image_files",
]

IMAGE_SUFFIXES = frozenset(
    {".bmp", ".gif", ".jpeg", ".jpg", ".jpe", ".pgm", ".png", ".ppm", ".tif", ".tiff", ".webp"}
)
SIZED = 256
"""Files of a folder whose sizes are part of its fingerprint: a million would take a minute."""
SHOWN = 5
"""Most class folders that a message names."""


class PackedNames(Sequence[str]):
    """Many short texts in one block of memory.

    A list of a million has a million objects, which every loader process comes to copy.
    """

    def __init__(self, names: Iterable[str]) -> None:
        content, ends = bytearray(), array("Q")
        for name in names:
            content += os.fsencode(name)
            ends.append(len(content))
        self._content = bytes(content)
        self._ends = np.frombuffer(ends, dtype=np.uint64)

    def __len__(self) -> int:
        return len(self._ends)

    def __getitem__(self, index: Any) -> Any:
        if isinstance(index, slice):
            return [self[place] for place in range(*index.indices(len(self)))]
        place = range(len(self))[index]
        start = int(self._ends[place - 1]) if place else 0
        return os.fsdecode(self._content[start : int(self._ends[place])])


class ImageFiles:
    """Image files below a folder, in the order given, as paths within it."""

    def __init__(self, root: Path, files: Iterable[str]) -> None:
        self.root = root
        self._files = PackedNames(files)

    def __len__(self) -> int:
        return len(self._files)

    def image(self, index: int) -> Image.Image:
        """The decoded image."""
        return open_image(self.root / self._files[index], self.name(index))

    def name(self, index: int) -> str:
        """The file's path."""
        return str(self.root / self._files[index])

    def fingerprint(self) -> str:
        """Hash of all paths within the folder, and of some files' sizes."""
        some = [self.root / self._files[row] for row in spread_rows(len(self), SIZED)]
        sizes = [file.stat().st_size if file.is_file() else -1 for file in some]
        return digest(chain(self._files, sizes))


class FolderSource(ImageFiles):
    """One folder a class; images at any depth below it.

    An empty folder is a class too and keeps its index, as in torchvision's ``ImageFolder`` with
    ``allow_empty``: a model of all classes fits before and after its images come, and
    ``class_notes`` names it. The manifest of a synthetic set gives the teacher's class indices,
    which models trained on the images keep; a folder that it does not list is no class. With
    ``names``, those of the training classes, labels are their places among these.

    Raises:
        UserError: If there is no image, or one of a class that is not among ``names``.
    """

    def __init__(self, root: Path, names: Sequence[str] | None = None) -> None:
        found = read_set(root)
        table = found.classes() if found is not None and found.finished else None
        counts: dict[str, int] = {}

        def files() -> Iterator[str]:
            for folder in natural_order(class_folders(root)):
                if table is None or folder.name in table.indices:
                    own = image_files(folder)
                    counts[folder.name] = len(own)
                    yield from (os.path.join(folder.name, file) for file in own)  # noqa: PTH118

        super().__init__(root, files())
        _check_folders(root, counts, names, found is not None and found.unfinished)
        known = tuple(counts if names is None else names)
        place = {name: label for label, name in enumerate(known)}
        labels = [place.get(name, NO_LABEL) for name in counts]
        self.labels: NDArray[np.int64] = np.repeat(
            np.asarray(labels, dtype=np.int64), list(counts.values())
        )
        self.classes = Classes(len(known), known)
        if table is not None and names is None:
            self.classes = _classes_of(table, known)


def class_folders(root: Path) -> list[Path]:
    """The folders in a folder that are not hidden."""
    return [entry for entry in root.iterdir() if entry.is_dir() and not entry.name.startswith(".")]


def image_files(folder: Path) -> list[str]:
    """The images below a folder, as paths within it, in natural order; hidden ones are left out.

    A folder that several links lead to is read once, and one that this folder lies in not at all.

    Raises:
        UserError: If a folder can't be read.
    """
    here, found = Path(os.path.realpath(folder)), list[str]()
    seen = {str(place) for place in (here, *here.parents)}
    for parent, folders, files in os.walk(folder, onerror=_refuse, followlinks=True):
        folders[:] = _new(folders, parent, seen)
        place = os.path.relpath(parent, folder)
        within = "" if place == os.curdir else place + os.sep
        found += [
            within + file
            for file in files
            if os.path.splitext(file)[1].lower() in IMAGE_SUFFIXES  # noqa: PTH122 - of a million
            and not file.startswith(".")
        ]
    return natural_order(found)


def _refuse(error: OSError) -> NoReturn:
    raise UserError(
        f"{error.filename} cannot be read ({error.strerror or error}); check its permissions, or "
        "move it elsewhere"
    ) from error


def _new(folders: Sequence[str], parent: str, seen: set[str]) -> list[str]:
    """The folders in ``parent`` that are not hidden and not yet ``seen``, and are from now on."""
    new = []
    for name in sorted(folders):
        real = os.path.realpath(os.path.join(parent, name))  # noqa: PTH118
        if not name.startswith(".") and real not in seen:
            seen.add(real)
            new.append(name)
    return new


def _check_folders(
    root: Path, counts: Mapping[str, int], names: Sequence[str] | None, unfinished: bool
) -> None:
    """Refuses folders without any image, and evaluation classes that are not trained."""
    if unfinished and not any(counts.values()):
        remedy = command("dearkd", "synthesize", "--resume", "--out", root)
        raise UserError(
            f"{root} is an unfinished synthetic set without an image; finish it: {remedy}"
        )
    if not counts:
        files = list(root.iterdir())
        what = "no class folders" if files else "nothing"
        pictures = any(file.suffix.lower() in IMAGE_SUFFIXES for file in files)
        raise UserError(
            f"{root} holds {what}; put each class's images into a folder of its own"
            + (" (pictures without classes are for dearkd predict)" if pictures else "")
        )
    if not any(counts.values()):
        shown = ", ".join(list(counts)[:SHOWN]) + (", ..." if len(counts) > SHOWN else "")
        raise UserError(
            f"{root} has {len(counts)} class folders ({shown}) but no image in them "
            f"({', '.join(sorted(IMAGE_SUFFIXES))}); add images"
        )
    known = set(names or counts)
    unknown = [name for name, own in counts.items() if own and name not in known]
    if unknown:
        raise UserError(
            f"{root} has class {unknown[0]!r}, not among the {len(names or ())} classes "
            "of the training data; remove or rename the folder"
        )


def _classes_of(table: ClassTable, folders: Sequence[str]) -> Classes:
    """The classes of a synthetic set's folders, named as the teacher names them.

    Where it names none the folders' names count, if they are more than the classes' numbers.
    """
    indices = tuple(table.indices[folder] for folder in folders)
    names: tuple[str, ...] | None = tuple(folders)
    if table.names is not None:
        names = tuple(table.names[index] for index in indices)
    elif all(map(str.isdecimal, folders)):
        names = None
    return Classes(len(folders), names, indices, table.total)

"""A synthetic set on disk: the one place where dearkd reads its manifest and settings.

``synth`` writes the files and ``synth.writer`` describes them. A file may be missing or damaged, or
have been written by another program that uses the same name. The functions here read what is sound
and report what is not.
"""

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path, PurePosixPath
from typing import Any

import yaml  # type: ignore[import-untyped, unused-ignore]

from dearkd.data.splits import from_home, is_pattern, matching_files
from dearkd.errors import UserError, one_line
from dearkd.json_text import parsed
from dearkd.said import command

__all__ = [
    "CONFIG_FILE",
    "MANIFEST_FILE",
    "SETTINGS_FILE",
    "SURE",
    "ClassTable",
    "ListedImage",
    "SyntheticSet",
    "are_sets",
    "finished_sets",
    "is_of_nameless_teacher",
    "is_set",
    "missing_images",
    "named_paths",
    "read_set",
    "read_sets",
    "unsure_images",
]

MANIFEST_FILE = "manifest.json"
"""Written last: it lists every image of a finished set."""
SETTINGS_FILE = "settings.json"
"""Written first: what all processes agreed on; the manifest repeats it."""
CONFIG_FILE = "synthesize.yaml"
"""The configuration of ``dearkd synthesize``."""
SURE = 0.9
"""Share of recognised images from which on labels may be taken at their word."""
SHOWN = 5
"""Most classes that a message names."""


@dataclass(frozen=True)
class ClassTable:
    """The class folders of a finished set and the teacher's classes that they stand for."""

    indices: dict[str, int]
    """The teacher's index of each folder."""
    total: int
    """How many classes the teacher has."""
    names: tuple[str, ...] | None
    """The teacher's names of all its classes: not every name makes a folder."""


@dataclass(frozen=True)
class ListedImage:
    """One image that the manifest lists, wherever the set lies now."""

    record: dict[str, Any]
    """The manifest's entry for the image."""
    file: Path
    """The file that holds it: its own, or a parquet file of several."""
    name: str
    """What the opened data set calls it."""

    @property
    def folder(self) -> str:
        """The class folder that it is in, or would be in if it were no row of a parquet file."""
        return PurePosixPath(self.record["file"]).parent.name


@dataclass(frozen=True)
class SyntheticSet:
    """What the files of a synthetic set say of it."""

    root: Path
    manifest: dict[str, Any]
    """The manifest's content; empty where there is none, or none that can be read."""
    settings: dict[str, Any]
    """What the processes that made it agreed on; of a finished set, what its manifest says."""
    finished: bool
    """Whether there is a manifest, readable or not."""
    damage: str | None
    """What is wrong with the manifest, in one line."""

    @property
    def unfinished(self) -> bool:
        """Whether ``dearkd synthesize --resume`` has more to make before there is a manifest."""
        return not self.finished and (self.root / CONFIG_FILE).is_file()

    @property
    def mirrored(self) -> bool | None:
        """Whether images were mirrored in the making; None: its files do not say."""
        try:
            return bool(self.settings["config"]["flip_probability"] > 0)
        except (KeyError, TypeError):
            return None

    @property
    def recognised(self) -> float | None:
        """The share of its images, in [0, 1], that their teacher recognises.

        None: its files do not say.
        """
        try:
            return float(self.manifest["quality"]["teacher"]["recognition"]["overall"])
        except (KeyError, TypeError, ValueError):
            return None

    @property
    def teacher(self) -> tuple[str, Path | None] | None:
        """Name and weights file of the network that it was made from; None: it does not say."""
        try:
            text = (self.root / CONFIG_FILE).read_text(encoding="utf-8")
            named = yaml.safe_load(text)["teacher"]
            name, weights = named["name"], named.get("weights")
        except (OSError, ValueError, yaml.YAMLError, RecursionError):
            return None
        except (LookupError, TypeError, AttributeError):  # of another form
            return None
        if not isinstance(name, str):
            return None
        return name, Path(weights) if isinstance(weights, str) else None

    @cached_property
    def images(self) -> tuple[ListedImage, ...]:
        """The images that the manifest lists, in its order; those outside the set are left out."""
        return tuple(_listed(self.root, self.manifest.get("images")))

    @cached_property
    def missing(self) -> tuple[ListedImage, ...]:
        """The listed images whose file is gone."""
        there = {file: file.is_file() for file in {image.file for image in self.images}}
        return tuple(image for image in self.images if not there[image.file])

    def classes(self) -> ClassTable:
        """The teacher's classes that the folders stand for.

        Raises:
            UserError: If the manifest does not say.
        """
        try:
            return _class_table(self.manifest)
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            reason = repr(error) if self.manifest else self.damage or repr(error)
            raise UserError(
                f"{self.root / MANIFEST_FILE} does not list the class names, indices and total "
                f"({reason}); synthesize again, or remove it to use the folders alone"
            ) from error


def is_of_nameless_teacher(path: Path) -> bool:
    """Whether a folder is a finished set whose classes have numbers in place of names."""
    found = read_set(path)
    return found is not None and found.manifest.get("class_names", "") is None


def is_set(path: str | Path) -> bool:
    """Whether a folder has a file of a synthetic set, finished or not; nothing is read."""
    root = from_home(path)
    return any((root / name).is_file() for name in (MANIFEST_FILE, SETTINGS_FILE, CONFIG_FILE))


def read_set(path: str | Path) -> SyntheticSet | None:
    """The synthetic set in a folder, finished or not; None: none of its files are there."""
    root = from_home(path)
    if not is_set(root):
        return None
    finished = (root / MANIFEST_FILE).is_file()
    manifest, damage = _content(root / MANIFEST_FILE) if finished else ({}, None)
    settings = manifest if finished else _content(root / SETTINGS_FILE)[0]
    return SyntheticSet(root, manifest, settings, finished, damage or _listing_damage(manifest))


def named_paths(data: str) -> list[Path]:
    """What a data setting names: a path, or several by a pattern; they may not exist."""
    path = from_home(data)
    return matching_files(str(path)) if is_pattern(str(path)) and not path.exists() else [path]


def are_sets(data: str) -> bool:
    """Whether what a data setting names is a synthetic set, or several; nothing is read."""
    paths = named_paths(data)
    return bool(paths) and all(map(is_set, paths))


def read_sets(data: str) -> list[SyntheticSet]:
    """The synthetic sets among what a data setting names."""
    return [found for found in map(read_set, named_paths(data)) if found is not None]


def finished_sets(root: Path) -> list[Path]:
    """The folders of the finished synthetic sets up to two levels below ``root``, newest first."""
    found = [*root.glob(f"*/{MANIFEST_FILE}"), *root.glob(f"*/*/{MANIFEST_FILE}")]
    return [file.parent for file in sorted(found, key=lambda file: -file.stat().st_mtime)]


def missing_images(data: str) -> str | None:
    """One line that says which images of synthetic sets are gone and how to make them again.

    None: none are, or ``data`` names no synthetic set.
    """
    return "; ".join(filter(None, map(_lacks, read_sets(data)))) or None


def unsure_images(data: str) -> str | None:
    """One line on synthetic sets whose images are not all what they were to become.

    None: they are, or ``data`` names no set that says.
    """
    shares = [(found.recognised, found.root) for found in read_sets(data)]
    unsure = [(share, root) for share, root in shares if share is not None and share < SURE]
    if not unsure:
        return None
    share, root = min(unsure)
    return (
        f"{root}: its teacher recognises {100 * share:.0f} % of the images as what they were to "
        "become; --recipe best learns what it says of each instead"
    )


def _lacks(found: SyntheticSet) -> str | None:
    """What a set lacks and how to make it again; None: nothing."""
    remedy = command("dearkd", "synthesize", "--resume", "--out", found.root)
    if found.unfinished:
        return (
            f"{found.root} is an unfinished synthetic set: what is missing of it stays out of "
            f"training, and it has no class indices yet; finish it: {remedy}"
        )
    whole = Counter(image.folder for image in found.images)
    gone = Counter(image.folder for image in found.missing)
    if not gone:
        return None
    shares = [f"{name} ({n} of {whole[name]})" for name, n in gone.most_common(SHOWN)]
    if len(gone) > SHOWN:
        shares.append(f"{len(gone) - SHOWN} more")
    return (
        f"{found.root} lacks {gone.total()} of the {len(found.images)} images that its manifest "
        f"lists, of class {', '.join(shares)}; make them again: {remedy}"
    )


def _content(file: Path) -> tuple[dict[str, Any], str | None]:
    """A JSON object and what is wrong with its file; empty if it can't be read."""
    try:
        content = parsed(file.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        return {}, one_line(error)
    return (content, None) if isinstance(content, dict) else ({}, "it is no JSON object")


def _listing_damage(manifest: dict[str, Any]) -> str | None:
    """What is wrong with the manifest's list of images."""
    records = manifest.get("images", [])
    if not isinstance(records, list):
        return "its images are no list"
    outside = sum(not _is_inside(record) for record in records)
    return f"{outside} of its {len(records)} images name no file of the set" if outside else None


def _listed(root: Path, records: Any) -> Iterator[ListedImage]:
    rows: Counter[str] = Counter()
    for record in filter(_is_inside, records if isinstance(records, list) else ()):
        shard = record.get("shard")
        if shard is None:
            file = root / record["file"]
            yield ListedImage(record, file, str(file))
        else:
            yield ListedImage(record, root / shard, f"row {rows[shard]} of {root / shard}")
            rows[shard] += 1


def _is_inside(record: Any) -> bool:
    """Whether a record names a class folder and a file, and no place outside the set."""
    if not isinstance(record, dict):
        return False
    names = [record.get("file"), record.get("shard", "data")]
    if not all(isinstance(name, str) and name for name in names):
        return False
    paths = [PurePosixPath(name) for name in names]
    return len(paths[0].parts) > 1 and not any(
        path.is_absolute() or ".." in path.parts for path in paths
    )


def _class_table(manifest: dict[str, Any]) -> ClassTable:
    table, names = manifest["classes"], manifest.get("class_names")
    folders, indices = list(table["names"]), [int(index) for index in table["indices"]]
    total = int(table["total"])
    if names is not None and len(names) != total:
        raise UserError(f"{len(names)} class_names, total {total}")
    outside = [index for index in indices if not 0 <= index < total]
    if outside:
        raise UserError(f"index {outside[0]}, total {total}")
    indices_of = dict(zip(folders, indices, strict=True))
    return ClassTable(indices_of, total, None if names is None else tuple(map(str, names)))

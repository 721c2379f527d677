"""What lies at a place: digits, folders, parquet and tar files, timm's data sets."""

from collections.abc import Sequence
from pathlib import Path

from dearkd.data.folders import IMAGE_SUFFIXES, FolderSource, class_folders, image_files
from dearkd.data.hosted import PREFIXES, Wanted, open_hosted
from dearkd.data.joined import JoinedSource
from dearkd.data.parquet import ParquetSource
from dearkd.data.pictures import PictureFolder, holds_plain_pictures, without_labels
from dearkd.data.settings import DIGITS
from dearkd.data.sources import Classes, DigitsSource, ImageSource, natural_order
from dearkd.data.splits import (
    EVALUATION_NAMES,
    TRAIN_NAMES,
    by_split,
    from_home,
    is_pattern,
    matching_files,
    split_of,
)
from dearkd.data.synthetic_set import is_of_nameless_teacher, is_set
from dearkd.data.tars import TarSource
from dearkd.errors import MissingFileError, UserError, missing_file

__all__ = ["SHARDS", "open_place"]

SHARDS = "wds/"
"""What may stand before a folder of tar shards."""
OF_ROUNDS = "distill.yaml"
OF_A_RUN = (OF_ROUNDS, "metrics.jsonl")
"""Files by which a run's folder is known: what lies below it would be taken for classes."""
SHOWN = 5
"""Most files that a message names."""


def open_place(
    data: str, *, wanted: Wanted, labelled: bool | None
) -> tuple[ImageSource | None, ImageSource | None]:
    """The training images and the evaluation images that ``data`` names; one may be None.

    Data without splits is for training. A split that is not ``wanted`` is not opened, but for the
    training split of a folder, whose class folders number the evaluation images. Where evaluation
    images are wanted of data with a training split alone, both are None. ``labelled``: whether the
    training images have labels; None: if they are there.

    Raises:
        MissingFileError: If a path does not exist.
        UserError: If the data is empty or of no known kind.
    """
    if data == DIGITS or data.lower().startswith(PREFIXES):
        train, evaluation = (
            (DigitsSource("train"), DigitsSource("test"))
            if data == DIGITS
            else open_hosted(data, wanted)
        )
        return without_labels(train) if train and labelled is False else train, evaluation
    path = from_home(data)
    wds = data.lower().startswith(SHARDS) and not path.exists()
    if wds:
        path = from_home(data[len(SHARDS) :])
    is_named = bool(data[len(SHARDS) if wds else 0 :].strip())  # nothing would be this folder
    if is_pattern(str(path)) and not path.exists():
        return _open_files(matching_files(str(path)), data, labelled), None
    remedy = (
        "pass digits, an image folder, parquet files, tar shards, or a name that starts with "
        f"{', '.join(PREFIXES)}"
    )
    if not is_named:
        raise MissingFileError(f"data {data!r} does not exist; {remedy}")
    if not path.exists():
        raise missing_file(f"data {data!r}", path, remedy)
    if not path.is_dir():
        return _open_files([path], data, labelled), None
    return _open_below(path, wanted, wds, labelled)


def _open_below(
    path: Path, wanted: Wanted, wds: bool, labelled: bool | None
) -> tuple[ImageSource | None, ImageSource | None]:
    """What lies in a folder; ``wds``: the user calls it one of shards."""
    if files := [] if wds else _parquet_files(path):
        return _open_splits(ParquetSource, files, path, wanted, labelled)
    if files := _shards(path, wds):
        return _open_splits(TarSource, files, path, wanted, labelled)
    if wds:
        raise UserError(f"{path} holds no .tar shards; pass the folder with the shards")
    return _open_folder(path, wanted, labelled)


def _parquet_files(root: Path) -> list[Path]:
    """The parquet files in ``root`` and in its folders; of the latter none if they hold images.

    It looks no deeper, so that a set of a million images is not walked through.
    """
    inside = _inside(root, ".parquet")
    return sorted([*_files_in(root, ".parquet"), *(inside or [])])


def _shards(root: Path, named: bool) -> list[Path]:
    """The tar files in ``root`` and in its folders.

    Those beside folders of images or of anything else are left alone, unless the folder is
    ``named`` as one of shards: image folders often lie beside the file that they came out of.
    """
    own, inside = _files_in(root, ".tar"), _inside(root, ".tar")
    if named or inside or not class_folders(root):
        return natural_order([*own, *(inside or [])])
    return []


def _inside(root: Path, suffix: str) -> list[Path] | None:
    """The files of a kind in the folders of ``root``; None if these hold images."""
    files = []
    for folder in sorted(class_folders(root)):
        names = (entry.name for entry in folder.iterdir() if not entry.name.startswith("."))
        if any(Path(name).suffix.lower() in IMAGE_SUFFIXES for name in names):
            return None
        files += _files_in(folder, suffix)
    return files


def _files_in(folder: Path, suffix: str) -> list[Path]:
    """The files of a kind in a folder but hidden ones, which macOS leaves beside what it copies."""
    return [
        entry
        for entry in folder.iterdir()
        if entry.suffix == suffix and not entry.name.startswith(".") and not entry.is_dir()
    ]


def _open_files(files: list[Path], data: str, labelled: bool | None) -> ImageSource:
    """The source of files that the user named one by one, or by a pattern."""
    missing = next((file for file in files if not file.exists()), None)
    if missing is not None or not files:
        what = f"names {missing}, which is not there" if missing else "matches no file"
        raise MissingFileError(f"data {data!r} {what}; correct the pattern")
    if all(is_set(file) for file in files):
        return _joined(files, labelled)
    suffixes = {file.suffix if file.is_file() else "" for file in files}
    if suffixes == {".parquet"}:
        return ParquetSource(files, labelled=labelled is not False)
    if suffixes == {".tar"}:
        return TarSource(files, labelled=labelled is not False)
    raise UserError(
        f"data {data!r} is a file but no .parquet and no .tar; pass the folder of the images"
    )


def _joined(folders: list[Path], labelled: bool | None) -> ImageSource:
    """The images of several synthetic sets."""
    found = [_open_below(folder, "training", False, labelled)[0] for folder in folders]
    sources = [source for source in found if source is not None]
    return sources[0] if len(sources) == 1 else JoinedSource(sources, folders)


def _open_splits(
    source_of: type[ParquetSource | TarSource],
    files: list[Path],
    root: Path,
    wanted: Wanted,
    labelled: bool | None,
) -> tuple[ImageSource | None, ImageSource | None]:
    train, evaluation = by_split(files, root)
    if is_set(root) or not (train or evaluation):  # a set is whole, whatever its files are called
        whole = source_of(files, labelled=labelled is not False)
        if whole.classes.known and is_of_nameless_teacher(root):
            whole.classes = Classes(whole.classes.count)  # its folders' numbers are no names
        return whole, None
    if wanted == "evaluation":
        return None, source_of(evaluation) if evaluation else None
    _refuse_files_of_no_split(files, root)
    source = source_of(train, labelled=labelled is not False) if train else None
    if wanted == "training":
        return source, None
    try:
        return source, source_of(evaluation) if evaluation else None
    except UserError as error:
        if labelled is not False or source is None:
            raise
        raise UserError(
            f"{root} has an evaluation split that can't be judged on ({error}); pass the files to "
            "train on alone"
        ) from error


def _refuse_files_of_no_split(files: Sequence[Path], root: Path) -> None:
    """Refuses files of which nobody knows what they are for, beside others that name a split."""
    loose = [file for file in files if split_of(file, root) is None]
    if not loose:
        return
    named = next(file for file in files if split_of(file, root) is not None)
    names = [str(file.relative_to(root)) for file in loose]
    shown = ", ".join(names[:SHOWN]) + (f" and {len(names) - SHOWN} more" if names[SHOWN:] else "")
    raise UserError(
        f"{root} has files of a split ({named.relative_to(root)}) beside files of none ({shown}); "
        "put train, val or test into their names, move them elsewhere, or pass the files to train "
        "on by a pattern, and those to evaluate on by --eval-data"
    )


def _open_folder(
    path: Path, wanted: Wanted, labelled: bool | None
) -> tuple[ImageSource | None, ImageSource | None]:
    if any((path / name).is_file() for name in OF_A_RUN):
        own = f", as '{path}/round-*/set'" if (path / OF_ROUNDS).is_file() else ""
        raise UserError(f"{path} is the folder of a run, not of images; name images{own}")
    train_root = _first_of(path, TRAIN_NAMES)
    evaluation_root = _first_of(path, EVALUATION_NAMES)
    if train_root is None and evaluation_root is None:
        return _images_of(path, labelled), None
    _refuse_split_or_class(path)
    is_plain = train_root is not None and holds_plain_pictures(train_root)
    if wanted == "evaluation" and evaluation_root is not None and is_plain:
        return None, FolderSource(evaluation_root)  # such pictures number no classes
    train = None if train_root is None else _images_of(train_root, labelled)
    if wanted == "evaluation" and evaluation_root is None:
        return None, None
    if evaluation_root is None or wanted == "training":
        return train, None
    if train is not None and not train.classes.known and holds_plain_pictures(evaluation_root):
        return train, None  # pictures without labels tell no top-1
    names = None if train is None else train.classes.names
    return train, FolderSource(evaluation_root, names)


def _first_of(root: Path, names: Sequence[str]) -> Path | None:
    """The folder in ``root`` with the first of these names, in small letters or capitals."""
    named = [entry for entry in root.iterdir() if entry.name.lower() in names and entry.is_dir()]
    found = {entry.name.lower(): entry for entry in sorted(named)}  # small letters last
    return next((found[name] for name in names if name in found), None)


def _refuse_split_or_class(path: Path) -> None:
    """Refuses pictures in the one folder called as a split is, where others hold images as well.

    ``bus``, ``car``, ``train`` are classes, ``train`` and ``spare`` are not; CIFAR-100 and COCO
    have a class ``train``.
    """
    names = sorted(folder.name for folder in class_folders(path))
    splits = [name for name in names if name.lower() in TRAIN_NAMES + EVALUATION_NAMES]
    if len(splits) > 1 or not holds_plain_pictures(path / splits[0]):
        return
    others = [name for name in names if name not in splits and any(image_files(path / name))]
    if others:
        raise UserError(
            f"{path / splits[0]} holds pictures and no class folders, and {others[0]} beside it "
            f"holds images, too; put the class folders into one called train (or val, to evaluate "
            f"on them), {splits[0]} as well if it is a class, or pass {path / splits[0]} alone"
        )


def _images_of(root: Path, labelled: bool | None) -> ImageSource:
    """The images of a folder, with the labels of its class folders or without any."""
    if is_set(root):  # of which not every image is one of the set
        source = FolderSource(root)
        return without_labels(source) if labelled is False else source
    if labelled or (labelled is None and not holds_plain_pictures(root)):
        return FolderSource(root)
    return PictureFolder(root)

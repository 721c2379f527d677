"""Where images and labels come from: digits, folders, parquet and tar files, timm's data sets."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from dearkd.data.class_matching import match_classes, match_names
from dearkd.data.folders import IMAGE_SUFFIXES, FolderSource
from dearkd.data.hosted import PREFIXES, open_hosted
from dearkd.data.joined import JoinedSource
from dearkd.data.order import stratified_rows, validation_rows
from dearkd.data.parquet import ParquetSource
from dearkd.data.pictures import PictureFolder, holds_plain_pictures, without_labels
from dearkd.data.settings import Labels
from dearkd.data.sources import Classes, DigitsSource, ImageSource, SubsetSource, natural_order
from dearkd.data.splits import (
    EVALUATION_NAMES,
    TRAIN_NAMES,
    by_split,
    is_pattern,
    matching_files,
)
from dearkd.data.synthetic_set import is_set
from dearkd.data.tars import TarSource
from dearkd.errors import MissingFileError, UserError

__all__ = ["Classes", "ImageSource", "match_classes", "open_data", "open_evaluation", "subset"]

SHARDS = "wds/"
"""What may stand before a folder of tar shards."""


def open_data(
    train: str,
    evaluation: str | None = None,
    *,
    validation: float | None = None,
    labels: Labels = "auto",
    root: str | Path = "data",
) -> tuple[ImageSource, ImageSource | None]:
    """The training images and the evaluation images, or None where there are none.

    ``train`` is ``digits``, an image folder (``train/`` and ``val/`` or ``test/``, or bare class
    folders), several synthetic sets (a pattern such as ``runs/x/round-*/set``), parquet files or
    WebDataset tars (a file, a folder of them, or a pattern such as ``train-{000..146}.tar``), or a
    timm name (``torch/cifar10``, ``hfds/NAME``, ``hfids/NAME``).
    ``evaluation`` takes the same and replaces what ``train`` brings. Evaluation labels are numbered
    as the training labels are; of training data with some of its teacher's classes only these are
    kept. Downloads go to ``root``. With ``validation`` the evaluation images are cut from the
    training images instead: so many, or that share below 1.

    Pictures that lie in a folder, none of them in a class folder, have no labels. With ``labels``
    none no training image has, whatever is there: labels are not looked at. Evaluation labels are
    then numbered as the evaluation data has them.

    Raises:
        MissingFileError: If a path does not exist.
        UserError: If the data is empty, unknown, evaluates on classes it does not train, or is too
            small for the split.
    """
    source, own_evaluation = _open(train, Path(root), labelled=None if labels == "auto" else False)
    if source is None:
        raise UserError(
            f"{train} has an evaluation split but no train split; pass the latter's folder"
        )
    if validation is not None:
        return _cut(source, validation)
    other = own_evaluation if evaluation is None else open_evaluation(evaluation, root=root)
    if other is None or not source.classes.known:
        return source, other
    return source, _renumbered(other, source.classes)


def open_evaluation(data: str, *, root: str | Path = "data") -> ImageSource:
    """The evaluation split of ``data``, or all of it where it has no splits.

    Raises:
        MissingFileError: If a path does not exist.
        UserError: If the data is empty, unknown, or has a training split alone.
    """
    source, evaluation = _open(data, Path(root), evaluation_only=True, labelled=True)
    found = evaluation or source
    if found is None:
        raise UserError(
            f"{data} has a train split alone; pass the folder of the images to evaluate on"
        )
    return found


def subset(source: ImageSource, fraction: float, seed: int = 0) -> ImageSource:
    """A fixed share of every class, but at least one image; larger shares contain smaller ones.

    Of images without labels it is a share of all.

    Raises:
        UserError: If ``fraction`` is not in (0, 1].
    """
    if not 0 < fraction <= 1:
        raise UserError(f"fraction must be above 0 and at most 1, got {fraction}")
    if fraction == 1:
        return source
    return SubsetSource(source, stratified_rows(source.labels, fraction, seed))


def _cut(source: ImageSource, amount: float) -> tuple[ImageSource, ImageSource]:
    """The images without the validation split, and the split: the same ones in every run."""
    if not source.classes.known:
        raise UserError(
            f"data.validation={amount:g} has no effect on images without labels, which tell no "
            "top-1; leave it out, and name labelled images by --eval-data"
        )
    total = len(source)
    count = round(amount * total) if amount < 1 else int(amount)
    rows = validation_rows(source.labels, min(count, total))
    left = np.setdiff1d(np.arange(total), rows)
    if count < 1 or len(np.unique(source.labels[left])) < len(np.unique(source.labels)):
        raise UserError(
            f"data.validation={amount:g} of {total} images must take at least 1 and leave one of "
            "each class to train on; choose another number"
        )
    return SubsetSource(source, left), SubsetSource(source, rows)


def _open(
    data: str, root: Path, evaluation_only: bool = False, *, labelled: bool | None
) -> tuple[ImageSource | None, ImageSource | None]:
    """(training source, evaluation source); data without splits is for training.

    Both are None where evaluation images are wanted and there is a training split alone.
    ``labelled``: whether the training source has labels; None: if they are there.
    """
    if data == "digits" or data.lower().startswith(PREFIXES):
        train, evaluation = (
            (DigitsSource("train"), DigitsSource("test"))
            if data == "digits"
            else open_hosted(data, root, evaluation_only)
        )
        return without_labels(train) if train and labelled is False else train, evaluation
    path = Path(data).expanduser()
    wds = data.lower().startswith(SHARDS) and not path.exists()
    if wds:
        path = Path(data[len(SHARDS) :]).expanduser()
    if is_pattern(str(path)) and not path.exists():
        return _open_files(matching_files(str(path)), data, labelled), None
    if not path.exists():
        raise MissingFileError(
            f"data {data!r} does not exist; pass digits, an image folder, parquet files, tar "
            f"shards, or a name that starts with {', '.join(PREFIXES)}"
        )
    if not path.is_dir():
        return _open_files([path], data, labelled), None
    return _open_below(path, evaluation_only, wds, labelled)


def _open_below(
    path: Path, evaluation_only: bool, wds: bool, labelled: bool | None
) -> tuple[ImageSource | None, ImageSource | None]:
    """What lies in a folder; ``wds``: the user calls it one of shards."""
    if files := [] if wds else _parquet_files(path):
        return _open_splits(ParquetSource, files, path, evaluation_only, labelled)
    if files := _shards(path, wds):
        return _open_splits(TarSource, files, path, evaluation_only, labelled)
    if wds:
        raise UserError(f"{path} holds no .tar shards; pass the folder with the shards")
    return _open_folder(path, evaluation_only, labelled)


def _parquet_files(root: Path) -> list[Path]:
    """The parquet files in ``root`` and in its folders; of the latter none if they hold images.

    It looks no deeper, so that a set of a million images is not walked through.
    """
    inside = _inside(root, ".parquet")
    return sorted([*root.glob("*.parquet"), *(inside or [])])


def _shards(root: Path, named: bool) -> list[Path]:
    """The tar files in ``root`` and in its folders.

    Those beside folders of images or of anything else are left alone, unless the folder is
    ``named`` as one of shards: image folders often lie beside the file that they came out of.
    """
    own, inside = list(root.glob("*.tar")), _inside(root, ".tar")
    folders = any(entry.is_dir() for entry in root.iterdir())
    if named or inside or not folders:
        return natural_order([*own, *(inside or [])])
    return []


def _inside(root: Path, suffix: str) -> list[Path] | None:
    """The files of a kind in the folders of ``root``; None if these hold images."""
    files = []
    for folder in sorted(entry for entry in root.iterdir() if entry.is_dir()):
        for entry in folder.iterdir():
            if entry.suffix.lower() in IMAGE_SUFFIXES:
                return None
            if entry.suffix == suffix:
                files.append(entry)
    return files


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
    found = [_open_below(folder, False, False, labelled)[0] for folder in folders]
    sources = [source for source in found if source is not None]
    return sources[0] if len(sources) == 1 else JoinedSource(sources, folders)


def _open_splits(
    source_of: type[ParquetSource | TarSource],
    files: list[Path],
    root: Path,
    evaluation_only: bool,
    labelled: bool | None,
) -> tuple[ImageSource | None, ImageSource | None]:
    train, evaluation = by_split(files, root)
    if not train and not evaluation:
        return source_of(files, labelled=labelled is not False), None
    if evaluation_only and not evaluation:
        return None, None
    source = source_of(train, labelled=labelled is not False) if train else None
    try:
        return source, source_of(evaluation) if evaluation else None
    except UserError as error:
        if labelled is not False or source is None:
            raise
        raise UserError(
            f"{root} has an evaluation split that can't be judged on ({error}); pass the files to "
            "train on alone"
        ) from error


def _open_folder(
    path: Path, evaluation_only: bool, labelled: bool | None
) -> tuple[ImageSource | None, ImageSource | None]:
    train_root = next((path / name for name in TRAIN_NAMES if (path / name).is_dir()), None)
    evaluation_root = next((path / n for n in EVALUATION_NAMES if (path / n).is_dir()), None)
    if train_root is None and evaluation_root is None:
        return _images_of(path, labelled), None
    train = None if train_root is None else _images_of(train_root, labelled)
    if evaluation_only and evaluation_root is None:
        return None, None
    if evaluation_root is None or (
        train is not None and not train.classes.known and holds_plain_pictures(evaluation_root)
    ):
        return train, None  # pictures without labels tell no top-1
    names = None if train is None else train.classes.names
    return train, FolderSource(evaluation_root, names)


def _images_of(root: Path, labelled: bool | None) -> ImageSource:
    """The images of a folder, with the labels of its class folders or without any."""
    if is_set(root):  # of which not every image is one of the set
        source = FolderSource(root)
        return without_labels(source) if labelled is False else source
    if labelled or (labelled is None and not holds_plain_pictures(root)):
        return FolderSource(root)
    return PictureFolder(root)


def _renumbered(source: ImageSource, classes: Classes) -> ImageSource:
    """``source`` with the labels that ``classes`` gives; unchanged if they agree."""
    if source.classes.names == classes.names and source.classes.count == classes.count:
        return source
    if source.classes.names is None or classes.names is None:
        if int(source.labels.max()) >= classes.count:
            raise UserError(
                f"the evaluation data has label {source.labels.max()}, the training data "
                f"{classes.count} classes; pass data with the same classes"
            )
        return SubsetSource(source, np.arange(len(source)), classes=classes)
    rows, names = np.arange(len(source)), list(source.classes.names)
    if classes.total is not None and classes.total > classes.count:
        # Training data with some of its teacher's classes is judged on these.
        known = [label for label, name in enumerate(names) if _is_among(name, classes.names)]
        rows = np.flatnonzero(np.isin(source.labels, known)) if known else rows
    here = sorted({int(label) for label in source.labels[rows]})
    try:
        matched = match_names([names[label] for label in here], classes.names)
    except UserError as error:
        message = str(error).replace("the model's", "the training data's")
        raise UserError(f"evaluation data: {message}") from error
    new_labels = np.full(len(names), -1)
    new_labels[here] = matched
    return SubsetSource(source, rows, new_labels=new_labels.tolist(), classes=classes)


def _is_among(name: str, names: Sequence[str]) -> bool:
    try:
        match_names([name], names)
    except UserError:
        return False
    return True

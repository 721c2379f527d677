"""Where images and labels come from: digits, folders, parquet files, timm's data sets."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from dearkd.data.class_matching import match_classes, match_names
from dearkd.data.hosted import PREFIXES, open_hosted
from dearkd.data.order import stratified_rows, validation_rows
from dearkd.data.parquet import ParquetSource
from dearkd.data.sources import (
    IMAGE_SUFFIXES,
    Classes,
    DigitsSource,
    FolderSource,
    ImageSource,
    SubsetSource,
)
from dearkd.data.splits import EVALUATION_NAMES, TRAIN_NAMES, split_of
from dearkd.errors import MissingFileError, UserError

__all__ = ["Classes", "ImageSource", "match_classes", "open_data", "open_evaluation", "subset"]


def open_data(
    train: str,
    evaluation: str | None = None,
    *,
    validation: float | None = None,
    root: str | Path = "data",
) -> tuple[ImageSource, ImageSource | None]:
    """The training images and the evaluation images, or None where there are none.

    ``train`` is ``digits``, an image folder (``train/`` and ``val/`` or ``test/``, or bare class
    folders), a parquet file or a folder of them, or a timm name (``torch/cifar10``, ``hfds/NAME``,
    ``hfids/NAME``, ``wds/FOLDER``). ``evaluation`` takes the same and replaces what ``train``
    brings. Evaluation labels are numbered as the training labels are; of training data with some
    of its teacher's classes only these are kept. Downloads go to ``root``. With ``validation`` the
    evaluation images are cut from the training images instead: so many, or that share below 1.

    Raises:
        MissingFileError: If a path does not exist.
        UserError: If the data is empty, unknown, evaluates on classes it does not train, or is too
            small for the split.
    """
    source, own_evaluation = _open(train, Path(root))
    if source is None:
        raise UserError(
            f"{train} has an evaluation split but no train split; pass the latter's folder"
        )
    if validation is not None:
        return _cut(source, validation)
    other = own_evaluation if evaluation is None else open_evaluation(evaluation, root=root)
    return source, None if other is None else _renumbered(other, source.classes)


def open_evaluation(data: str, *, root: str | Path = "data") -> ImageSource:
    """The evaluation split of ``data``, or all of it where it has no splits.

    Raises:
        MissingFileError: If a path does not exist.
        UserError: If the data is empty, unknown, or has a training split alone.
    """
    source, evaluation = _open(data, Path(root), evaluation_only=True)
    found = evaluation or source
    if found is None:
        raise UserError(
            f"{data} has a train split alone; pass the folder of the images to evaluate on"
        )
    return found


def subset(source: ImageSource, fraction: float, seed: int = 0) -> ImageSource:
    """A fixed share of every class, but at least one image; larger shares contain smaller ones.

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
    data: str, root: Path, evaluation_only: bool = False
) -> tuple[ImageSource | None, ImageSource | None]:
    """(training source, evaluation source); data without splits is for training.

    Both are None where evaluation images are wanted and there is a training split alone.
    """
    if data == "digits":
        return DigitsSource("train"), DigitsSource("test")
    if data.lower().startswith(PREFIXES):
        return open_hosted(data, root, evaluation_only)
    path = Path(data).expanduser()
    if not path.exists():
        raise MissingFileError(
            f"data {data!r} does not exist; pass digits, an image folder, parquet files, "
            f"or a name that starts with {', '.join(PREFIXES)}"
        )
    if not path.is_dir():
        return _open_file(path), None
    files = _parquet_files(path)
    return (
        _open_parquet(files, path, evaluation_only)
        if files
        else _open_folder(path, evaluation_only)
    )


def _parquet_files(root: Path) -> list[Path]:
    """The parquet files in ``root`` and in its folders; of the latter none if they hold images.

    It looks no deeper, so that a set of a million images is not walked through.
    """
    own = sorted(root.glob("*.parquet"))
    files = list(own)
    for folder in sorted(entry for entry in root.iterdir() if entry.is_dir()):
        for entry in folder.iterdir():
            if entry.suffix.lower() in IMAGE_SUFFIXES:
                return own
            if entry.suffix == ".parquet":
                files.append(entry)
    return sorted(files)


def _open_file(path: Path) -> ImageSource:
    if path.suffix != ".parquet" or not path.is_file():
        raise UserError(
            f"data {str(path)!r} is a file but no .parquet; pass the folder of the images"
        )
    return ParquetSource([path])


def _open_parquet(
    files: list[Path], root: Path, evaluation_only: bool
) -> tuple[ImageSource | None, ImageSource | None]:
    train = [file for file in files if split_of(file, root) in TRAIN_NAMES]
    evaluations = (
        [file for file in files if split_of(file, root) == name] for name in EVALUATION_NAMES
    )
    evaluation = next((found for found in evaluations if found), [])
    if not train and not evaluation:
        return ParquetSource(files), None
    if evaluation_only and not evaluation:
        return None, None
    return (
        ParquetSource(train) if train else None,
        ParquetSource(evaluation) if evaluation else None,
    )


def _open_folder(
    path: Path, evaluation_only: bool
) -> tuple[ImageSource | None, ImageSource | None]:
    train_root = next((path / name for name in TRAIN_NAMES if (path / name).is_dir()), None)
    evaluation_root = next((path / n for n in EVALUATION_NAMES if (path / n).is_dir()), None)
    if train_root is None and evaluation_root is None:
        return FolderSource(path), None
    train = None if train_root is None else FolderSource(train_root)
    names = None if train is None else train.classes.names
    if evaluation_only and evaluation_root is None:
        return None, None
    evaluation = None if evaluation_root is None else FolderSource(evaluation_root, names)
    return train, evaluation


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

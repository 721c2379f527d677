"""Where images and labels come from: digits, folders, parquet files, timm's data sets."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from dearkd.hosted import PREFIXES, open_hosted
from dearkd.order import stratified_rows
from dearkd.parquet import ParquetSource
from dearkd.sources import Classes, DigitsSource, FolderSource, ImageSource, SubsetSource

__all__ = ["Classes", "ImageSource", "match_classes", "open_data", "open_evaluation", "subset"]

TRAIN_NAMES = ("train", "training")
# In order of preference: a test split may come without labels, or be kept for the end.
EVALUATION_NAMES = ("val", "validation", "valid", "eval", "test")


def open_data(
    train: str, evaluation: str | None = None, *, root: str | Path = "data"
) -> tuple[ImageSource, ImageSource | None]:
    """The training images and the evaluation images, or None where there are none.

    ``train`` is ``digits``, an image folder (``train/`` and ``val/`` or ``test/``, or bare class
    folders), a parquet file or a folder of them, or a timm name (``torch/cifar10``, ``hfds/NAME``,
    ``hfids/NAME``, ``wds/FOLDER``). ``evaluation`` takes the same and replaces what ``train``
    brings. Evaluation labels are numbered as the training labels are. Downloads go to ``root``.

    Raises:
        FileNotFoundError: If a path does not exist.
        ValueError: If the data is empty, unknown, or evaluates on classes it does not train.
    """
    source, own_evaluation = _open(train, Path(root))
    if source is None:
        raise ValueError(
            f"{train} has an evaluation split but no train split; pass the latter's folder"
        )
    other = own_evaluation if evaluation is None else open_evaluation(evaluation, root=root)
    return source, None if other is None else _renumbered(other, source.classes)


def open_evaluation(data: str, *, root: str | Path = "data") -> ImageSource:
    """The evaluation split of ``data``, or all of it where it has no splits.

    Raises:
        FileNotFoundError: If a path does not exist.
        ValueError: If the data is empty, unknown, or has a training split alone.
    """
    source, evaluation = _open(data, Path(root), evaluation_only=True)
    found = evaluation or source
    if found is None:
        raise ValueError(
            f"{data} has a train split alone; pass the folder of the images to evaluate on"
        )
    return found


def subset(source: ImageSource, fraction: float, seed: int = 0) -> ImageSource:
    """A fixed share of every class, at least one image; smaller shares lie within larger ones.

    Raises:
        ValueError: If ``fraction`` is not in (0, 1].
    """
    if not 0 < fraction <= 1:
        raise ValueError(f"fraction must be above 0 and at most 1, got {fraction}")
    if fraction == 1:
        return source
    return SubsetSource(source, stratified_rows(source.labels, fraction, seed))


def match_classes(
    data: Classes, model_names: Sequence[str] | None, model_count: int
) -> tuple[int, ...]:
    """The model's index of each data class: by name where both are known, by count otherwise.

    Names match exactly, or else without case, spaces, dashes and underscores. Synthetic data keeps
    the indices of the teacher it came from.

    Raises:
        ValueError: If a class is unknown to the model, two fall together, or the counts differ.
    """
    if data.names is not None and model_names is not None:
        return _match_names(data.names, model_names)
    if data.indices is not None and data.total == model_count:
        return data.indices
    count = data.total or data.count
    if count != model_count:
        raise ValueError(
            f"the data has {count} classes, the model {model_count}, and no class names tell how "
            "they correspond; use a model trained on these classes or data with class names"
        )
    return tuple(range(data.count))


def _match_names(data_names: Sequence[str], model_names: Sequence[str]) -> tuple[int, ...]:
    exact = {name: index for index, name in enumerate(model_names)}
    loose = {_plain(name): index for index, name in enumerate(model_names)}
    found = [exact.get(name, loose.get(_plain(name), -1)) for name in data_names]
    missing = [name for name, index in zip(data_names, found, strict=True) if index < 0]
    if missing:
        raise ValueError(
            f"{len(missing)} of {len(data_names)} data classes are unknown to the model's "
            f"{len(model_names)}: {', '.join(missing[:3])}{', ...' if len(missing) > 3 else ''}; "
            "rename them, remove them, or use a model trained on them"
        )
    if len(set(found)) < len(found):
        first = next(index for index in found if found.count(index) > 1)
        raise ValueError(
            f"several data classes match the model's {model_names[first]!r}; rename all but one"
        )
    return tuple(found)


def _plain(name: str) -> str:
    return "".join(letter for letter in name.casefold() if letter not in " -_")


def _open(
    data: str, root: Path, evaluation_only: bool = False
) -> tuple[ImageSource | None, ImageSource | None]:
    """Training and evaluation source; a set without splits counts as training."""
    if data == "digits":
        return DigitsSource("train"), DigitsSource("test")
    if data.lower().startswith(PREFIXES):
        return open_hosted(data, root, evaluation_only)
    path = Path(data).expanduser()
    if not path.exists():
        raise FileNotFoundError(
            f"data {data!r} does not exist; pass digits, an image folder, parquet files, "
            f"or a name that starts with {', '.join(PREFIXES)}"
        )
    if path.is_file():
        return _open_file(path), None
    files = sorted(path.rglob("*.parquet"))
    return _open_parquet(files, path) if files else _open_folder(path, evaluation_only)


def _open_file(path: Path) -> ImageSource:
    if path.suffix != ".parquet":
        raise ValueError(
            f"data {str(path)!r} is a file but no .parquet; pass the folder of the images"
        )
    return ParquetSource([path])


def _open_parquet(files: list[Path], root: Path) -> tuple[ImageSource | None, ImageSource | None]:
    train = [file for file in files if _split_of(file, root) in TRAIN_NAMES]
    evaluations = (
        [file for file in files if _split_of(file, root) == name] for name in EVALUATION_NAMES
    )
    evaluation = next((found for found in evaluations if found), [])
    if not train and not evaluation:
        return ParquetSource(files), None
    return (
        ParquetSource(train) if train else None,
        ParquetSource(evaluation) if evaluation else None,
    )


def _split_of(file: Path, root: Path) -> str | None:
    """The split a file belongs to: the first word of its name, or a folder's name above it."""
    words = [file.stem.replace("_", "-").split("-")[0], *file.relative_to(root).parts[:-1]]
    return next((w.lower() for w in words if w.lower() in TRAIN_NAMES + EVALUATION_NAMES), None)


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
    """``source`` with the labels of ``classes``; unchanged where they agree."""
    if source.classes.names == classes.names and source.classes.count == classes.count:
        return source
    if source.classes.names is None or classes.names is None:
        if int(source.labels.max()) >= classes.count:
            raise ValueError(
                f"the evaluation data has label {source.labels.max()}, the training data "
                f"{classes.count} classes; pass data with the same classes"
            )
        return SubsetSource(source, np.arange(len(source)), classes=classes)
    try:
        new_labels = _match_names(source.classes.names, classes.names)
    except ValueError as error:
        message = str(error).replace("the model's", "the training data's")
        raise ValueError(f"evaluation data: {message}") from error
    return SubsetSource(source, np.arange(len(source)), new_labels=new_labels, classes=classes)

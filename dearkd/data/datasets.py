"""The images that a run trains on and is judged on, and a fixed share of them."""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from dearkd.config_file import check_range
from dearkd.data.class_matching import find_names, match_names
from dearkd.data.opening import open_place
from dearkd.data.order import stratified_rows, validation_rows
from dearkd.data.settings import Labels
from dearkd.data.sources import Classes, ImageSource, SubsetSource
from dearkd.errors import UserError

__all__ = ["open_data", "open_evaluation", "renumbered", "subset"]

SUBSET_SEED = 0
"""Not the run's: runs that differ in the seed alone are to be compared on the same images."""


def open_data(
    train: str,
    evaluation: str | None = None,
    *,
    validation: float | None = None,
    labels: Labels = "auto",
) -> tuple[ImageSource, ImageSource | None]:
    """The training images and the evaluation images, or None where there are none.

    ``train`` is ``digits``, an image folder (``train/`` and ``val/`` or ``test/``, or bare class
    folders), several synthetic sets (a pattern such as ``runs/x/round-*/set``), parquet files or
    WebDataset tars (a file, a folder of them, or a pattern such as ``train-{000..146}.tar``), or a
    timm name (``torch/cifar10``, ``hfds/NAME``, ``hfids/NAME``).
    ``evaluation`` takes the same and replaces what ``train`` brings. Its labels are as it has them;
    ``renumbered`` gives it those of the training data. With ``validation`` the evaluation images
    are cut from the training images instead: so many, or that share below 1. A split that is
    replaced is not opened.

    Pictures that lie in a folder, none of them in a class folder, have no labels. With ``labels``
    none no training image has, whatever is there: labels are not looked at.

    Raises:
        MissingFileError: If a path does not exist.
        UserError: If the data is empty, unknown, or too small for the split.
    """
    replaced = evaluation is not None or validation is not None
    source, own_evaluation = open_place(
        train,
        wanted="training" if replaced else "both",
        labelled=None if labels == "auto" else False,
    )
    if source is None:
        raise UserError(
            f"{train} has an evaluation split but no train split; pass the latter's folder"
        )
    if validation is not None:
        return _cut(source, validation)
    return source, own_evaluation if evaluation is None else open_evaluation(evaluation)


def open_evaluation(data: str) -> ImageSource:
    """The evaluation split of ``data``, or all of it where it has no splits.

    Raises:
        MissingFileError: If a path does not exist.
        UserError: If the data is empty, unknown, or has a training split alone.
    """
    source, evaluation = open_place(data, wanted="evaluation", labelled=True)
    found = evaluation or source
    if found is None:
        raise UserError(
            f"{data} has a train split alone; pass the folder of the images to evaluate on"
        )
    return found


def renumbered(
    source: ImageSource,
    classes: Classes,
    *,
    class_map: Sequence[int] | None = None,
    model_names: Sequence[str] | None = None,
) -> ImageSource:
    """Evaluation images with the labels that ``classes``, the training data's, give.

    Classes match by name. Where one side has numbers alone, these are the model's classes, as they
    are wherever a model is judged: ``class_map`` has the model's class of each training label
    (None: the same number), ``model_names`` the names of the model's classes, where it has any.
    Of training data with some of its teacher's classes only images of these are kept.

    Raises:
        UserError: If there are images of a class that is not trained.
    """
    if source.classes.names == classes.names and source.classes.count == classes.count:
        return source
    if source.classes.names is not None and classes.names is not None:
        new_labels = _by_name(source, source.classes.names, classes)
    else:
        new_labels = _by_number(source, classes, class_map or range(classes.count), model_names)
    rows = np.flatnonzero(new_labels[source.labels] >= 0)
    return SubsetSource(source, rows, new_labels=new_labels.tolist(), classes=classes)


def subset(source: ImageSource, fraction: float) -> ImageSource:
    """A fixed share of every class, but at least one image; larger shares contain smaller ones.

    Of images without labels it is a share of all.

    Raises:
        UserError: If ``fraction`` is not in (0, 1].
    """
    if not 0 < fraction <= 1:
        raise UserError(f"fraction must be above 0 and at most 1, got {fraction}")
    if fraction == 1:
        return source
    return SubsetSource(source, stratified_rows(source.labels, fraction, SUBSET_SEED))


def _cut(source: ImageSource, amount: float) -> tuple[ImageSource, ImageSource]:
    """The images without the validation split, and the split: the same ones in every run."""
    if not source.classes.known:
        raise UserError(
            f"data.validation={amount:g} has no effect on images without labels, as accuracy "
            "needs labels; leave it out, and name labelled images by --eval-data"
        )
    check_range("data.validation", amount, 0, 1e9, open_low=True)
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


def _by_name(source: ImageSource, names: tuple[str, ...], classes: Classes) -> NDArray[np.int64]:
    """The training label of each evaluation label, -1 for what is left out."""
    assert classes.names is not None
    here = np.unique(source.labels)
    if _is_part(classes):
        found = find_names(list(names), classes.names)
        known = [label for label in here.tolist() if found[label] >= 0]
        here = np.asarray(known) if known else here
    new_labels = np.full(len(names), -1)
    new_labels[here] = _matched([names[label] for label in here], classes.names, "training data")
    return new_labels


def _by_number(
    source: ImageSource,
    classes: Classes,
    class_map: Sequence[int],
    model_names: Sequence[str] | None,
) -> NDArray[np.int64]:
    """As :func:`_by_name`, where a label is the number or name of one of the model's classes."""
    here, names = np.unique(source.labels), source.classes.names
    if names is not None and model_names is not None:
        own = _matched([names[label] for label in here], model_names, "teacher")
    else:
        own = here.tolist()
    trained = {index: label for label, index in enumerate(class_map)}
    new_labels = np.full(int(here.max()) + 1, -1)
    new_labels[here] = [trained.get(index, -1) for index in own]
    left_out = here[new_labels[here] < 0]
    if len(left_out) == len(here) or (len(left_out) and not _is_part(classes)):
        raise UserError(
            f"the evaluation data has label {left_out[0]}, which is none of the training data's "
            f"{classes.count} classes; pass data with the same classes"
        )
    return new_labels


def _is_part(classes: Classes) -> bool:
    """Whether these are some of a teacher's classes, which made images can be of."""
    return classes.total is not None and classes.total > classes.count


def _matched(names: Sequence[str], known: Sequence[str], whose: str) -> tuple[int, ...]:
    """The index in ``known`` of each name of the evaluation data."""
    try:
        return match_names(names, known)
    except UserError as error:
        message = str(error).replace("the model's", f"the {whose}'s")
        raise UserError(f"evaluation data: {message}") from error

"""The images that a run trains on and is judged on, and a fixed share of them."""

import numpy as np

from dearkd.config_file import check_range
from dearkd.data.class_matching import find_names, match_names
from dearkd.data.opening import open_place
from dearkd.data.order import stratified_rows, validation_rows
from dearkd.data.settings import Labels
from dearkd.data.sources import Classes, ImageSource, SubsetSource
from dearkd.errors import UserError

__all__ = ["open_data", "open_evaluation", "subset"]

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
    ``evaluation`` takes the same and replaces what ``train`` brings. Evaluation labels are numbered
    as the training labels are; of training data with some of its teacher's classes only these are
    kept. With ``validation`` the evaluation images are cut from the training images instead: so
    many, or that share below 1. A split that is replaced is not opened.

    Pictures that lie in a folder, none of them in a class folder, have no labels. With ``labels``
    none no training image has, whatever is there: labels are not looked at. Evaluation labels are
    then numbered as the evaluation data has them.

    Raises:
        MissingFileError: If a path does not exist.
        UserError: If the data is empty, unknown, evaluates on classes it does not train, or is too
            small for the split.
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
    other = own_evaluation if evaluation is None else open_evaluation(evaluation)
    if other is None or not source.classes.known:
        return source, other
    return source, _renumbered(other, source.classes)


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
        known = [label for label, at in enumerate(find_names(names, classes.names)) if at >= 0]
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

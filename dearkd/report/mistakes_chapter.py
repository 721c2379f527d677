"""The chapter on single images: which classes are confused, and the most confident answers."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray

from dearkd.analysis.predictions import Predictions
from dearkd.data.decode import BadImageError
from dearkd.pages.page import (
    Block,
    Cell,
    Details,
    Note,
    Picture,
    Pictures,
    Plot,
    Plots,
    Section,
    Sheet,
    Table,
)
from dearkd.pages.pictures import thumbnail_uri
from dearkd.pages.plots import confusion
from dearkd.report.contents import Report, Run
from dearkd.said import counted

__all__ = ["confusion_counts", "extremes", "mistake_section"]

MATRIX_CLASSES = 40
"""Classes of a confusion matrix at most: a larger one can't be read. The table of pairs stays."""
PAIRS = 6
"""Pairs of confused classes that are listed for each run."""
PICTURES = 8
"""Most confident images that are shown, right ones and wrong ones each."""
SIDE = 72  # pixels


@dataclass(frozen=True)
class _Answers:
    """A run with its predictions."""

    run: Run
    taught: bool
    """Whether it was another run's teacher."""
    predictions: Predictions


def mistake_section(report: Report, predicted: Callable[[Run], Predictions | str]) -> Section:
    """Confusion matrices, the pairs confused most often, and each run's most confident images.

    ``predicted`` returns the predictions of a run, or the reason why there are none.
    """
    blocks: list[Block] = []
    found: list[_Answers] = []
    for run in (run for run in report.runs if run.finished):
        answer = predicted(run)
        if isinstance(answer, str):
            blocks.append(Note(f"{run.name}: {answer}", warning=True))
        else:
            taught = report.group_of(run).is_teacher(run)
            found.append(_Answers(run, taught, answer))
    if found:
        blocks += [*_matrices(found), _pairs(found)]
    for rank, answers in enumerate(sorted(found, key=_standing)):
        sheet = _surest(answers)
        title = f"{answers.run.name}: the images it is surest about"
        blocks += [Details(title, [sheet])] if rank else [Note(title), sheet]
    return Section("Mistakes", blocks)


def _standing(answers: _Answers) -> tuple[bool, float]:
    """The order of the runs: students before their teachers, then by top-1."""
    return answers.taught, -(answers.run.top1 or 0.0)


def confusion_counts(predictions: Predictions) -> NDArray[np.int64]:
    """Number of images by label (row) and predicted class (column): (classes, classes)."""
    count = len(predictions.class_names)
    read = predictions.heads["logits"].read
    flat = torch.bincount(predictions.labels * count + read, minlength=count * count)
    return flat.reshape(count, count).numpy()


def extremes(predictions: Predictions, count: int) -> tuple[list[int], list[int]]:
    """Indices of the most confident predictions: ``count`` right ones and ``count`` wrong ones."""
    read, confidence = predictions.heads["logits"]
    right = read == predictions.labels
    order = confidence.argsort(descending=True, stable=True).tolist()
    hits = [index for index in order if right[index]]
    misses = [index for index in order if not right[index]]
    return hits[:count], misses[:count]


def _matrices(found: Sequence[_Answers]) -> list[Block]:
    plots = [
        Plot(
            confusion(confusion_counts(answers.predictions), answers.predictions.class_names),
            answers.run.name,
        )
        for answers in found
        if len(answers.predictions.class_names) <= MATRIX_CLASSES
    ]
    if not plots:
        return []
    text = (
        "Confusion matrices: a row is a class, a column what its images are taken for, a number "
        "how many. A strong diagonal is what one hopes for."
    )
    return [Note(text), Plots(plots)]


def _pairs(found: Sequence[_Answers]) -> Table:
    """The most frequent confusions, a column for each run."""
    columns = [_worst_pairs(answers) for answers in found]
    rows = [
        [str(rank + 1), *[column[rank] if rank < len(column) else "" for column in columns]]
        for rank in range(max(map(len, columns)))
    ]
    titles = ["", *[answers.run.name for answers in found]]
    return Table(titles, rows, "Taken for another class most often", left=range(len(titles)))


def _worst_pairs(answers: _Answers) -> list[str]:
    names, labels = answers.predictions.class_names, answers.predictions.labels
    read = answers.predictions.heads["logits"].read
    wrong = torch.stack([labels, read], dim=1)[labels != read]
    pairs, counts = torch.unique(wrong, dim=0, return_counts=True)
    most = counts.argsort(descending=True, stable=True)[:PAIRS]
    return [
        f"{names[label]} \u2192 {names[taken]}: {count}"
        for (label, taken), count in zip(pairs[most].tolist(), counts[most].tolist(), strict=True)
    ]


def _surest(answers: _Answers) -> Sheet:
    """The most confident right and wrong predictions as pictures."""
    hits, misses = extremes(answers.predictions, PICTURES)
    rows = [("right", hits), ("wrong", misses)]
    return Sheet(
        [
            _pictures(f"surest, {name}", answers.predictions, indices)
            for name, indices in rows
            if indices
        ]
    )


def _pictures(name: str, predictions: Predictions, indices: Sequence[int]) -> Pictures:
    """A row of images; those that have become unreadable since they were judged are counted."""
    shown, gone = list[Picture](), 0
    for index in indices:
        try:
            shown.append(_picture(predictions, index))
        except BadImageError:
            gone += 1
    note = f"{counted(gone, 'image')} cannot be read any more" if gone else ""
    return Pictures(name, note, shown)


def _picture(predictions: Predictions, index: int) -> Picture:
    names = predictions.class_names
    answers = predictions.heads["logits"]
    read, label = int(answers.read[index]), int(predictions.labels[index])
    lines = [
        Cell(
            f"{names[read]} {float(answers.confidence[index]):.0%}",
            "good" if read == label else "bad",
        )
    ]
    if read != label:
        lines.append(Cell(f"is {names[label]}", "muted"))
    title = f"{predictions.ids[index]}: label {names[label]}, taken for {names[read]}"
    return Picture(thumbnail_uri(predictions.source.image(index), SIDE), lines, title, SIDE)

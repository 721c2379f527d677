"""Notes before training on classes with few images or none, and on images without a class."""

from collections.abc import Sequence

import numpy as np

from dearkd.data.folders import IMAGE_SUFFIXES, FolderSource
from dearkd.data.sources import ImageSource, SubsetSource
from dearkd.data.synthetic_set import is_set
from dearkd.said import counted

__all__ = ["class_notes"]

SHOWN = 5
"""Most classes that a note names."""


def class_notes(train: ImageSource, evaluation: ImageSource | None) -> list[str]:
    """One line for each kind of class that a user should know of; empty if there are none.

    Images beside the class folders go first. The kinds are classes without a training image, with
    a single one, and without an evaluation image. The labels of both sources must be numbered
    alike, as ``renumbered`` gives them. Of images without labels there is nothing to tell.
    """
    beside = [*_beside(train), *(() if evaluation is None else _beside(evaluation))]
    if not train.classes.known:
        return beside
    count = train.classes.count
    images = np.bincount(train.labels, minlength=count)
    one = len(np.flatnonzero(images == 0)) == 1
    notes = [
        _note(
            train,
            np.flatnonzero(images == 0).tolist(),
            f"no training image and {'is' if one else 'are'} not learned, but "
            f"{'keeps its' if one else 'keep their'} index",
        ),
        _note(train, np.flatnonzero(images == 1).tolist(), "a single training image"),
    ]
    if evaluation is not None:
        judged = np.bincount(evaluation.labels, minlength=count)
        unseen = np.flatnonzero((images > 0) & (judged[:count] == 0)).tolist()
        them = "it" if len(unseen) == 1 else "them"
        text = f"no evaluation image, so the accuracy says nothing of {them}"
        notes.append(_note(train, unseen, text))
    return [*beside, *(note for note in notes if note)]


def _beside(source: ImageSource) -> list[str]:
    """What a folder of class folders holds besides: images of no class, which nobody sees."""
    while isinstance(source, SubsetSource):
        source = source.source
    if not isinstance(source, FolderSource):
        return []
    loose = [
        entry.name
        for entry in sorted(source.root.iterdir())
        if entry.suffix.lower() in IMAGE_SUFFIXES and not entry.name.startswith(".")
    ]
    if not loose or is_set(source.root):
        return []
    one = len(loose) == 1
    return [
        f"{counted(len(loose), 'image')} beside the class folders of {source.root} "
        f"{'has no class and is' if one else 'have no class and are'} left out: {loose[0]}"
        f"{'' if one else ', ...'}"
    ]


def _note(source: ImageSource, labels: Sequence[int], text: str) -> str:
    """``3 of 10 classes have ...: cat, dog, fox``; empty where there is no such class."""
    if not labels:
        return ""
    names = source.classes.names
    shown = [str(label) if names is None else names[label] for label in labels[:SHOWN]]
    more = f" and {len(labels) - SHOWN} more" if len(labels) > SHOWN else ""
    have = "has" if len(labels) == 1 else "have"
    listed = ", ".join(shown) + more
    return f"{len(labels)} of {source.classes.count} classes {have} {text}: {listed}"

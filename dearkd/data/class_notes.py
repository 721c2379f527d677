"""Notes before training on classes with too few training images or no evaluation images."""

from collections.abc import Sequence

import numpy as np

from dearkd.data.sources import ImageSource

__all__ = ["class_notes"]

SHOWN = 5
"""Most classes that a note names."""


def class_notes(train: ImageSource, evaluation: ImageSource | None) -> list[str]:
    """One line for each kind of class that a user should know of; empty if there are none.

    The kinds are classes without a training image, with a single one, and without an evaluation
    image. The labels of both sources must be numbered alike, as ``open_data`` numbers them. Of
    images without labels there is nothing to tell.
    """
    if not train.classes.known:
        return []
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
    return [note for note in notes if note]


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

"""The contact sheet of a synthetic set: images of each class with the networks' predictions."""

from collections.abc import Callable
from contextlib import suppress
from typing import Any

from PIL import Image

from dearkd.data.class_matching import class_keys
from dearkd.data.decode import BadImageError
from dearkd.data.sources import ImageSource
from dearkd.pages.page import Block, Cell, Note, Picture, Pictures, Sheet
from dearkd.pages.pictures import thumbnail_uri
from dearkd.report.contents import SyntheticSet
from dearkd.said import counted

__all__ = ["ROLES", "SHEET_CLASSES", "class_names", "sheet"]

SHEET_CLASSES = 40
"""Classes on the contact sheet at most, a row each."""
SHEET_IMAGES = 8
"""Images of a class on the contact sheet at most."""
SIDE = 72  # pixels
ROLES = ("teacher", "verifier")
"""The networks that judge a set."""


def sheet(item: SyntheticSet, source: ImageSource | None) -> list[Block]:
    """Some images of each class with the predictions of teacher and verifier.

    ``source`` is the opened set; None where its images can't be opened.
    """
    if source is None:
        return [Note(f"{item.name}: its images are no longer there.", warning=True)]
    names = class_names(item)
    position = {source.name(index): index for index in range(len(source))}
    by_class: dict[int, list[Picture]] = {}
    for image in item.images:
        row = by_class.setdefault(image.record["target"], [])
        if len(row) < SHEET_IMAGES and image.name in position:
            with suppress(BadImageError):
                row.append(_picture(image.record, source.image(position[image.name]), names))
    rows = [
        Pictures(names(target), _class_share(item, target), by_class[target])
        for target in sorted(by_class)[:SHEET_CLASSES]
        if by_class[target]
    ]
    if not rows:
        images = counted(len(item.manifest["images"]), "image")
        text = f"{item.name}: none of the {images} that its manifest lists is in its folder."
        return [Note(text, warning=True)]
    return [Note(f"{item.name}. {_caption(item)}"), Sheet(rows)]


def _caption(item: SyntheticSet) -> str:
    """A sentence that explains the letters and shares on the sheet."""
    judges = " and ".join(
        f"{role[0].upper()} (the {role})"
        for role in ROLES
        if role in item.manifest.get("quality", {})
    )
    return (
        f"Contact sheet by class, judged by {judges}. Under a class's name: the share of its "
        "images that are recognised as it. Under an image: the confidence in the class it was made "
        "for, or, after an arrow, what it is taken for instead."
    )


def _picture(record: dict[str, Any], image: Image.Image, names: Callable[[int], str]) -> Picture:
    """An image with a line for each network that judged it; ``record`` is its manifest entry."""
    verdicts = [(role, record[role]) for role in ROLES if record.get(role)]
    lines = [_verdict_cell(role, verdict, record["target"], names) for role, verdict in verdicts]
    said = [
        f"{role}: {names(verdict['prediction'])}, {verdict['confidence']:.1%} in the target"
        for role, verdict in verdicts
    ]
    title = "; ".join([f"{record['file']}, made as {names(record['target'])}", *said])
    return Picture(thumbnail_uri(image, SIDE), lines, title, SIDE)


def _verdict_cell(
    role: str, verdict: dict[str, Any], target: int, names: Callable[[int], str]
) -> Cell:
    letter = role[0].upper()
    if verdict["prediction"] != target:
        return Cell(f"{letter} \u2192 {names(verdict['prediction'])}", tone="bad")
    return Cell(f"{letter} {verdict['confidence']:.0%}", tone="good")


def class_names(item: SyntheticSet) -> Callable[[int], str]:
    """A function from the teacher's index of a class to its name, or ``class 7`` if it has none."""
    known = item.manifest.get("class_names")
    if not known:
        return "class {}".format
    return class_keys(range(len(known)), list(map(str, known))).__getitem__


def _class_share(item: SyntheticSet, target: int) -> str:
    """The share of a class that each network recognises, a line each."""
    quality = item.manifest.get("quality", {})
    shares = [
        f"{role[0].upper()} {quality[role]['recognition']['per_class'][str(target)]:.0%}"
        for role in ROLES
        if role in quality
    ]
    return "\n".join(shares)

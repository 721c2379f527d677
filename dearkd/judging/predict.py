"""What `dearkd predict` does: prints the best classes of each image, or why it has none."""

import glob
import json
import os
import warnings
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from PIL import Image
from rich.console import Console
from torch import Tensor

from dearkd.data.augment import view_augment
from dearkd.data.class_matching import with_descriptions
from dearkd.data.decode import BadImageError, open_image
from dearkd.data.folders import IMAGE_SUFFIXES
from dearkd.data.folders import image_files as files_within
from dearkd.data.sources import natural_order
from dearkd.errors import UserError, missing_file
from dearkd.trained.open import open_trained
from dearkd.trained.resolve import refuse_idle_trust, resolve
from dearkd.trained.trained import Trained

__all__ = ["Answer", "answers", "image_files", "predict", "probabilities"]

TOP = 5
BATCH = 16  # images decoded and classified together
SMALLEST = 4
"""Pixels of the shorter side below which an image is taken for a mistake (digits have 8)."""


@dataclass(frozen=True)
class Answer:
    """The best classes of one image, or why there are none."""

    image: str
    top: tuple[tuple[int, float], ...] = ()
    """(class index, probability), best first."""
    error: str | None = None


@dataclass
class _Score:
    """Counts the images in folders named after a class, and those of them taken for that class."""

    classes: dict[str, set[int]]
    """The model's indices of a name: one, or several of classes that share it."""
    right: int = 0
    judged: int = 0

    def verdict(self, answer: Answer) -> tuple[str, bool] | None:
        """The folder's name and whether the best class is the one it names; counts it."""
        folder = Path(answer.image).absolute().parent.name
        if folder not in self.classes:
            return None
        right = answer.top[0][0] in self.classes[folder]
        self.right, self.judged = self.right + right, self.judged + 1
        return folder, right


def predict(
    model: str,
    images: Sequence[str],
    *,
    console: Console,
    errors: Console,
    weights: Path | None = None,
    which: str | None = None,
    trust: bool = False,
    class_names: Path | None = None,
    as_json: bool = False,
) -> int:
    """Prints the five best classes of every image and returns how many images could not be read.

    Of an image in a folder that has the name of a class it also prints whether that class is the
    best one, and after the last image the share of those for which it is.

    Raises:
        UserError: If the model or the class names can't be used.
        FileNotFoundError: If the model does not exist.
    """
    resolved = resolve(model, "model", weights=weights, which=which, trust=trust, graphs=True)
    refuse_idle_trust(trust, resolved)
    trained = open_trained(resolved)
    names = _names(trained, class_names)
    found = answers(trained, image_files(images))
    score = _Score(_indices(trained.class_names or (), names))
    if as_json:
        listed = list(found)
        console.print_json(json.dumps([_plain(answer, names, score) for answer in listed]))
        return sum(answer.error is not None for answer in listed)
    if trained.heads_note is not None:
        console.print(f"note: {model} {trained.heads_note}", markup=False)
    bad = 0
    for answer in found:
        if answer.error is not None:
            bad += 1
            errors.print(f"error: {answer.image}: {answer.error}", style="red", markup=False)
            continue
        said = _said(score.verdict(answer))
        console.print(f"{answer.image}{said}", style="bold", markup=False)
        for index, probability in answer.top:
            console.print(f"{100 * probability:7.2f} %  {names[index]}", markup=False)
    if score.judged:
        share = f"{score.right} of {score.judged} ({100 * score.right / score.judged:.1f} %)"
        console.print(f"{share} are taken for the class that their folder is named after")
    return bad


def image_files(patterns: Iterable[str]) -> Iterator[str]:
    """The files that names, folders (at any depth) and globs stand for; a name may not exist.

    Folders give their images in natural order; one without any gives its own name. A glob gives
    each file once, though it may find a folder and what is in it.
    """
    for pattern in patterns:
        if not Path(pattern).exists() and glob.has_magic(pattern):
            found = glob.glob(pattern, recursive=True)  # noqa: PTH207 - Path's has no root to start at
            places = natural_order(found) or [pattern]
            yield from dict.fromkeys(file for place in places for file in _files_at(place))
        else:
            yield from _files_at(pattern)


def answers(trained: Trained, files: Iterable[str]) -> Iterator[Answer]:
    """The answer to each file, in order."""
    files = iter(files)
    while group := list(islice(files, BATCH)):
        opened = [_opened(file) for file in group]
        good = [image for image in opened if isinstance(image, Image.Image)]
        rows = iter(_best(trained, good) if good else ())
        for file, found in zip(group, opened, strict=True):
            yield Answer(file, error=found) if isinstance(found, str) else Answer(file, next(rows))


def probabilities(
    trained: Trained, images: Sequence[Image.Image]
) -> Float[Tensor, "images classes"]:
    """Probability in [0, 1] of every class for each upright RGB image; rows sum to 1.

    They are the softmax of the model's logits, which a student takes as the mean of its heads
    that were trained.
    """
    view = view_augment(trained.view, trained.img_size)
    prepared = [view.prepare(image) for image in images]
    pixels = view(prepared, np.zeros(len(images), dtype=np.uint64))
    with torch.inference_mode():
        return trained.network(pixels).float().softmax(dim=-1)


def _best(trained: Trained, images: Sequence[Image.Image]) -> list[tuple[tuple[int, float], ...]]:
    ranked = probabilities(trained, images).topk(min(TOP, trained.num_classes))
    rows = zip(ranked.indices.tolist(), ranked.values.tolist(), strict=True)
    return [tuple(zip(*row, strict=True)) for row in rows]


def _opened(file: str) -> Image.Image | str:
    """The image, or why it can't be answered. `dearkd eval` also judges enormous and tiny ones."""
    if Path(file).is_dir():
        return f"a folder without images ({', '.join(sorted(IMAGE_SUFFIXES))})"
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error", Image.DecompressionBombWarning)
            image = open_image(Path(file), file)
    except Image.DecompressionBombWarning:
        return f"more than {Image.MAX_IMAGE_PIXELS or 0:,} pixels; make it smaller first"
    except BadImageError as error:
        return error.reason
    if min(image.size) < SMALLEST:
        width, height = image.size
        return f"{width} x {height} pixels show nothing; at least {SMALLEST} a side are needed"
    return image


def _files_at(place: str) -> list[str]:
    """The images of a folder; else the name itself."""
    if not Path(place).is_dir():
        return [place]
    # Path's own joining would tidy the name that was typed.
    return [os.path.join(place, file) for file in files_within(Path(place))] or [place]  # noqa: PTH118


def _names(trained: Trained, file: Path | None) -> tuple[str, ...]:
    """What to call the classes: from a file, else the model's own, else their numbers.

    Raises:
        UserError: If the file is not text with one name a line, or has another number of them.
    """
    count = trained.num_classes
    if file is None:
        own = trained.class_names
        return with_descriptions(own) if own else tuple(f"class {index}" for index in range(count))
    if not file.is_file():
        raise missing_file(f"--class-names {file}", file)
    try:
        names = [line.strip() for line in file.read_text(encoding="utf-8-sig").splitlines()]
    except UnicodeDecodeError as error:
        raise UserError(
            f"--class-names {file} is no text file in UTF-8; save it as UTF-8, one name a line"
        ) from error
    names = [name for name in names if name]
    if len(names) != count:
        raise UserError(
            f"--class-names {file} has {len(names)} names and the model {count} classes; write "
            "one name a line, in the order of the classes"
        )
    return tuple(names)


def _indices(*lists: Sequence[str]) -> dict[str, set[int]]:
    """The indices of each name in lists of the classes' names; ImageNet has two cranes."""
    found: dict[str, set[int]] = {}
    for names in lists:
        for index, name in enumerate(names):
            found.setdefault(name, set()).add(index)
    return found


def _said(verdict: tuple[str, bool] | None) -> str:
    if verdict is None:
        return ""
    folder, right = verdict
    return f"  right: {folder}" if right else f"  wrong: it is {folder}"


def _plain(answer: Answer, names: Sequence[str], score: _Score) -> dict[str, Any]:
    if answer.error is not None:
        return {"image": answer.image, "error": answer.error}
    verdict = score.verdict(answer)
    judged = {} if verdict is None else {"folder": verdict[0], "right": verdict[1]}
    top = [
        {"class": names[index], "index": index, "probability": round(probability, 6)}
        for index, probability in answer.top
    ]
    return {"image": answer.image, **judged, "top": top}

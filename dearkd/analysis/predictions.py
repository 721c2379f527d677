"""Predictions of a run's model, and on request of its teacher, for every evaluation image.

Those for the run's own evaluation images are kept in ``RUN/predictions.safetensors``, which is
reused while weights and images are the same.
"""

import hashlib
import logging
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from dearkd.data.class_matching import class_keys, match_classes
from dearkd.data.decode import BadImageError
from dearkd.data.feed import evaluation_loader
from dearkd.data.loaders import Batch, Loader
from dearkd.data.order import spread_rows
from dearkd.data.sources import ImageSource, SubsetSource
from dearkd.errors import UserError
from dearkd.judging.candidate import Candidate
from dearkd.misfit import misfit
from dearkd.models.cost import LAYOUTS
from dearkd.models.placing import place
from dearkd.models.precision import precision_context
from dearkd.models.readings import head_scores
from dearkd.models.teacher import Teacher
from dearkd.run_folder.files import load_weights, read_metadata, save_tensors
from dearkd.run_folder.processes import process_state
from dearkd.shapes import RUN_TEACHER
from dearkd.trained.open_teacher import open_teacher
from dearkd.trained.resolve import Resolved, refuse_idle_trust, resolve
from dearkd.trained.trained import Trained
from dearkd.trained.weights import hash_of_weights

__all__ = ["Answers", "Predictions", "Watch", "answers_of"]

HEADS = ("class", "distillation", "logits")
FORM = "class and confidence, placed as the run was judged"
"""What is kept of an answer, in the kept file's metadata."""
TEACHER = "teacher"
OUT_OF_REACH = "the teacher is out of reach"
SAMPLE = 16
"""Images whose pixels enter the key of the kept file, as a sample of the data."""

_log = logging.getLogger("dearkd")
Watch = Callable[[Loader], Iterable[Batch]]
"""Wraps a loader to show progress."""


class Answers(NamedTuple):
    """What a head says of each image: 12 bytes, where ImageNet's logits would be 4,000."""

    read: Int[Tensor, " images"]
    """The class that it takes the image for."""
    confidence: Float[Tensor, " images"]
    """The softmax of that class, in [0, 1], in float64."""


@dataclass(frozen=True)
class Predictions:
    """Predictions for the images that could be read, in the order of the data."""

    labels: Int[Tensor, " images"]
    """The true class of each image, numbered as the model's classes."""
    heads: dict[str, Answers]
    """By head: ``class``, ``distillation`` and their mean ``logits``; a CNN has the last alone."""
    ids: list[str]
    """The name of each image: a file, or a row of a file."""
    class_names: tuple[str, ...]
    """The names of the model's classes, or their numbers where names are not known; two classes
    of one name have their number behind it."""
    source: ImageSource
    """The images: ``source.image(i)`` is that of prediction ``i``."""
    teacher: Answers | None = None
    """The teacher's answers; None if they were not asked for or the teacher can't be opened."""
    teacher_missing: str | None = None
    """Why the teacher's answers are missing although they were asked for."""


def answers_of(
    found: Resolved,
    candidate: Candidate,
    *,
    teacher: bool = False,
    trust: bool = False,
    images: int | None = None,
    watch: Watch = iter,
) -> Predictions:
    """Predictions of a run's weights for the images of a candidate.

    ``images`` takes so many of them, evenly spread. Predictions for all of the run's own evaluation
    images are kept, and reused while the weights, the names and labels of the images and the pixels
    of a few of them are unchanged.

    Raises:
        UserError: If the classes of the images are not the model's, or ``trust`` has no effect on
            run and teacher.
    """
    named = _named_teacher(found, trust) if teacher else None
    refuse_idle_trust(trust, found, named if isinstance(named, Resolved) else None)
    source = candidate.source
    if images is not None:
        source = SubsetSource(source, np.asarray(spread_rows(len(source), images)))
    trained = candidate.trained
    class_map = match_classes(source.classes, trained.class_names, trained.num_classes)
    guide, missing = _opened_teacher(named, found, trained)
    file = None if found.run is None else found.run / "predictions.safetensors"
    if not candidate.is_own_data or images is not None:
        file = None
    keys = {"form": FORM, "student": _key(candidate, source)}
    if guide is not None:
        keys["teacher"] = hash_of_weights(guide)
    tensors = None if file is None else _kept(file, keys)
    if tensors is None:
        tensors = _answers(candidate, source, class_map, guide, watch)
        if file is not None:
            _keep(file, tensors, keys)
    return _assembled(tensors, candidate, source, missing)


def _assembled(
    tensors: dict[str, Tensor], candidate: Candidate, source: ImageSource, missing: str | None
) -> Predictions:
    """The predictions from their tensors, computed or kept."""
    rows = tensors["rows"].numpy()
    whole = len(rows) == len(source)
    trained = candidate.trained
    heads = {name: _answers_in(tensors, name) for name in (*HEADS, TEACHER)}
    teacher = heads.pop(TEACHER)
    return Predictions(
        labels=tensors["labels"],
        heads={name: answers for name, answers in heads.items() if answers is not None},
        ids=[source.name(int(row)) for row in rows],
        class_names=tuple(class_keys(range(trained.num_classes), trained.class_names).values()),
        source=source if whole else SubsetSource(source, rows),
        teacher=teacher,
        teacher_missing=None if teacher is not None else missing,
    )


def _answers_in(tensors: dict[str, Tensor], name: str) -> Answers | None:
    read = tensors.get(f"{name}.read")
    return None if read is None else Answers(read.long(), tensors[f"{name}.confidence"])


def _named_teacher(found: Resolved, trust: bool) -> Resolved | str:
    """The teacher that a run's configuration names, or the reason why it can't be had."""
    if not found.config:
        return f"{found.text} has no config.yaml to name its teacher"
    settings = found.config.get("teacher") or {}
    if (fault := misfit(settings, RUN_TEACHER, "teacher")) is not None:
        return f"{found.text} has a damaged config.yaml ({fault})"
    if not settings.get("name"):
        return "the run had no teacher"
    weights = settings.get("weights")
    try:
        return resolve(settings["name"], weights=Path(weights) if weights else None, trust=trust)
    except UserError as error:
        return f"{OUT_OF_REACH}: {error}"


def _opened_teacher(
    named: Resolved | str | None, found: Resolved, trained: Trained
) -> tuple[Teacher | None, str | None]:
    """The teacher of a run, or the reason why it can't be had; neither if it was not asked for."""
    if not isinstance(named, Resolved):
        return None, named
    settings = found.config["teacher"]
    try:
        teacher = open_teacher(
            named,
            student_mean=trained.view["mean"],
            student_std=trained.view["std"],
            img_size=trained.img_size,
            precision=settings.get("precision", "auto"),
        )
    except UserError as error:
        return None, f"{OUT_OF_REACH}: {error}"
    teacher.set_memory_format(LAYOUTS.get(settings.get("memory_format", ""), LAYOUTS["contiguous"]))
    return teacher, None


@torch.inference_mode()
def _answers(
    candidate: Candidate,
    source: ImageSource,
    class_map: tuple[int, ...],
    teacher: Teacher | None,
    watch: Watch,
) -> dict[str, Tensor]:
    """Labels, rows of the source and answers by head, for the images that can be read."""
    state, trained = process_state(), candidate.trained
    if state.num_processes > 1:
        raise UserError(f"needs one process, got {state.num_processes}; start it by itself")
    loader = evaluation_loader(
        source,
        trained.view,
        trained.img_size,
        class_map,
        state,
        on_bad_image=candidate.on_bad_image,
    )
    model = trained.network
    place(model, state.device, trained.memory_format)
    if teacher is not None:
        teacher.to(state.device)
    parts: dict[str, list[Tensor]] = {}
    for batch in watch(loader):
        images = batch["image"].to(state.device, non_blocking=True)
        with precision_context(state.device, trained.precision):
            answers = _of_batch(model, teacher, images)
        found = {"labels": batch["label"], "rows": batch["index"], **answers}
        for name, value in found.items():
            parts.setdefault(name, []).append(value.cpu())
    loader.close()
    if not parts:
        raise UserError("no readable image to predict on; check the evaluation data")
    return {name: torch.cat(values).contiguous() for name, values in parts.items()}


def _of_batch(model: nn.Module, teacher: Teacher | None, images: Tensor) -> dict[str, Tensor]:
    """What each head and the teacher say of a batch."""
    scores: dict[Any, Tensor] = dict(head_scores(model, images))
    logits = {head: scores[head] for head in HEADS if head in scores}
    if teacher is not None:
        logits[TEACHER] = teacher(images).logits
    found = dict[str, Tensor]()
    for name, values in logits.items():
        confidence, read = values.cpu().double().softmax(-1).max(-1)
        found |= {f"{name}.read": read.int(), f"{name}.confidence": confidence}
    return found


def _key(candidate: Candidate, source: ImageSource) -> str:
    """A hash of weights, precision, names and labels of the images, and the pixels of a few."""
    trained = candidate.trained
    digest = hashlib.sha256(hash_of_weights(trained.network).encode())
    digest.update(repr((trained.metadata, trained.precision, source.classes)).encode())
    digest.update(np.ascontiguousarray(source.labels).tobytes())
    names = "\n".join(source.name(row) for row in range(len(source)))
    digest.update(names.encode(errors="surrogateescape"))
    for row in spread_rows(len(source), SAMPLE):
        try:
            digest.update(source.image(row).tobytes())
        except BadImageError as error:
            digest.update(str(error).encode())
    return digest.hexdigest()


def _kept(file: Path, keys: dict[str, str]) -> dict[str, Tensor] | None:
    """The tensors that an earlier call kept under the same keys; None if there are none."""
    if not file.is_file():
        return None
    try:
        known = read_metadata(file)
        if any(known.get(name) != key for name, key in keys.items()):
            return None
        return load_weights(file)
    except ValueError:  # damaged: made anew
        return None


def _keep(file: Path, tensors: dict[str, Tensor], keys: dict[str, str]) -> None:
    """Writes the tensors for later calls; if that fails, it is logged."""
    try:
        save_tensors(file, tensors, keys)
    except OSError as error:  # what was asked for is there; a later call takes longer
        _log.warning("predictions are not kept: %s", error)

"""A trained network to judge, and the images to judge it on."""

from dataclasses import dataclass
from typing import Any, cast

from dearkd.data.class_matching import match_classes
from dearkd.data.datasets import open_data, open_evaluation, renumbered
from dearkd.data.loaders import OnBadImage
from dearkd.data.sources import UNLABELLED, Classes, ImageSource
from dearkd.errors import UserError
from dearkd.misfit import misfit
from dearkd.shapes import RUN_DATA
from dearkd.trained.open import open_trained
from dearkd.trained.resolve import Resolved
from dearkd.trained.trained import Trained

__all__ = ["Candidate", "candidate_of"]


@dataclass(frozen=True)
class Candidate:
    """A trained network to judge, and the images to judge it on."""

    trained: Trained
    source: ImageSource
    on_bad_image: OnBadImage = "skip"
    is_own_data: bool = False
    """Whether these are the evaluation images of its own run."""


def candidate_of(found: Resolved, data: str | None = None) -> Candidate:
    """The network with its run's own evaluation images, or those that ``data`` names.

    Raises:
        UserError: If its weights can't be used, there are no images to judge it on, or its run
            does not say which as dearkd does.
        MissingFileError: If a path does not exist.
    """
    settings: dict[str, Any] = found.config.get("data") or {}
    if settings and (fault := misfit(settings, RUN_DATA, "data")) is not None:
        raise UserError(f"{found.text} has a damaged config.yaml ({fault}); restore that")
    train, source = (
        _own_images(found, settings) if data is None else (UNLABELLED, open_evaluation(data))
    )
    trained = open_trained(found)
    return Candidate(
        trained=trained,
        source=_numbered(source, train, trained),
        on_bad_image=cast(OnBadImage, settings.get("on_bad_image", "skip")),
        is_own_data=data is None,
    )


def _own_images(found: Resolved, settings: dict[str, Any]) -> tuple[Classes, ImageSource]:
    """The classes that the run trained on and its evaluation images, never those it trained on."""
    if not settings.get("train"):
        reason = f"{found.text} has no data of its own"
    else:
        images, source = open_data(
            settings["train"],
            settings.get("evaluation"),
            validation=settings.get("validation"),
            labels=settings.get("labels", "auto"),
        )
        if source is not None:
            return images.classes, source
        reason = f"{found.text} was trained without evaluation data"
    raise UserError(f"{reason}, so --data must name the images to judge on")


def _numbered(source: ImageSource, train: Classes, trained: Trained) -> ImageSource:
    """Evaluation images with the labels of the training data, where that has some."""
    if not train.known:
        return source
    names = trained.class_names
    class_map = match_classes(train, names, trained.num_classes)
    return renumbered(source, train, class_map=class_map, model_names=names)

"""A trained network to judge, and the images to judge it on."""

from dataclasses import dataclass
from typing import Any, cast

from dearkd.data.class_matching import match_classes
from dearkd.data.datasets import open_both, open_evaluation, renumbered
from dearkd.data.loaders import OnBadImage
from dearkd.data.sources import ImageSource
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
    trained = open_trained(found)
    source = _own_images(found, settings, trained) if data is None else open_evaluation(data)
    return Candidate(
        trained=trained,
        source=source,
        on_bad_image=cast(OnBadImage, settings.get("on_bad_image", "skip")),
        is_own_data=data is None,
    )


def _own_images(found: Resolved, settings: dict[str, Any], trained: Trained) -> ImageSource:
    """The evaluation images of the run, numbered as it numbers them; never those it trained on."""
    if not settings.get("train"):
        reason = f"{found.text} has no data of its own"
    else:
        images, source = open_both(
            settings["train"],
            settings.get("evaluation"),
            validation=settings.get("validation"),
            labels=settings.get("labels", "auto"),
        )
        if source is not None and not images.classes.known:
            return source
        if source is not None:
            names = trained.class_names
            class_map = match_classes(images.classes, names, trained.num_classes)
            return renumbered(source, images.classes, class_map=class_map, model_names=names)
        reason = f"{found.text} was trained without evaluation data"
    raise UserError(f"{reason}, so --data must name the images to judge on")

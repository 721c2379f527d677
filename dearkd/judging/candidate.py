"""A model to judge, the images to judge it on, and how the run that made it saw them."""

from dataclasses import dataclass
from typing import Any

from dearkd.data.datasets import ImageSource, open_data, open_evaluation
from dearkd.data.loaders import OnBadImage
from dearkd.run_folder.folder import RunFolder
from dearkd.training.initialise import load_run_model

__all__ = ["Candidate", "candidate_of_run", "named_images"]


@dataclass(frozen=True)
class Candidate:
    """A model to judge, the images to judge it on, and how the run that made it saw them."""

    model: Any
    class_names: tuple[str, ...] | None
    view: Any
    """Its mean, std, crop_pct and interpolation."""
    img_size: int
    source: ImageSource
    precision: str = "fp32"
    memory_format: str = "contiguous"
    on_bad_image: OnBadImage = "skip"
    is_own_data: bool = False
    """Whether these are the run's own evaluation images."""


def candidate_of_run(folder: RunFolder, data: str | None = None, which: str = "final") -> Candidate:
    """A run's model with its own evaluation images, or those that ``data`` names.

    Raises:
        ValueError: If it has no such weights, no evaluation data, or its data can't be used.
        FileNotFoundError: If a path does not exist.
    """
    model, metadata = load_run_model(folder, which)
    common: dict[str, Any] = {
        "model": model,
        "class_names": metadata["class_names"],
        "view": metadata,
        "img_size": metadata["img_size"],
    }
    if not folder.config_file.exists():  # the weights alone were copied here
        return Candidate(**common, source=named_images(data, f"{folder.path} has no config.yaml"))
    config = folder.read_config()
    source = None
    if data is None:  # numbered and split as for the run; never the images it trained on
        source = open_data(config.data.train, config.data.evaluation)[1]
    if source is None:
        source = named_images(data, f"{folder.path} was trained without evaluation data")
    return Candidate(
        **common,
        source=source,
        precision=config.precision,
        memory_format=config.memory_format,
        on_bad_image=config.data.on_bad_image,
        is_own_data=data is None,
    )


def named_images(data: str | None, reason: str) -> ImageSource:
    """The images that ``--data`` names; without it, the reason why it is needed.

    Raises:
        ValueError: Without ``data``, or if it can't be used.
        FileNotFoundError: If it does not exist.
    """
    if data is None:
        raise ValueError(f"{reason}, so --data must name the images to judge on")
    return open_evaluation(data)

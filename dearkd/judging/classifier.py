"""A trained classifier from wherever it lies, with the view of an image that it was made for."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from PIL import Image
from torch import Tensor

from dearkd.data.augment import Augment, view_augment
from dearkd.run_folder.files import read_metadata
from dearkd.run_folder.folder import RunFolder
from dearkd.trained.exported import Exported, open_onnx, open_timm, open_torch_export
from dearkd.trained.open import load_classifier
from dearkd.training.initialise import load_run_model

__all__ = ["Classifier", "open_classifier"]


@dataclass(frozen=True)
class Classifier:
    """Images in, logits out."""

    logits: Callable[[Float[Tensor, "batch 3 height width"]], Float[Tensor, "batch classes"]]
    """Of normalised images on the CPU."""
    num_classes: int
    class_names: tuple[str, ...] | None
    view: Augment
    """What `dearkd eval` makes of an image for this model."""

    def probabilities(self, images: Sequence[Image.Image]) -> Float[Tensor, "images classes"]:
        """Of every class, for each upright RGB image; a student's heads are averaged."""
        prepared = [self.view.prepare(image) for image in images]
        pixels = self.view(prepared, np.zeros(len(images), dtype=np.uint64))
        with torch.inference_mode():
            return self.logits(pixels).float().softmax(dim=-1)


def open_classifier(
    name: str, *, weights: Path | None = None, which: str | None = None, trust: bool = False
) -> Classifier:
    """The classifier of a run folder, a timm name, an .onnx or .pt2 file, or a timm folder.

    ``weights`` are of a timm name, ``which`` of a run folder. ``trust`` allows a .pt2 archive,
    which may run code when it is loaded.

    Raises:
        ValueError: If it is none of these or damaged, or an option does not apply to it.
        FileNotFoundError: If it is a path that does not exist.
        ImportError: If it takes packages that are not installed.
    """
    path = Path(name)
    is_run = path.is_dir() and (path / "config.yaml").is_file()
    _check_options(name, weights, which, trust, is_run)
    if path.suffix in (".onnx", ".pt2") and not path.is_file():
        raise FileNotFoundError(f"{name} does not exist; check the path")
    if path.suffix == ".onnx":
        return _of_exported(open_onnx(path))
    if path.suffix == ".pt2":
        return _of_exported(open_torch_export(path))
    if path.is_dir() and not is_run and _is_timm_folder(path):
        return _of_exported(open_timm(path))
    if path.is_dir():
        return _of_model(*load_run_model(RunFolder(path), which or "final"))
    model, class_names = load_classifier(name, weights=weights, role="model")
    view: Any = model.pretrained_cfg
    return _of_model(
        model, {**view, "class_names": class_names, "img_size": view["input_size"][-1]}
    )


def _check_options(
    name: str, weights: Path | None, which: str | None, trust: bool, is_run: bool
) -> None:
    suffix = Path(name).suffix
    if which is not None and not is_run:
        raise ValueError(f"--which {which} is for a run folder, which {name} is not; leave it out")
    if weights is not None and (Path(name).is_dir() or suffix in (".onnx", ".pt2")):
        raise ValueError(f"--weights {weights} is for a timm name; {name} has its own")
    if trust and suffix != ".pt2":
        raise ValueError(f"--trust is for .pt2 archives, which {name} is not; leave it out")
    if suffix == ".pt2" and not trust:
        raise ValueError(
            f"{name} is a torch.export archive, which may run code when it is loaded; pass --trust "
            "if you know where it comes from"
        )


def _is_timm_folder(folder: Path) -> bool:
    """Whether timm must make the model: it has a config of timm's, and no weights of ours."""
    if not (folder / "config.json").is_file():
        return False
    file = folder / "model.safetensors"
    return not (file.is_file() and "arch" in read_metadata(file))


def _of_exported(exported: Exported) -> Classifier:
    return _classifier(lambda images: exported.outputs(images)[0], exported.description)


def _of_model(model: Any, description: dict[str, Any]) -> Classifier:
    model = model.eval()
    return _classifier(model, {**description, "num_classes": model.num_classes})


def _classifier(logits: Callable[[Tensor], Tensor], description: dict[str, Any]) -> Classifier:
    names = description["class_names"]
    view = view_augment(description, description["img_size"])
    return Classifier(logits, description["num_classes"], tuple(names) if names else None, view)

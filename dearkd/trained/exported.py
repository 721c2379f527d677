"""Exported models read back: what to check an export with, and to predict with."""

import json
import logging
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import timm
import torch
from jaxtyping import Float
from torch import Tensor

from dearkd.export.formats import DESCRIPTION, Readout
from dearkd.trained.onnx_packages import import_packages

__all__ = [
    "CHECK_BATCHES",
    "Exported",
    "difference",
    "open_onnx",
    "open_timm",
    "open_torch_export",
]

TOLERANCE = 1e-4
"""Largest difference of two logits that passes for rounding, as a share of the largest logit."""
CHECK_BATCHES = (1, 3)
"""Images that a model and its export are compared on."""
_KEYS = ("num_classes", "img_size", "mean", "std", "interpolation", "crop_pct")


@dataclass(frozen=True)
class Exported:
    """A model read from disk."""

    outputs: Callable[[Float[Tensor, "batch 3 height width"]], tuple[Tensor, ...]]
    """Of normalised images: the logits, then those of each head where it was exported with them."""
    description: dict[str, Any]
    """Class names, number of classes, image size, mean, std, interpolation and crop."""


def open_onnx(file: Path) -> Exported:
    """An ONNX file that `dearkd export` wrote, in onnxruntime on as many threads as torch has.

    Raises:
        ImportError: If onnxruntime is not installed.
        ValueError: If it is no ONNX file, or has no description of its images.
    """
    (runtime,) = import_packages("onnxruntime")
    options = runtime.SessionOptions()
    options.intra_op_num_threads = torch.get_num_threads()
    try:
        session = runtime.InferenceSession(str(file), options, providers=["CPUExecutionProvider"])
    except Exception as error:  # onnxruntime's errors share no class
        raise ValueError(f"{file} is damaged or no ONNX model ({_one_line(error)})") from error
    stored = session.get_modelmeta().custom_metadata_map

    def outputs(images: Tensor) -> tuple[Tensor, ...]:
        return tuple(map(torch.from_numpy, session.run(None, {"images": images.numpy()})))

    return Exported(outputs, _described(file, stored))


def open_torch_export(file: Path) -> Exported:
    """A torch.export archive that `dearkd export` wrote. Loading one may run code that is in it.

    Raises:
        ValueError: If it is none, or has no description of its images.
    """
    extra = {DESCRIPTION: ""}
    log = logging.getLogger("torch.export")
    level = log.level
    log.setLevel(logging.CRITICAL)  # it writes a traceback for what it then raises
    try:
        with file.open("rb") as stream:
            model: Any = torch.export.load(stream, extra_files=extra).module()
    except Exception as error:  # what a damaged archive raises depends on where it is damaged
        raise ValueError(
            f"{file} is damaged or no torch.export archive ({_one_line(error)})"
        ) from error
    finally:
        log.setLevel(level)
    stored = json.loads(extra[DESCRIPTION] or "{}")
    return Exported(model, _described(file, {key: json.dumps(stored[key]) for key in stored}))


def open_timm(folder: Path) -> Exported:
    """A timm folder (``config.json`` and weights), by ``timm.create_model("local-dir:...")``.

    Raises:
        ValueError: If timm can't make it.
    """
    try:
        model: Any = timm.create_model(f"local-dir:{folder}", pretrained=True).eval()
    except Exception as error:  # damaged JSON, an unknown model, weights of another one
        raise ValueError(
            f"timm cannot load {folder} ({_one_line(error)}); if it is of a model of your own, "
            "pass --import FILE"
        ) from error
    view = model.pretrained_cfg
    names = view.get("label_names")
    description = {
        **view,
        "class_names": list(names) if names else None,
        "img_size": view["input_size"][-1],
    }
    return Exported(lambda images: (model(images),), description)


def difference(readout: Readout, exported: Exported, img_size: int) -> float:
    """Largest difference of logits between a model and what was exported from it.

    On noise, in batches of 1 and of 3.

    Raises:
        ValueError: If they differ by more than rounding, or in the best class.
    """
    generator = torch.Generator().manual_seed(0)
    worst = 0.0
    for batch in CHECK_BATCHES:
        images = torch.randn(batch, 3, img_size, img_size, generator=generator)
        with torch.inference_mode():
            pairs = list(zip(readout(images), exported.outputs(images), strict=True))
        for ours, theirs in pairs:
            gap, bound = float((ours - theirs).abs().max()), TOLERANCE * float(ours.abs().max())
            same = torch.equal(ours.argmax(1), theirs.argmax(1))
            if not (same and gap <= bound):
                raise ValueError(
                    f"the exported model differs by {gap:.2g} on a batch of {batch} (rounding: "
                    f"{bound:.2g}; same best class: {'yes' if same else 'no'}), so nothing was "
                    "written; --no-check writes it all the same"
                )
            worst = max(worst, gap)
    return worst


def _described(file: Path, stored: dict[str, str]) -> dict[str, Any]:
    missing = [key for key in _KEYS if key not in stored]
    if missing:
        raise ValueError(
            f"{file} does not say its {missing[0]}; only models that `dearkd export` wrote are read"
        )
    return {key: json.loads(value) for key, value in stored.items()}


def _one_line(error: Exception) -> str:
    return " ".join(str(error).split())[:160] or type(error).__name__

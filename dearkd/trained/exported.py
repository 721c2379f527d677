"""Reads exported networks back, to check an export and to predict with it."""

import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any

import timm
import torch
from jaxtyping import Float
from torch import Tensor, nn

from dearkd.errors import UserError, one_line
from dearkd.json_text import parsed
from dearkd.misfit import Shape, misfit, number, whole
from dearkd.run_folder.files import archive_flaw
from dearkd.shapes import METADATA
from dearkd.trained.onnx_packages import import_packages
from dearkd.trained.trained import Trained, described

__all__ = ["DESCRIPTION", "Graph", "open_onnx", "open_timm", "open_torch_export"]

DESCRIPTION = "dearkd.json"
"""Name of the description inside a torch.export archive."""
_NEEDED: dict[str, Shape] = {"num_classes": whole, "img_size": whole}
_NEEDED |= {"mean": [number], "std": [number]}
_NEEDED |= {key: METADATA[f"{key}?"] for key in ("interpolation", "crop_pct")}
_KNOWN = {key.rstrip("?") for key in METADATA if key is not ...}


class Graph(nn.Module):
    """An exported graph as a module.

    ``forward`` returns the logits (batch, classes), ``outputs`` every output of the graph.
    """

    def __init__(self, outputs: Callable[[Tensor], tuple[Tensor, ...]]) -> None:
        super().__init__()
        self.outputs = outputs
        """From normalised images to the logits, and the logits of each head if it has them."""

    def forward(self, images: Float[Tensor, "batch 3 height width"]) -> Tensor:
        """The logits."""
        return self.outputs(images)[0]


def open_onnx(file: Path) -> Trained:
    """An ONNX file that `dearkd export` wrote, in onnxruntime on as many threads as torch has.

    Raises:
        ImportError: If onnxruntime is not installed.
        UserError: If it is no ONNX file, or has no description of its images.
    """
    (runtime,) = import_packages("onnxruntime")
    options = runtime.SessionOptions()
    options.intra_op_num_threads = torch.get_num_threads()
    try:
        session = runtime.InferenceSession(str(file), options, providers=["CPUExecutionProvider"])
    except Exception as error:  # onnxruntime's errors share no class
        raise UserError(
            f"{file} is damaged or no ONNX model ({one_line(error)}); export or fetch it again"
        ) from error
    texts = session.get_modelmeta().custom_metadata_map  # other tools add theirs
    stored = {key: _parsed(file, text) for key, text in texts.items() if key in _KNOWN}

    def outputs(images: Tensor) -> tuple[Tensor, ...]:
        return tuple(map(torch.from_numpy, session.run(None, {"images": images.numpy()})))

    return described(str(file), Graph(outputs), "onnx", _description(file, stored))


def open_torch_export(file: Path) -> Trained:
    """A torch.export archive that `dearkd export` wrote. Loading one may run code that is in it.

    Raises:
        UserError: If it is none, is damaged, or has no description of its images.
    """
    if (flaw := archive_flaw(file)) is not None:
        raise UserError(f"{file} {flaw}; export or fetch it again")
    extra = {DESCRIPTION: ""}
    log = logging.getLogger("torch.export")
    level = log.level
    log.setLevel(logging.CRITICAL)  # it writes a traceback for what it then raises
    try:
        with file.open("rb") as stream:
            model: Any = torch.export.load(stream, extra_files=extra).module()
    except Exception as error:  # what a damaged archive raises depends on where it is damaged
        raise UserError(
            f"{file} is damaged or no torch.export archive ({one_line(error)}); export or fetch it "
            "again"
        ) from error
    finally:
        log.setLevel(level)
    description = _description(file, _parsed(file, extra[DESCRIPTION] or "{}"))
    return described(str(file), Graph(lambda images: model(images)), "torch-export", description)


def open_timm(folder: Path) -> Trained:
    """A timm folder (``config.json`` and weights), by ``timm.create_model("local-dir:...")``.

    Raises:
        UserError: If its weights are damaged, or timm can't make it.
    """
    _check_archives(folder)
    try:
        model: Any = timm.create_model(f"local-dir:{folder}", pretrained=True).eval()
    except Exception as error:  # damaged JSON, an unknown model, weights of another one
        raise UserError(
            f"timm cannot load {folder} ({one_line(error)}); if it is of a model of your own, "
            "pass --import FILE"
        ) from error
    view = model.pretrained_cfg
    names = view.get("label_names")
    description = {
        **view,
        "num_classes": model.num_classes,
        "class_names": list(names) if names else None,
        "img_size": view["input_size"][-1],
    }
    return described(str(folder), model, view["architecture"], description)


def _check_archives(folder: Path) -> None:
    """Refuses damaged weights that torch would read; timm takes safetensors where there are any."""
    if any(folder.glob("*.safetensors")):
        return
    for file in sorted((*folder.glob("*.bin"), *folder.glob("*.pth"), *folder.glob("*.pth.tar"))):
        if (flaw := archive_flaw(file)) is not None:
            raise UserError(f"weights {file}: the file {flaw}; fetch it again")


def _parsed(file: Path, text: str) -> Any:
    try:
        return parsed(text)
    except ValueError as error:
        raise UserError(_damaged(file, one_line(error))) from error


def _description(file: Path, stored: Any) -> dict[str, Any]:
    missing = [key for key in _NEEDED if isinstance(stored, dict) and key not in stored]
    if missing:
        raise UserError(
            f"{file} does not say its {missing[0]}; only models that `dearkd export` wrote are read"
        )
    optional = {key: shape for key, shape in METADATA.items() if str(key).endswith("?")}
    shape = {**optional, **_NEEDED, ...: object}
    if (fault := misfit(stored, shape)) is not None:
        raise UserError(_damaged(file, fault))
    description: dict[str, Any] = stored
    names, classes = description.get("class_names"), description["num_classes"]
    if names and len(names) != classes:
        raise UserError(_damaged(file, f"class_names has {len(names)} of {classes} names"))
    return description


def _damaged(file: Path, fault: str) -> str:
    return f"{file} has a damaged description ({fault}); export or fetch it again"

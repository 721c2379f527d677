"""Writes a trained classifier as ONNX, as a torch.export archive, or as a folder for timm.

Every form holds what is needed to use it: class names, image size, mean, std, interpolation and
crop. Graphs take normalised images, (batch, 3, size, size) with any batch, and return logits.
"""

import io
import json
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float
from timm.models._hub import save_config_for_hf
from torch import Tensor, nn

from dearkd.errors import UserError, one_line
from dearkd.models.heads import heads_note
from dearkd.models.readings import Head, head_scores, readings
from dearkd.run_folder.files import save_model
from dearkd.trained.exported import DESCRIPTION
from dearkd.trained.onnx_packages import import_packages

__all__ = ["Readout", "write_onnx", "write_timm", "write_torch_export"]

TRACED_BATCH = 2  # one image would be taken for a constant


class Readout(nn.Module):
    """What an exported graph computes: ``logits``, and with ``heads`` each head's besides.

    A distilled student's ``logits`` are the mean of its two heads, or those of the one that was
    trained, as `dearkd eval` reads them.

    Raises:
        UserError: If ``heads`` are asked for of a model with one head.
    """

    def __init__(self, model: nn.Module, heads: bool = False) -> None:
        if heads and len(readings(model)) == 1:
            note = heads_note(getattr(model, "answering_heads", ())) or "has one head"
            raise UserError(f"{type(model).__name__} {note}; leave --heads out")
        super().__init__()
        self.model = model.eval()
        self.names: tuple[Head, ...] = ("logits", "class", "distillation") if heads else ("logits",)

    def forward(self, images: Float[Tensor, "batch 3 height width"]) -> tuple[Tensor, ...]:
        """The logits of each of ``names``, (batch, classes)."""
        if len(self.names) == 1:
            return (self.model(images),)
        scores = head_scores(self.model, images)
        return tuple(scores[name] for name in self.names)


def write_onnx(file: Path, readout: Readout, description: dict[str, Any]) -> None:
    """Writes one ONNX file with the weights, and each entry of the description as JSON metadata.

    Raises:
        UnusableImportError: If the packages that ONNX needs are not installed.
        UserError: If the model cannot be traced.
    """
    import_packages("onnx", "onnxscript")
    with _traced(description["arch"]):
        program = torch.onnx.export(
            readout,
            (_example(description["img_size"]),),
            input_names=["images"],
            output_names=list(readout.names),
            dynamic_shapes=_any_batch(),
            dynamo=True,
            verbose=False,
        )
    assert program is not None
    for key, value in description.items():
        program.model.metadata_props[key] = json.dumps(value)
    program.save(str(file), external_data=False)


def write_torch_export(file: Path, readout: Readout, description: dict[str, Any]) -> None:
    """Writes a torch.export archive with the description as its extra file ``dearkd.json``.

    Raises:
        UserError: If the model cannot be traced.
    """
    example = (_example(description["img_size"]),)
    with _traced(description["arch"]):
        program = torch.export.export(readout, example, dynamic_shapes=_any_batch())
    # Through memory: given a name torch insists on its ending, and on a full disk it aborts.
    archive = io.BytesIO()
    torch.export.save(program, archive, extra_files={DESCRIPTION: json.dumps(description)})
    file.write_bytes(archive.getbuffer())


def write_timm(folder: Path, model: Any, description: dict[str, Any]) -> None:
    """Writes the folder that ``timm.create_model("local-dir:...")`` reads.

    It holds ``config.json`` and ``model.safetensors``. The weights have dearkd's own metadata too,
    so that the folder can be named wherever a run folder can.
    """
    folder.mkdir()
    if not hasattr(model, "num_features"):  # timm reads it, and notes it for people alone
        classifier = getattr(model, "get_classifier", lambda: None)()
        model.num_features = getattr(classifier, "in_features", None)
    save_model(folder / "model.safetensors", model, description)
    # timm's own entry has the licence of the code; that of these weights is not known here.
    config = {"label_names": description["class_names"], "pretrained_cfg": {"license": None}}
    save_config_for_hf(model, str(folder / "config.json"), model_config=config)


def _example(img_size: int) -> Tensor:
    return torch.zeros(TRACED_BATCH, 3, img_size, img_size)


def _any_batch() -> dict[str, Any]:
    return {"images": {0: torch.export.Dim("batch")}}


@contextmanager
def _traced(arch: str) -> Iterator[None]:
    """Turns the tracer's errors into one line and silences its warnings."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    except Exception as error:  # tracer, decomposition and translation raise kinds of their own
        reason = one_line(error)
        raise UserError(
            f"{arch} cannot be exported as a graph ({reason}); --to timm keeps it as a model"
        ) from error

"""The analysis of a trained transformer: attention, token cosine, MHCA heads, calibration."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from numpy.typing import NDArray
from torch import Tensor

from dearkd.analysis.attention_distance import (
    attention_distance,
    block_views,
    grid_of,
    has_readable_attention,
    measure_attention,
)
from dearkd.analysis.calibration import calibration_error, reliability
from dearkd.analysis.predictions import Predictions, Watch, answers_of
from dearkd.analysis.probe import DECIMALS, PROBE_IMAGES, evaluation_views, rounded
from dearkd.data.decode import BadImageError
from dearkd.data.order import spread_rows
from dearkd.data.sources import ImageSource
from dearkd.errors import UserError
from dearkd.judging.candidate import candidate_of
from dearkd.models.attention import GatedMultiHeadConvAttention, MultiHeadConvAttention
from dearkd.models.placing import place
from dearkd.run_folder.files import file_hash
from dearkd.run_folder.processes import process_state
from dearkd.trained.resolve import Resolved

__all__ = ["Analysis", "AttentionMaps", "analysis_of"]


@dataclass(frozen=True)
class AttentionMaps:
    """The attention maps of one image."""

    name: str
    """A file, or a row of a file."""
    label: str
    """The name of its class."""
    pixels: NDArray[np.uint8]
    """(height, width, 3) in 0-255, resized and cropped as for the model."""
    weights: Float[Tensor, "depth heads rows columns"]
    """Attention of the class token, or else the mean of all patches, to every patch; sums to 1."""


@dataclass(frozen=True)
class Analysis:
    """What ``dearkd analyze`` found out about a run."""

    record: dict[str, Any]
    """The content of ``analysis.json``."""
    maps: list[AttentionMaps]
    """Of a few images."""


def analysis_of(
    found: Resolved,
    data: str | None = None,
    *,
    which: str = "final",
    trust: bool = False,
    images: int | None = None,
    maps: int = 4,
    watch: Watch = iter,
) -> Analysis:
    """Attention, token cosine, MHCA heads, calibration and agreement with the teacher of a run.

    Accuracy, calibration and agreement are measured on all evaluation images, attention on
    ``PROBE_IMAGES`` spread over them; ``images`` sets the number for both. The attention maps of
    ``maps`` images are kept. Without ``data`` the images are the run's own evaluation data.

    Raises:
        UserError: If the run has no transformer whose attention can be read, no such weights, or
            its classes are not the data's.
        FileNotFoundError: If a path does not exist.
    """
    candidate = candidate_of(found, data)
    trained, source = candidate.trained, candidate.source
    model, metadata = trained.network, trained.metadata
    if not has_readable_attention(model):
        raise UserError(
            f"{found.text} holds {trained.architecture}, which has no attention to read (a "
            "student of dearkd or a plain vision transformer of timm has); judge it by dearkd eval"
        )
    answers = answers_of(found, candidate, teacher=True, trust=trust, images=images, watch=watch)
    device = process_state().device
    place(model, device, trained.memory_format)  # of kept answers nothing was computed
    rows = spread_rows(len(source), images or PROBE_IMAGES)
    views = evaluation_views(source, rows, metadata).to(device)
    measures = measure_attention(model.eval(), views)
    grid = grid_of(model, views)
    record = {
        "run": Path(found.text).resolve().name,
        "student": trained.architecture,
        "data": data or _own_data(found),
        "images": len(views),
        "weights": which,
        "weights_sha256": _weights_hash(found),
        "grid": list(grid),
        "attention_distance": rounded(measures.distance),
        "uniform_distance": _uniform(grid),
        "token_cosine": None if measures.cosine is None else rounded(measures.cosine),
        "position": _positions(model),
        **_record_of_heads(answers),
    }
    return Analysis(record, _maps(model, answers, metadata, maps))


def _own_data(found: Resolved) -> str:
    """The evaluation data of a run, as its configuration names it."""
    data = found.config["data"]
    return str(data.get("evaluation") or data["train"])


def _weights_hash(found: Resolved) -> str | None:
    """The hash of the file that was analysed; None of a folder for timm."""
    file = found.checkpoint or found.weights
    return file_hash(file) if file is not None and file.is_file() else None


def _uniform(grid: tuple[int, int]) -> float:
    """Attention distance, in patches, of a head with uniform attention."""
    patches = grid[0] * grid[1]
    weights = torch.full((1, 1, patches, patches), 1 / patches, dtype=torch.float64)
    return round(attention_distance(weights, grid).item(), DECIMALS)


def _positions(model: Any) -> list[dict[str, Any]]:
    """Learned strength (alpha), width (sigma, in patches) and centre of each head by MHCA block."""
    found = []
    for block in model.blocks:
        if isinstance(block.attn, MultiHeadConvAttention):
            alpha = block.attn.position_alpha.detach().double()
            widths = [(2 * a) ** -0.5 if a > 0 else None for a in alpha.tolist()]
            entry = {
                "alpha": rounded(alpha),
                "sigma": [None if w is None else round(w, DECIMALS) for w in widths],
                "centres": rounded(block.attn.position_centres.detach()),
            }
            if isinstance(block.attn, GatedMultiHeadConvAttention):
                entry["gate"] = rounded(block.attn.position_gate.detach().sigmoid())
            found.append(entry)
    return found


def _record_of_heads(answers: Predictions) -> dict[str, Any]:
    """Accuracy, calibration and agreement of each head; percentages are in 0-100."""
    labels, teacher = answers.labels, answers.teacher
    guided = None if teacher is None else teacher.read
    heads: dict[str, Any] = {}
    for name, (answer, confidence) in answers.heads.items():
        table = reliability(confidence, answer == labels)
        heads[name] = {
            "top1": _percent(answer == labels),
            "confidence": sum(b.confidence * b.images for b in table) / len(labels),
            "ece": calibration_error(table),
            "agreement_teacher": None if guided is None else _percent(answer == guided),
            "reliability": [list(entry) for entry in table],
        }
    chosen = {name: head.read for name, head in answers.heads.items()}
    two = "distillation" in chosen
    return {
        "head_images": len(labels),
        "heads": heads,
        "agreement_between_heads": (
            _percent(chosen["class"] == chosen["distillation"]) if two else None
        ),
        "teacher_top1": None if guided is None else _percent(guided == labels),
        "teacher_missing": answers.teacher_missing,
    }


@torch.inference_mode()
def _maps(model: Any, answers: Predictions, view: Any, count: int) -> list[AttentionMaps]:
    """The attention maps of ``count`` images spread over those that could be read.

    One that can't be read any more, as answers are kept, is left out.
    """
    rows = spread_rows(len(answers.labels), count)
    rows = [row for row in rows if _is_readable(answers.source, row)]
    if not rows:
        return []
    images = evaluation_views(answers.source, rows, view)
    views = block_views(model, images.to(next(model.parameters()).device))
    grid, by_block = grid_of(model, images), []
    for block in views:
        if block.weights is not None:
            found = _patch_attention(block.weights, model.num_prefix_tokens, grid)
            by_block.append(found.cpu())
    weights = torch.stack(by_block, dim=1)
    pixels = _pixels(images, view)
    labels = [answers.class_names[int(answers.labels[row])] for row in rows]
    return [
        AttentionMaps(answers.ids[row], labels[i], pixels[i], weights[i])
        for i, row in enumerate(rows)
    ]


def _is_readable(source: ImageSource, row: int) -> bool:
    try:
        source.image(row)
    except BadImageError:
        return False
    return True


def _patch_attention(
    weights: Float[Tensor, "batch heads tokens tokens"], prefix: int, grid: tuple[int, int]
) -> Float[Tensor, "batch heads rows columns"]:
    """Attention of the class token (or the mean of all patches) to the patches, summing to 1."""
    among = weights[:, :, 0, prefix:] if prefix else weights.mean(2)
    return (among / among.sum(-1, keepdim=True)).reshape(*among.shape[:2], *grid)


def _pixels(images: Tensor, view: Any) -> NDArray[np.uint8]:
    """Normalised images as pixels: (images, height, width, 3) in 0-255."""
    mean, std = (torch.tensor(view[key])[:, None, None] for key in ("mean", "std"))
    levels = ((images * std + mean) * 255).round().clamp(0, 255).to(torch.uint8)
    return levels.permute(0, 2, 3, 1).numpy()


def _percent(right: Tensor) -> float:
    return 100 * right.double().mean().item()

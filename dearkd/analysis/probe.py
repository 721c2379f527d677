"""The attention measures that a run logs every epoch, on a few fixed images."""

from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from dearkd.analysis.attention_distance import has_readable_attention, measure_attention
from dearkd.data.augment import view_augment
from dearkd.data.decode import BadImageError
from dearkd.data.order import spread_rows
from dearkd.data.sources import ImageSource
from dearkd.errors import UserError

__all__ = ["DECIMALS", "PROBE_IMAGES", "attention_probe", "evaluation_views", "rounded"]

PROBE_IMAGES = 64
"""Images that are measured at most."""
LEAST_IMAGES = 8
"""Images that are measured at least."""
DECIMALS = 5
"""Decimal places of logged numbers."""


def attention_probe(
    student: nn.Module,
    source: ImageSource,
    view: Mapping[str, Any],
    device: torch.device,
    train_images: int,
) -> Callable[[nn.Module], dict[str, Any]] | None:
    """A function that measures a student; None if its attention can't be read.

    It returns ``attention_distance`` and, for a student with two tokens, ``token_cosine``, computed
    in float32 on ``PROBE_IMAGES`` images spread over the source, prepared as for evaluation
    (``view``). A small training set has fewer: a 50th of its images. An image here costs about half
    of one in training, so the measures take 1 % of an epoch at most. No random number is drawn.

    Raises:
        UserError: If none of these images can be read.
    """
    if not has_readable_attention(student):
        return None
    count = max(LEAST_IMAGES, min(PROBE_IMAGES, train_images // 50))
    images = evaluation_views(source, spread_rows(len(source), count), view).to(device)

    def probe(model: nn.Module) -> dict[str, Any]:
        measures = measure_attention(model, images)
        line = {"attention_distance": rounded(measures.distance)}
        if measures.cosine is not None:
            line["token_cosine"] = rounded(measures.cosine)
        return line

    return probe


def evaluation_views(source: ImageSource, rows: Sequence[int], view: Mapping[str, Any]) -> Tensor:
    """The images in these rows of a source, prepared by a model's ``view``.

    The shape is (images, 3, height, width); unreadable images are left out.

    Raises:
        UserError: If none can be read.
    """
    augment = view_augment(view, view["img_size"])
    prepared = []
    for row in rows:
        with suppress(BadImageError):  # those who read all images name it
            prepared.append(augment.prepare(source.image(row)))
    if not prepared:
        raise UserError(
            f"none of {len(rows)} images looked at can be read, the first is "
            f"{source.name(rows[0])}; check the data"
        )
    return augment(prepared, np.zeros(len(prepared), dtype=np.uint64))


def rounded(values: Tensor) -> list[Any]:
    """The values as nested lists, rounded to ``DECIMALS`` places."""
    return np.round(values.double().cpu().numpy(), DECIMALS).tolist()

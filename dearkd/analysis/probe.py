"""What a run logs of its student's attention: two measures on a few fixed images, every epoch."""

from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from dearkd.analysis.attention_distance import has_readable_attention, measure_attention
from dearkd.data.augment import view_augment
from dearkd.data.datasets import ImageSource
from dearkd.data.decode import BadImageError
from dearkd.data.order import spread_rows
from dearkd.errors import UserError

__all__ = ["DECIMALS", "PROBE_IMAGES", "attention_probe", "evaluation_views", "rounded"]

PROBE_IMAGES = 64
LEAST_IMAGES = 8
DECIMALS = 5


def attention_probe(
    student: nn.Module,
    source: ImageSource,
    view: Mapping[str, Any],
    device: torch.device,
    train_images: int,
) -> Callable[[nn.Module], dict[str, Any]] | None:
    """Measures of a student to log: ``attention_distance`` and, of two tokens, ``token_cosine``.

    Taken in float32 on ``PROBE_IMAGES`` images spread over the source, seen as evaluation sees
    them (``view``); of a training set below 50 times that, on a 50th of its number: an image here
    costs about half of one in training, so it is 1 % of an epoch at most. Nothing random is drawn.
    None for a student whose attention can't be read.

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
    """(images, 3, height, width) as a model's ``view`` has them; unreadable ones are left out.

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
    """Numbers as they are logged, to ``DECIMALS`` places."""
    return np.round(values.double().cpu().numpy(), DECIMALS).tolist()

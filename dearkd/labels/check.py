"""A sample of what a folder holds, made anew: the same pixels, and the same answers.

A manifest knows settings and versions. It does not know whether a package draws views otherwise
than before, or whether the images have changed under their names.
"""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from dearkd.errors import UserError
from dearkd.labels.answers import Answers
from dearkd.labels.identity import REMEDY

__all__ = ["SAMPLE", "check_answers", "check_pictures", "pictures"]

SAMPLE = 32
"""Views that are made anew."""
SHADE = 0.01
"""How far the mean of a quarter of a view may be off, of 1: rounding is below, another view far
above in one of twelve numbers."""
NEAR = {"fp32": 1e-3}
"""Share of the spread of a view's logits within which two answers count as equal, by precision."""
NEAR_OTHERWISE = 0.05
"""The same for bf16, whose numbers have 8 bits."""

Pictures = list[list[float] | None]


def pictures(
    images: Float[Tensor, "batch 3 height width"],
    views: Tensor,
    mean: Sequence[float],
    std: Sequence[float],
) -> Pictures:
    """The mean of each quarter and channel of each view, in [0, 1]; None where it is no own one."""
    scale, shift = (torch.tensor(row)[:, None, None].to(images) for row in (std, mean))
    quarters = F.adaptive_avg_pool2d(images.float() * scale + shift, 2).flatten(1)
    return [
        [round(number, 4) for number in row] if view >= 0 else None
        for row, view in zip(quarters.tolist(), views.tolist(), strict=True)
    ]


def check_pictures(
    folder: object, stored: Pictures, here: Pictures, changed: Sequence[str]
) -> None:
    """Refuses labels of views that look otherwise; ``changed``: packages of other versions.

    Raises:
        UserError: If one does.
    """
    for position, (theirs, ours) in enumerate(zip(stored, here, strict=False)):
        if theirs is None or ours is None:
            continue
        if max(abs(a - b) for a, b in zip(theirs, ours, strict=True)) > SHADE:
            with_others = f"made with {', '.join(changed)}"
            reason = with_others if changed else "the images may have changed"
            raise UserError(
                f"the labels in {folder} are of other views: view {position} of epoch 0 looks "
                f"otherwise here ({reason}); {REMEDY}"
            )


def check_answers(
    folder: object,
    answers: Answers,
    kept: Tensor,
    logits: Float[Tensor, "batch classes"],
    precision: str,
) -> None:
    """Refuses answers that are not the teacher's, which gives these ``logits``.

    Raises:
        UserError: If one differs by more than rounding: another class that is not as good as
            tied, or another logit.
    """
    stored = answers.decode(kept)
    spread = logits.amax(dim=1) - logits.amin(dim=1)
    allowed = NEAR.get(precision, NEAR_OTHERWISE) * spread
    if answers.form == "labels":
        chosen = logits.gather(1, stored.argmax(dim=1, keepdim=True))[:, 0]
        off = logits.amax(dim=1) - chosen
    else:
        off = (stored - answers.decode(answers.encode(logits))).abs().amax(dim=1)
        allowed = allowed + 2 * torch.finfo(answers.dtype).eps * spread
    wrong = torch.nonzero(off > allowed)[:, 0]
    if len(wrong):
        first = int(wrong[0])
        raise UserError(
            f"the labels in {folder} are not this teacher's: of a sample of {len(logits)} views "
            f"{len(wrong)} differ, the first is class {int(stored[first].argmax())} there and "
            f"{int(logits[first].argmax())} by the teacher; {REMEDY}"
        )

"""The two forms in which a teacher's answer to a view is kept: its decision, or all its logits."""

from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Float
from numpy.typing import DTypeLike
from torch import Tensor

from dearkd.models.teacher import Form

__all__ = ["Answers"]

_UNSIGNED = {torch.uint8: 2**8, torch.uint16: 2**16, torch.uint32: 2**32}
"""Integers for a label, and how many classes each can tell apart."""


@dataclass(frozen=True)
class Answers:
    """One form of answers, for a number of classes.

    ``labels``: the argmax of the logits, in one byte up to 256 classes and in two up to 65,536.
    ``logits``: all of them in half precision, the largest subtracted, which no softmax sees and
    which puts the precision where the probability is.

    Departure:
        Of 1,000 classes others keep the ten largest logits and spread the rest evenly. At the
        temperature 3 most of the probability is in the rest: on random logits (spread 1.5, the
        largest 9 above the mean) the loss of a student near its teacher became nine times as
        large, and with the 200 largest still four times. All in half precision change it by less
        than 0.02 %, and its gradient by 0.3 % at most.
    """

    form: Form
    classes: int

    @property
    def dtype(self) -> torch.dtype:
        """Data type in which answers are stored."""
        if self.form == "logits":
            return torch.float16
        return next(dtype for dtype, most in _UNSIGNED.items() if self.classes <= most)

    @property
    def numpy_dtype(self) -> DTypeLike:
        """The same as a numpy dtype."""
        return np.dtype(str(self.dtype).removeprefix("torch."))

    @property
    def shape(self) -> tuple[int, ...]:
        """Shape of the stored answer to one view."""
        return (self.classes,) if self.form == "logits" else ()

    @property
    def bytes_a_view(self) -> int:
        """What one view takes on the disk, but for a bit that says that it is there."""
        return self.dtype.itemsize * (self.classes if self.form == "logits" else 1)

    def encode(self, logits: Float[Tensor, "batch classes"]) -> Tensor:
        """What is kept of these logits, on their device."""
        if self.form == "labels":
            return logits.argmax(dim=1).to(self.dtype)
        below = logits - logits.amax(dim=1, keepdim=True)
        return below.clamp(min=torch.finfo(self.dtype).min).to(self.dtype)

    def decode(self, kept: Tensor) -> Float[Tensor, "batch classes"]:
        """Logits again; of a label 1 for the class and 0 for the others: the argmax counts."""
        if self.form == "labels":
            return F.one_hot(kept.long(), self.classes).float()
        return kept.float()

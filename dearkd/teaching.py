"""What a teacher's logits teach, and with which weights: the one rule that all methods share.

    loss = class_weight * CE(class head, y) + alpha * L_teacher(distillation head) + ...

``alpha`` and ``class_weight`` add up to 1 unless both are given. With ``class_weight`` 0 the labels
are not used: both heads learn from the teacher, by the mean of their two terms.

Source:
    Touvron et al. 2020 (DeiT), https://arxiv.org/abs/2012.12877, eq. 2 and 3, for hard and soft;
    Sun et al. 2024, https://arxiv.org/abs/2403.01427, for standardized.
"""

from dataclasses import dataclass
from typing import Literal

from jaxtyping import Float
from torch import Tensor

from dearkd.errors import UserError
from dearkd.losses import hard_distillation, soft_distillation, standardized_distillation

__all__ = ["Logits", "Teaching", "teaching"]

Logits = Literal["hard", "soft", "standardized"]
"""What of its logits the teacher says: their argmax, the softmax, or the softmax of the logits
brought to mean 0 and deviation 1."""

ALPHA: dict[Logits, float] = {"hard": 0.5, "soft": 0.1, "standardized": 0.9}
"""Weight of the teacher's term beside the labels: DeiT's two, and the ratio of 9 of Sun et al."""
TEMPERATURE: dict[Logits, float] = {"soft": 3.0, "standardized": 2.0}
"""DeiT's; the lower end of the 2 to 4 of Sun et al., as a softmax of standardized logits is flat.
"""
TEMPERATURE_WITHOUT_LABELS = 4.0
"""Departure: of soft labels alone, of which DeiT says nothing. Ours worked on the digits."""
DECIMALS = 12
"""Decimals of a weight that is 1 minus another: 1 - 0.9 is to be 0.1."""


@dataclass(frozen=True)
class Teaching:
    """The teacher's part in a loss, with every weight known."""

    logits: Logits
    class_weight: float
    """Weight of the cross-entropy with the labels."""
    alpha: float
    """Weight of the teacher's term."""
    temperature: float | None
    """Softening of both predictions; None where nothing is softened."""

    @property
    def uses_labels(self) -> bool:
        """Whether the labels of the images take part."""
        return self.class_weight > 0

    @property
    def leaves_scale_open(self) -> bool:
        """Whether a head that learns from the teacher alone gets logits of no certain scale."""
        return self.logits == "standardized"

    def term(
        self,
        student_logits: Float[Tensor, "batch classes"],
        teacher_logits: Float[Tensor, "batch classes"],
    ) -> Float[Tensor, ""]:
        """The teacher's loss of one head, in nats and without its weight."""
        if self.logits == "hard" or self.temperature is None:
            return hard_distillation(student_logits, teacher_logits)
        if self.logits == "soft":
            return soft_distillation(student_logits, teacher_logits, self.temperature)
        return standardized_distillation(student_logits, teacher_logits, self.temperature)


def teaching(
    logits: Logits = "hard",
    class_weight: float | None = None,
    alpha: float | None = None,
    temperature: float | None = None,
) -> Teaching:
    """The rule with what is left open (None) filled in.

    Raises:
        UserError: If a number is out of range or has no effect.
    """
    _check_share("class_weight", class_weight)
    _check_share("alpha", alpha)
    if class_weight == 0 and alpha not in (None, 1):
        raise UserError(
            f"distill.alpha={alpha} has no effect with distill.class_weight=0, as in --recipe best"
            ": the teacher's term stands alone; leave alpha out, or set class_weight"
        )
    if alpha is None:
        alpha = ALPHA[logits] if class_weight is None else _rest(class_weight)
    if class_weight is None:
        class_weight = _rest(alpha)
    if alpha == 0 and logits != "hard":
        raise UserError(
            f"distill.logits={logits} has no effect with distill.alpha=0; leave one of them out"
        )
    return Teaching(logits, class_weight, alpha, _temperature(logits, class_weight, temperature))


def _temperature(logits: Logits, class_weight: float, given: float | None) -> float | None:
    if given is not None and given <= 0:
        raise UserError(f"distill.temperature must be positive, got {given}")
    if logits != "hard":
        alone = class_weight == 0 and logits == "soft"
        return given or (TEMPERATURE_WITHOUT_LABELS if alone else TEMPERATURE[logits])
    if given is not None:
        raise UserError(
            f"distill.temperature={given} has no effect with distill.logits=hard; leave it out, or "
            "choose distill.logits=soft or standardized"
        )
    return None


def _check_share(name: str, value: float | None) -> None:
    if value is not None and not 0 <= value <= 1:
        raise UserError(f"distill.{name} must be at least 0 and at most 1, got {value}")


def _rest(share: float) -> float:
    return round(1 - share, DECIMALS)

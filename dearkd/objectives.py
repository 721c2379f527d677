"""The training objectives, modules that hold the student and what it learns from.

``forward(images, targets, views)`` returns ``loss``, to backpropagate, and every term without its
weight. ``views`` are the numbers of the images in the run's order, for a teacher with a memory.
The teacher sees the same mixed and augmented images as the student. ``Teacher`` keeps it in eval
mode and without gradients, whatever ``train()`` is called with.

Source:
    Chen et al. 2022 (DearKD), https://arxiv.org/abs/2204.12997; Touvron et al. 2020 (DeiT),
    https://arxiv.org/abs/2012.12877.
"""

from collections.abc import Sequence
from typing import Any, ClassVar, Literal

from jaxtyping import Float, Int
from torch import Tensor, nn

from dearkd.errors import UserError
from dearkd.losses import (
    cross_entropy,
    hard_distillation,
    hidden_loss,
    scale_target,
    soft_distillation,
)
from dearkd.models.aligner import Aligner
from dearkd.models.pairs import AlignedPair, PairLike, default_pair, model_name, resolved
from dearkd.models.teacher import Form, Teacher

__all__ = [
    "CrossEntropy",
    "DearKD",
    "HardDistillation",
    "SoftDistillation",
    "Targets",
    "Terms",
    "Views",
]

Images = Float[Tensor, "batch channels height width"]
Targets = Int[Tensor, " batch"] | Float[Tensor, "batch classes"]
Views = Int[Tensor, " batch"] | None
Terms = dict[str, Tensor]


class CrossEntropy(nn.Module):
    """Cross-entropy with the labels alone: the plain baseline, and DearKD's second stage.

    Departure:
        The paper does not say what becomes of the distillation head. Here both heads of a
        distilled student learn the labels, with half the weight each, since inference averages
        them.
    """

    def __init__(self, student: nn.Module) -> None:
        super().__init__()
        self.student = student
        self.distilled = has_distillation_token(student)
        if self.distilled:
            _set_distilled_training(student)

    def forward(self, images: Images, targets: Targets, views: Views = None) -> Terms:
        """The loss, its term ``class`` and a distilled student's ``distillation`` (nats)."""
        if not self.distilled:
            loss = cross_entropy(self.student(images), targets)
            return {"loss": loss, "class": loss.detach()}
        class_logits, dist_logits = self.student(images)
        class_term = cross_entropy(class_logits, targets)
        dist_term = cross_entropy(dist_logits, targets)
        loss = (class_term + dist_term) / 2
        return _terms(loss, {"class": class_term, "distillation": dist_term})


class HardDistillation(nn.Module):
    """DeiT's hard distillation: CE(class, y) / 2 + CE(distillation, y_t) / 2.

    With ``token="class"`` the class head learns both (DeiT table 3, no distillation token).

    Source:
        DeiT eq. 3.

    Raises:
        UserError: If the student lacks the token, or classes differ.
    """

    learns_from: ClassVar[Form] = "labels"

    def __init__(
        self,
        student: nn.Module,
        teacher: Teacher,
        token: Literal["distillation", "class"] = "distillation",
    ) -> None:
        super().__init__()
        self.student, self.teacher, self.token = student, teacher, token
        _check_classes(student, teacher)
        if token == "distillation":
            require_distillation_token(student)
        elif has_distillation_token(student):
            raise UserError(
                f"token=class would leave the distillation head of {model_name(student)} "
                "untrained; use token=distillation, or a student without a distillation token"
            )

    def forward(self, images: Images, targets: Targets, views: Views = None) -> Terms:
        """The loss, its terms ``class`` and ``distillation`` (nats), and ``teacher_agreement``."""
        logits = self.student(images)
        class_logits, dist_logits = logits if self.token == "distillation" else (logits, logits)
        teacher_logits = self.teacher(images, views=views).logits
        class_term = cross_entropy(class_logits, targets)
        dist_term = hard_distillation(dist_logits, teacher_logits)
        return _terms(
            (class_term + dist_term) / 2,
            {"class": class_term, "distillation": dist_term},
            agreement(dist_logits, teacher_logits),
        )


class SoftDistillation(nn.Module):
    """DeiT's soft distillation: (1 - alpha) CE(class, y) + alpha tau^2 KL(teacher || student).

    Source:
        DeiT eq. 2; alpha (its lambda) 0.1 and tau 3 from its section 5. The KL term is on the
        distillation head.

    Raises:
        UserError: If the student has no distillation token, classes differ, or a weight is out
            of range.
    """

    def __init__(
        self, student: nn.Module, teacher: Teacher, temperature: float = 3.0, alpha: float = 0.1
    ) -> None:
        super().__init__()
        if not 0 <= alpha <= 1:
            raise UserError(f"alpha must be at least 0 and at most 1, got {alpha}")
        if temperature <= 0:
            raise UserError(f"temperature must be positive, got {temperature}")
        self.student, self.teacher = student, teacher
        self.temperature, self.alpha = temperature, alpha
        _check_classes(student, teacher)
        require_distillation_token(student)

    def forward(self, images: Images, targets: Targets, views: Views = None) -> Terms:
        """The loss, its terms ``class`` and ``distillation`` (nats), and ``teacher_agreement``."""
        class_logits, dist_logits = self.student(images)
        teacher_logits = self.teacher(images, views=views).logits
        class_term = cross_entropy(class_logits, targets)
        dist_term = soft_distillation(dist_logits, teacher_logits, self.temperature)
        return _terms(
            (1 - self.alpha) * class_term + self.alpha * dist_term,
            {"class": class_term, "distillation": dist_term},
            agreement(dist_logits, teacher_logits),
        )


class DearKD(nn.Module):
    """DearKD's first stage: CE(class, y) / 2 + CE(distillation, y_t) / 2 + weight * L_hidden.

    L_hidden is summed over ``pairs``. If none are given, the last MHCA block is paired with the
    teacher stage whose grid is nearest to that of the tokens (``default_pair``).

    Source:
        Chen et al. 2022, https://arxiv.org/abs/2204.12997, early distillation.

    Departure:
        ``hidden_weight`` (its lambda) is not given in the paper; 1 is ours, to be tuned.

    Raises:
        UserError: If the student has no distillation token, classes differ, a pair names a block
            or stage that is not there, or the weight is negative.
    """

    learns_from: ClassVar[Form] = "labels"

    def __init__(
        self,
        student: nn.Module,
        teacher: Teacher,
        pairs: Sequence[PairLike] = (),
        hidden_weight: float = 1.0,
    ) -> None:
        super().__init__()
        if hidden_weight < 0:
            raise UserError(f"hidden_weight must be at least 0, got {hidden_weight}")
        self.student, self.teacher, self.hidden_weight = student, teacher, hidden_weight
        _check_classes(student, teacher)
        require_distillation_token(student)
        self.pairs = tuple(
            resolved(pair, student, teacher) for pair in pairs or [default_pair(student, teacher)]
        )
        self.blocks = sorted({pair.block for pair in self.pairs})
        self.stages = tuple(sorted({pair.stage for pair in self.pairs}))
        in_dim = student.num_features
        assert isinstance(in_dim, int)
        self.aligners = nn.ModuleList(
            Aligner(in_dim, teacher.stage(pair.stage).channels, bool(pair.nonnegative))
            for pair in self.pairs
        )

    def forward(self, images: Images, targets: Targets, views: Views = None) -> Terms:
        """The loss, its terms ``class``, ``distillation``, ``hidden``, and ``teacher_agreement``.

        Several pairs have a term ``hidden_<i>`` each besides.
        """
        (class_logits, dist_logits), student_maps = self._student_forward(images)
        teacher = self.teacher(images, self.stages, views)
        teacher_maps = dict(zip(self.stages, teacher.features, strict=True))
        class_term = cross_entropy(class_logits, targets)
        dist_term = hard_distillation(dist_logits, teacher.logits)
        terms = {"class": class_term, "distillation": dist_term}
        hidden = [
            self._hidden(aligner, pair, student_maps[pair.block], teacher_maps[pair.stage])
            for aligner, pair in zip(self.aligners, self.pairs, strict=True)
        ]
        if len(hidden) > 1:
            terms |= {f"hidden_{i}": term for i, term in enumerate(hidden)}
        terms["hidden"] = sum(hidden[1:], start=hidden[0])
        loss = (class_term + dist_term) / 2 + self.hidden_weight * terms["hidden"]
        return _terms(loss, terms, agreement(dist_logits, teacher.logits))

    def _student_forward(self, images: Images) -> tuple[tuple[Tensor, Tensor], dict[int, Tensor]]:
        """The logits of both heads, and the map of each tapped block, of one forward pass."""
        student: Any = self.student
        tokens, maps = student.forward_intermediates(
            images, indices=self.blocks, norm=False, output_fmt="NCHW", intermediates_only=False
        )
        return student.forward_head(tokens), dict(zip(self.blocks, maps, strict=True))

    def _hidden(
        self, aligner: nn.Module, pair: AlignedPair, student_map: Tensor, teacher_map: Tensor
    ) -> Float[Tensor, ""]:
        aligned = aligner(student_map, tuple(teacher_map.shape[-2:]))
        return hidden_loss(aligned, scale_target(teacher_map, bool(pair.nonnegative)))


def has_distillation_token(student: nn.Module) -> bool:
    """Whether the student has a second head to learn from the teacher (timm's convention)."""
    return hasattr(student, "set_distilled_training")


def require_distillation_token(student: nn.Module) -> None:
    """Makes the student return the logits of both heads in training.

    Raises:
        UserError: If it has only one head.
    """
    if not has_distillation_token(student):
        raise UserError(
            f"student {model_name(student)} has no distillation token; choose a dearkd_* or "
            "deit_*_distilled student, or --method deit-hard --set distill.token=class"
        )
    _set_distilled_training(student)


def agreement(
    student_logits: Float[Tensor, "batch classes"], teacher_logits: Float[Tensor, "batch classes"]
) -> Float[Tensor, ""]:
    """Share of images on which student and teacher decide alike, in [0, 1]."""
    return (student_logits.argmax(dim=1) == teacher_logits.argmax(dim=1)).float().mean()


def _terms(loss: Float[Tensor, ""], terms: Terms, teacher_agreement: Tensor | None = None) -> Terms:
    """The loss, and detached copies of the terms, which are logged."""
    logged = {name: term.detach() for name, term in terms.items()}
    if teacher_agreement is not None:
        logged["teacher_agreement"] = teacher_agreement
    return {"loss": loss, **logged}


def _check_classes(student: nn.Module, teacher: Teacher) -> None:
    if student.num_classes != teacher.num_classes:
        raise UserError(
            f"student {model_name(student)} has {student.num_classes} classes and the teacher "
            f"{teacher.num_classes}; they must be equal: build the student with "
            f"num_classes={teacher.num_classes}"
        )


def _set_distilled_training(student: Any) -> None:
    student.set_distilled_training(True)

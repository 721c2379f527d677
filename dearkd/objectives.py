"""The training objectives, modules that hold the student and what it learns from.

``forward(images, targets, views)`` returns ``loss``, to backpropagate, and every term without its
weight. ``views`` are the numbers of the images in the run's order, for a teacher with a memory.
The teacher sees the same mixed and augmented images as the student. ``Teacher`` keeps it in eval
mode and without gradients, whatever ``train()`` is called with.

Source:
    Chen et al. 2022 (DearKD), https://arxiv.org/abs/2204.12997; Touvron et al. 2020 (DeiT),
    https://arxiv.org/abs/2012.12877.
"""

from collections.abc import Iterable, Sequence
from typing import Any, ClassVar

from jaxtyping import Float, Int
from torch import Tensor, nn

from dearkd.errors import UserError
from dearkd.losses import cross_entropy, hidden_loss
from dearkd.models.aligner import Aligner, AlignerKind, TargetScale, moments
from dearkd.models.create import model_name
from dearkd.models.heads import HEADS, Token, fitting_token, head_modules
from dearkd.models.pairs import PRESETS, PairLike, PairPreset, chosen_pairs
from dearkd.models.teacher import Form, Teacher
from dearkd.teaching import Logits, Teaching, teaching

__all__ = ["CrossEntropy", "DearKD", "Distillation", "Targets", "Terms", "Views"]

NOTHING_TAUGHT = (
    "distill.alpha=0, or class_weight=1, leaves nothing to learn from the teacher; change it, or "
    "choose --method ce"
)

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
        self.distilled = fitting_token(student, None) == "distillation"

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


class Distillation(nn.Module):
    """DeiT's distillation: class_weight CE(class, y) + alpha L_teacher(distillation).

    ``logits`` says what the teacher says: ``hard`` and ``soft`` are DeiT's two, ``standardized``
    needs no likeness of scales. :func:`dearkd.teaching.teaching` has the rule for the weights and
    their defaults. With ``class_weight=0`` the labels are not used, and the loss is the mean of the
    teacher's term over the student's heads. With ``token="class"`` the class head learns both terms
    (DeiT table 3, no distillation token), which is the default where there is no such token.

    Source:
        DeiT eq. 2 and 3; Sun et al. 2024, https://arxiv.org/abs/2403.01427.

    Raises:
        UserError: If a head would stay untrained, classes differ or are too few, or a number is out
            of range or has no effect.
    """

    learns_features: ClassVar[bool] = False
    """Whether the teacher has more to say than its logits."""

    def __init__(
        self,
        student: nn.Module,
        teacher: Teacher,
        logits: Logits = "hard",
        class_weight: float | None = None,
        alpha: float | None = None,
        temperature: float | None = None,
        token: Token | None = None,
    ) -> None:
        super().__init__()
        self.student, self.teacher = student, teacher
        self.teaching = teaching(logits, class_weight, alpha, temperature)
        _check_classes(student, teacher, self.teaching)
        self.token = fitting_token(student, token)
        self.learns_from: Form = "labels" if self.teaching.logits == "hard" else "logits"
        if self.heads_without_scale:
            head_modules(student)  # which refuses a student whose last layer is not known
        if self.teaching.alpha == 0 and not self.learns_features:
            raise UserError(NOTHING_TAUGHT)

    @property
    def filled_settings(self) -> dict[str, Any]:
        """The settings with what was left open filled in, by their names in ``distill``."""
        return {**vars(self.teaching), "token": self.token}

    @property
    def heads_without_scale(self) -> tuple[str, ...]:
        """The heads whose logits get no scale from the loss."""
        if not self.teaching.leaves_scale_open:
            return ()
        if not self.teaching.uses_labels:
            return HEADS if self.token == "distillation" else HEADS[:1]
        return HEADS[1:] if self.token == "distillation" else ()

    def forward(self, images: Images, targets: Targets, views: Views = None) -> Terms:
        """The loss and its terms without their weights (nats), and ``teacher_agreement``.

        ``class`` is the class head's on the labels, ``distillation`` the teacher's. Without labels
        a student of two heads has ``class_distillation``, the teacher's of the class head.
        """
        outputs = self.student(images)
        return self._learned(outputs, targets, self.teacher(images, views=views).logits)

    def _learned(self, outputs: Any, targets: Targets, teacher_logits: Tensor) -> Terms:
        """The terms of what the student's heads gave."""
        rule = self.teaching
        class_logits, dist_logits = outputs if self.token == "distillation" else (outputs, outputs)
        dist_term = rule.term(dist_logits, teacher_logits)
        if rule.uses_labels:
            class_term = cross_entropy(class_logits, targets)
            terms = {"class": class_term, "distillation": dist_term}
            loss = rule.class_weight * class_term + rule.alpha * dist_term
        elif self.token == "distillation":
            class_term = rule.term(class_logits, teacher_logits)
            terms = {"class_distillation": class_term, "distillation": dist_term}
            loss = (class_term + dist_term) / 2
        else:
            terms = {"distillation": dist_term}
            loss = dist_term
        if rule.alpha == 0:  # in the graph for DDP's sake, and no loss of anything
            del terms["distillation"]
        return _terms(loss, terms, _agreement(dist_logits, teacher_logits))


class DearKD(Distillation):
    """DearKD's first stage: what ``Distillation`` learns, and hidden_weight * L_hidden besides.

    The paper's is CE(class, y) / 2 + CE(distillation, y_t) / 2 + lambda L_hidden. L_hidden is
    summed over ``pairs``, or those of ``pair_preset``: ``last`` (default) pairs the last MHCA block
    with the teacher stage whose grid is nearest to that of the tokens (``default_pair``);
    ``early-middle-late`` has three pairs (``spread_pairs``). A preset brings its own weight and
    form of the aligner, which the other settings override (:class:`AlignerForm`).

    Source:
        Chen et al. 2022, https://arxiv.org/abs/2204.12997, early distillation; Li et al. 2022,
        https://arxiv.org/abs/2207.10026, several pairs.

    Departure:
        ``hidden_weight`` (its lambda) is not given in the paper; 1 is ours, to be tuned.

    Raises:
        UserError: As ``Distillation``, and if a pair names a block or stage that is not there, the
            weight is negative, or a setting has no effect.
    """

    learns_features = True

    def __init__(
        self,
        student: nn.Module,
        teacher: Teacher,
        pairs: Sequence[PairLike] = (),
        hidden_weight: float | None = None,
        logits: Logits = "hard",
        class_weight: float | None = None,
        alpha: float | None = None,
        temperature: float | None = None,
        token: Token | None = None,
        pair_preset: PairPreset | None = None,
        aligner: AlignerKind | None = None,
        aligner_norm: bool | None = None,
        aligner_relu: bool | None = None,
        target_scale: TargetScale | None = None,
    ) -> None:
        super().__init__(student, teacher, logits, class_weight, alpha, temperature, token)
        preset = PRESETS[pair_preset or "last"]
        self.hidden_weight = preset.weight if hidden_weight is None else hidden_weight
        if self.hidden_weight < 0:
            raise UserError(f"hidden_weight must be at least 0, got {hidden_weight}")
        given: dict[str, Any] = {
            "aligner": aligner,
            "aligner_norm": aligner_norm,
            "aligner_relu": aligner_relu,
            "target_scale": target_scale,
        }
        if self.hidden_weight == 0:
            self._refuse_idle({"pairs": pairs or None, "pair_preset": pair_preset, **given})
        self.form = preset.form.changed(given)
        self.pairs = chosen_pairs(student, teacher, pairs, pair_preset)
        self.pair_preset = None if pairs else pair_preset or "last"
        self.blocks = sorted({pair.block for pair in self.pairs})
        self.stages = tuple(sorted({pair.stage for pair in self.pairs}))
        in_dim = student.num_features
        assert isinstance(in_dim, int)
        self.aligners = nn.ModuleList(
            Aligner(in_dim, teacher.stage(pair.stage).channels, bool(pair.nonnegative), self.form)
            for pair in self.pairs
        )

    @property
    def filled_settings(self) -> dict[str, Any]:
        """The settings with what was left open filled in, by their names in ``distill``."""
        filled = {**super().filled_settings, "hidden_weight": self.hidden_weight}
        if self.hidden_weight == 0:
            return filled
        return {**filled, "pair_preset": self.pair_preset, **vars(self.form)}

    def measure_targets(self, batches: Iterable[Images]) -> None:
        """Stores the scale of the targets, measured on these images, where it is one a stage."""
        if self.form.target_scale != "stage" or self.hidden_weight == 0:
            return
        found = [
            [moments(maps) for maps in self.teacher(images, self.stages).features]
            for images in batches
        ]
        by_stage = dict(zip(self.stages, zip(*found, strict=True), strict=True))
        for aligner, pair in zip(self.aligners, self.pairs, strict=True):
            assert isinstance(aligner, Aligner)
            aligner.measure(by_stage[pair.stage])

    def forward(self, images: Images, targets: Targets, views: Views = None) -> Terms:
        """The terms of ``Distillation`` and ``hidden``.

        Several pairs have a term ``hidden_<i>`` each besides.
        """
        outputs, student_maps = self._student_forward(images)
        teacher = self.teacher(images, self.stages, views)
        teacher_maps = dict(zip(self.stages, teacher.features, strict=True))
        terms = self._learned(outputs, targets, teacher.logits)
        hidden = [
            self._hidden(aligner, student_maps[pair.block], teacher_maps[pair.stage])
            for aligner, pair in zip(self.aligners, self.pairs, strict=True)
        ]
        total = sum(hidden[1:], start=hidden[0])
        if len(hidden) > 1:
            terms |= {f"hidden_{i}": term.detach() for i, term in enumerate(hidden)}
        terms["hidden"] = total.detach()
        terms["loss"] = terms["loss"] + self.hidden_weight * total
        return terms

    def _student_forward(self, images: Images) -> tuple[Any, dict[int, Tensor]]:
        """The logits of the student's heads, and the map of each tapped block, of one forward."""
        student: Any = self.student
        tokens, maps = student.forward_intermediates(
            images, indices=self.blocks, norm=False, output_fmt="NCHW", intermediates_only=False
        )
        return student.forward_head(tokens), dict(zip(self.blocks, maps, strict=True))

    def _hidden(
        self, aligner: nn.Module, student_map: Tensor, teacher_map: Tensor
    ) -> Float[Tensor, ""]:
        assert isinstance(aligner, Aligner)
        aligned = aligner(student_map, tuple(teacher_map.shape[-2:]))
        return hidden_loss(aligned, aligner.target(teacher_map, student_map))

    def _refuse_idle(self, given: dict[str, Any]) -> None:
        """Refuses what shapes the hidden loss where that has no weight."""
        if self.teaching.alpha == 0:
            raise UserError(NOTHING_TAUGHT)
        for name, value in given.items():
            if value is not None:
                raise UserError(
                    f"distill.{name} has no effect with distill.hidden_weight=0; leave it out"
                )


def _agreement(
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


def _check_classes(student: nn.Module, teacher: Teacher, rule: Teaching) -> None:
    if student.num_classes != teacher.num_classes:
        raise UserError(
            f"student {model_name(student)} has {student.num_classes} classes and the teacher "
            f"{teacher.num_classes}; they must be equal: build the student with "
            f"num_classes={teacher.num_classes}"
        )
    if rule.logits == "standardized" and teacher.num_classes < 3:
        raise UserError(
            f"distill.logits=standardized needs at least 3 classes, got {teacher.num_classes}: of "
            "two logits it keeps the order alone; choose soft or hard"
        )

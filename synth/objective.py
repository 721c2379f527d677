"""The objective of DF-DearKD for a batch of groups: images in, one value for each group out."""

from collections.abc import Callable, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from synth.bn_statistics import frozen
from synth.classifier import Classifier, renormalise
from synth.groups import Group
from synth.guide import Guide
from synth.intra_divergence import Relations, intra_divergence, relations
from synth.objective_settings import ObjectiveConfig
from synth.priors import competition, decision_adversarial, l2, total_variation
from synth.refusal import SynthError
from synth.rounded import RoundedLinear

__all__ = ["Objective", "Targets", "refuse_idle_allowance", "targets_of"]

GRAPHS = 256  # stages times sizes of batches, with room to spare; torch's own limit is 8
TEACHERS_WITH_BN = "resnet50, regnety_160, efficientnet_lite0, mobilenetv3_large_100"


@dataclass(frozen=True, kw_only=True)
class Targets:
    """The classes that a batch of equally large groups is optimised towards; built once a batch."""

    labels: Tensor  # int64 (groups, images)
    pairs: Relations | None  # None: the boundary-preserving terms are off


def targets_of(groups: tuple[Group, ...], config: ObjectiveConfig, device: Any) -> Targets:
    """The targets of a batch of equally large groups, on ``device``."""
    labels = torch.tensor([group.targets for group in groups], device=device)
    return Targets(labels=labels, pairs=relations(labels) if config.intra_divergence else None)


class Objective:
    """min_x CE + a_TV R_TV + a_L2 R_L2 + a_BN R_BN + a_ep L_ep + a_tri L_triplet (+ a_c R_c).

    Works on a frozen copy of the teacher; the teacher itself is left as it is. Convolutions run in
    ``dtype``; statistics, embedding, logits and priors in float32 (float64 with it). In bf16 the
    student's linear layers do too, and its other layers run in float32. ``compile``
    makes one graph for each shape of the batch, about a minute each; ``cuda_graphs`` replays them
    on a GPU without launching kernel by kernel.

    With ``others``, further teachers, CE and R_BN are their sums over all teachers on the same
    images; all else is of the first one.

    Source:
        DF-DearKD (Chen et al. 2022, https://arxiv.org/abs/2204.12997).

    Departure:
        Further teachers (after G-VBSM, Shao et al. 2024, https://arxiv.org/abs/2311.17950), and
        L_adv in :func:`synth.priors.decision_adversarial`.

    Raises:
        SynthError: If a teacher has no BatchNorm2d (and ``allow_no_bn`` is off), teachers differ in
            their number of classes, or a competing student is missing or has other classes.
    """

    def __init__(
        self,
        teacher: Classifier,
        config: ObjectiveConfig,
        *,
        dtype: torch.dtype = torch.float32,
        channels_last: bool = False,
        allow_no_bn: bool = False,
        student: Classifier | None = None,
        compile: bool = False,
        cuda_graphs: bool = False,
        others: tuple[Classifier, ...] = (),
    ) -> None:
        _check_classes(teacher, others)
        self.teacher, self.student, self.config = teacher, student, config
        self.rival: Any = None if student is None else frozen(student.network)
        self.bn_weight = config.bn_weight  # auto_weights may change it
        self.dtype = dtype
        self.guides = [Guide(one, teacher, dtype, channels_last) for one in (teacher, *others)]
        self.memory_format, self.exact = self.guides[0].memory_format, self.guides[0].exact
        _check_recorders(self.guides, config, allow_no_bn)
        found = [guide.recorder for guide in self.guides]
        self.recorders = [recorder for recorder in found if recorder is not None]
        self._check_student()
        # The weights stay outside the graph: they may change between steps.
        self._graph: Any = self._terms
        self.cuda_graphs = cuda_graphs
        if compile:
            _allow_graphs()
            mode = "reduce-overhead" if cuda_graphs else None
            self._graph = torch.compile(self._terms, dynamic=False, fullgraph=True, mode=mode)

    def __call__(
        self, images: Tensor, targets: Targets, *, ep_factor: float = 1.0
    ) -> dict[str, Tensor]:
        """Each unweighted term and the weighted sum ``objective``, one value a group.

        ``images`` are normalised for the teacher, group after group, shape
        (groups * images, channels, height, width).
        """
        if self.cuda_graphs:
            mark: Callable[[], None] = torch.compiler.cudagraph_mark_step_begin
            mark()  # the last step's terms may be overwritten
        terms: dict[str, Tensor] = self._graph(images, targets)
        weighted = self.weighted(terms, ep_factor)
        return terms | {"objective": torch.stack(list(weighted.values())).sum(dim=0)}

    def _terms(self, images: Tensor, targets: Targets) -> dict[str, Tensor]:
        groups = len(targets.labels)
        (embedding, logits), *others = [guide(images, groups) for guide in self.guides]
        labels = targets.labels.flatten()
        entropies = [_cross_entropy(logits, labels, groups)]
        entropies += [_cross_entropy(theirs, labels, groups) for _, theirs in others]
        terms = {
            "cross_entropy": _sum(entropies),
            "total_variation": _mean(total_variation(images), groups),
            "l2": _mean(l2(images), groups),
        }
        if self.recorders and self.config.bn_weight > 0:
            first, relative = self.config.bn_first_multiplier, self.config.bn_relative
            losses = [recorder.loss(first, relative) for recorder in self.recorders]
            terms["bn_statistics"] = _sum(losses)
        if targets.pairs is not None:
            terms["easy_positive"], terms["triplet"] = intra_divergence(
                embedding.view(groups, -1, embedding.shape[1]),
                targets.pairs,
                self.config.triplet_margin,
            )
        if self.config.student_weight > 0:
            terms |= self._student_terms(images, logits, groups)
        return terms

    def weighted(self, terms: dict[str, Tensor], ep_factor: float = 1.0) -> dict[str, Tensor]:
        """Each term times its weight. ``ep_factor`` in [0, 1] scales ``ep_weight``."""
        config = self.config
        weights = {
            "cross_entropy": config.ce_weight,
            "total_variation": config.tv_weight,
            "l2": config.l2_weight,
            "bn_statistics": self.bn_weight,
            "easy_positive": config.ep_weight * ep_factor,
            "triplet": config.triplet_weight,
            "competition": config.compete_weight,
            "adversary": config.adversary_weight,
        }
        return {name: weights[name] * terms[name] for name in weights if name in terms}

    def _student_terms(self, images: Tensor, logits: Tensor, groups: int) -> dict[str, Tensor]:
        """R_c and L_adv of each group; the student gets the images normalised for it."""
        assert self.student is not None
        theirs = renormalise(images, self.teacher, self.student)
        with RoundedLinear() if self.dtype == torch.bfloat16 else nullcontext():
            answers = self.rival(theirs).to(logits.dtype)
        terms = {}
        if self.config.compete_weight > 0:
            terms["competition"] = _mean(competition(logits, answers), groups)
        if self.config.adversary_weight > 0:
            terms["adversary"] = _mean(decision_adversarial(logits, answers), groups)
        return terms

    def _check_student(self) -> None:
        if self.config.student_weight > 0 and self.student is None:
            name = "compete_weight" if self.config.compete_weight else "adversary_weight"
            raise SynthError(
                f"{name} {getattr(self.config, name)} needs a student to compete with; "
                "give one or set it to 0"
            )
        if self.student is not None:
            if self.config.student_weight == 0:
                raise SynthError(
                    f"student {self.student.name} has no effect with compete_weight and "
                    "adversary_weight 0; leave it out, or set one of them above 0"
                )
            if self.student.num_classes != self.teacher.num_classes:
                raise SynthError(
                    f"the student has {self.student.num_classes} classes, the teacher "
                    f"{self.teacher.num_classes}; competition needs the same classes"
                )


def refuse_idle_allowance(allow_no_bn: bool, teachers: Sequence[Classifier]) -> None:
    """Refuse ``allow_no_bn`` where every teacher has BatchNorm2d.

    Runs that were begun before it was refused go on with it.

    Raises:
        SynthError: Naming the teachers.
    """
    layers = [[*teacher.network.modules()] for teacher in teachers]
    if allow_no_bn and all(any(isinstance(m, nn.BatchNorm2d) for m in own) for own in layers):
        names = ", ".join(teacher.name for teacher in teachers)
        raise SynthError(f"allow_no_bn has no effect: {names} has BatchNorm2d; leave it out")


def _check_classes(teacher: Classifier, others: tuple[Classifier, ...]) -> None:
    for other in others:
        if other.num_classes != teacher.num_classes:
            raise SynthError(
                f"teacher {other.name} has {other.num_classes} classes, teacher {teacher.name} has "
                f"{teacher.num_classes}; teachers must know the same ones"
            )


def _check_recorders(guides: list[Guide], config: ObjectiveConfig, allow_no_bn: bool) -> None:
    without = [guide.teacher.name for guide in guides if guide.recorder is None]
    if not without:
        return
    if config.auto_weights:
        raise SynthError(
            f"auto_weights tunes bn_weight, but {without[0]} has no BatchNorm2d; leave it out"
        )
    if not allow_no_bn:
        raise SynthError(
            f"{without[0]} has no BatchNorm2d, whose statistics guide synthesis; use one "
            f"of {TEACHERS_WITH_BN}, or allow_no_bn to go on with the priors alone"
        )


def _allow_graphs() -> None:
    """Let torch.compile keep a graph for every shape of a batch: past its limit it raises."""
    config = torch._dynamo.config
    config.recompile_limit = max(config.recompile_limit, GRAPHS)


def _cross_entropy(logits: Tensor, labels: Tensor, groups: int) -> Tensor:
    return _mean(F.cross_entropy(logits, labels, reduction="none"), groups)


def _sum(values: list[Tensor]) -> Tensor:
    """The sum over the teachers; of one teacher its own value, to the bit."""
    return sum(values[1:], values[0])


def _mean(values: Tensor, groups: int) -> Tensor:
    """The mean over the images of each group, from one value an image."""
    return values.view(groups, -1).mean(dim=1)

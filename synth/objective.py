"""The objective of DF-DearKD for a batch of groups: images in, one value for each group out."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from synth.bn_statistics import frozen, with_statistics
from synth.classifier import Classifier, renormalise
from synth.groups import Group
from synth.intra_divergence import Relations, intra_divergence, relations
from synth.priors import competition, l2, total_variation
from synth.refusal import SynthError
from synth.settings import ObjectiveConfig

__all__ = ["Objective", "Targets", "targets_of"]

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
    ``dtype``; statistics, embedding, logits and priors in float32 (float64 with it). ``compile``
    makes one graph for each shape of the batch, about a minute each; ``cuda_graphs`` replays them
    on a GPU without launching kernel by kernel.

    Source:
        DF-DearKD (Chen et al. 2022, https://arxiv.org/abs/2204.12997).

    Raises:
        SynthError: If the teacher has no BatchNorm2d (and ``allow_no_bn`` is off), or a competing
            student is missing, or has other classes.
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
    ) -> None:
        self.teacher, self.student, self.config = teacher, student, config
        self.rival: Any = None if student is None else frozen(student.network)
        self.bn_weight = config.bn_weight  # auto_weights may change it
        self.dtype = dtype
        self.memory_format = torch.channels_last if channels_last else torch.contiguous_format
        network, self.recorder = with_statistics(teacher.network, dtype)
        self.network: Any = network.to(memory_format=self.memory_format)
        self.exact = torch.float64 if dtype == torch.float64 else torch.float32
        if self.recorder is None and config.auto_weights:
            raise SynthError(
                f"auto_weights tunes bn_weight, but {teacher.name} has no BatchNorm2d; leave it out"
            )
        if self.recorder is None and not allow_no_bn:
            raise SynthError(
                f"{teacher.name} has no BatchNorm2d, whose statistics guide synthesis; use one of "
                f"{TEACHERS_WITH_BN}, or allow_no_bn to go on with the priors alone"
            )
        self.classifier = frozen(teacher.last_layer()).to(self.exact)  # not by way of bf16
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
        embedding, logits = self._forward(images, groups)
        labels = targets.labels.flatten()
        terms = {
            "cross_entropy": _mean(F.cross_entropy(logits, labels, reduction="none"), groups),
            "total_variation": _mean(total_variation(images), groups),
            "l2": _mean(l2(images), groups),
        }
        if self.recorder is not None and self.config.bn_weight > 0:
            terms["bn_statistics"] = self.recorder.loss(
                self.config.bn_first_multiplier, self.config.bn_relative
            )
        if targets.pairs is not None:
            terms["easy_positive"], terms["triplet"] = intra_divergence(
                embedding.view(groups, -1, embedding.shape[1]),
                targets.pairs,
                self.config.triplet_margin,
            )
        if self.config.compete_weight > 0:
            terms["competition"] = _mean(self._competition(images, logits), groups)
        return terms

    def weighted(self, terms: dict[str, Tensor], ep_factor: float = 1.0) -> dict[str, Tensor]:
        """Each term times its weight. ``ep_factor`` in [0, 1] scales ``ep_weight``."""
        config = self.config
        weights = {
            "cross_entropy": 1.0,
            "total_variation": config.tv_weight,
            "l2": config.l2_weight,
            "bn_statistics": self.bn_weight,
            "easy_positive": config.ep_weight * ep_factor,
            "triplet": config.triplet_weight,
            "competition": config.compete_weight,
        }
        return {name: weights[name] * terms[name] for name in weights if name in terms}

    def _forward(self, images: Tensor, groups: int) -> tuple[Tensor, Tensor]:
        """Embedding (batch, dim) and logits (batch, classes); the recorder sees the statistics."""
        if self.recorder is not None:
            self.recorder.start(groups)
        inputs = images.to(self.dtype).contiguous(memory_format=self.memory_format)
        features = self.network.forward_features(inputs)
        embedding = self.network.forward_head(features, pre_logits=True).to(self.exact)
        return embedding, self.classifier(embedding)

    def _competition(self, images: Tensor, logits: Tensor) -> Tensor:
        """R_c of each image, of which the student gets a view normalised for it."""
        assert self.student is not None
        theirs = renormalise(images, self.teacher, self.student)
        return competition(logits, self.rival(theirs).to(logits.dtype))

    def _check_student(self) -> None:
        if self.config.compete_weight > 0 and self.student is None:
            raise SynthError(
                f"compete_weight {self.config.compete_weight} needs a student to compete with; "
                "give one or set it to 0"
            )
        if self.student is not None:
            if self.config.compete_weight == 0:
                raise SynthError("a competing student has no effect with compete_weight 0")
            if self.student.num_classes != self.teacher.num_classes:
                raise SynthError(
                    f"the student has {self.student.num_classes} classes, the teacher "
                    f"{self.teacher.num_classes}; competition needs the same classes"
                )


def _allow_graphs() -> None:
    """Let torch.compile keep a graph for every shape of a batch: past its limit it raises."""
    config = torch._dynamo.config
    config.recompile_limit = max(config.recompile_limit, GRAPHS)


def _mean(values: Tensor, groups: int) -> Tensor:
    """The mean over the images of each group, from one value an image."""
    return values.view(groups, -1).mean(dim=1)

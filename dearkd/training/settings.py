"""The configuration of what a student learns, by which optimizer, and where its first stage ends.

What of it is a choice between words has the words of `dearkd.teaching` and `dearkd.models`, which
can't be imported here: they load torch, and a mistake in a configuration is told without it.
"""

import math
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from dearkd.config_file import check_range
from dearkd.errors import UserError

__all__ = [
    "DistillConfig",
    "MemoryFormat",
    "OptimConfig",
    "Pair",
    "Precision",
    "SwitchConfig",
    "TeacherConfig",
]

OptimizerName = Literal["adamw", "sgd", "muon"]
Precision = Literal["auto", "fp32", "bf16", "mixed", "fastest"]
MemoryFormat = Literal["auto", "contiguous", "channels_last", "fastest"]
Logits = Literal["hard", "soft", "standardized"]
Token = Literal["distillation", "class"]
PairPreset = Literal["last", "early-middle-late"]
AlignerKind = Literal["paper", "pointwise"]
TargetScale = Literal["position", "stage", "none"]

MIN_LR = 1e-5


@dataclass(frozen=True, kw_only=True)
class TeacherConfig:
    """The network the student learns from."""

    name: str | None = None
    """timm name or the folder of a ``dearkd teacher`` run. None: the embedded one (digits only)."""
    weights: str | None = None
    """Local weights: safetensors, or a ``.pth`` state dict (never unpickled)."""
    precision: Precision = "auto"
    """Arithmetic of its forward pass. auto: by the device (`dearkd.training.arithmetic`); fastest:
    measured once, so that two runs may differ."""
    memory_format: MemoryFormat = "auto"
    """Layout of its weights and images; auto and fastest as for ``precision``."""

    @property
    def weights_file(self) -> Path | None:
        """``weights`` as a path."""
        return None if self.weights is None else Path(self.weights)


@dataclass(frozen=True, kw_only=True)
class Pair:
    """One aligner: the output of a student block and the teacher stage it must predict."""

    block: int
    """Student block, counted from 0."""
    stage: int
    """Teacher feature index, as ``forward_intermediates`` counts."""
    nonnegative: bool | None = None
    """Whether the stage ends in a ReLU. None: read from the network."""


@dataclass(frozen=True, kw_only=True)
class DistillConfig:
    """What the student learns from the teacher, and how much each loss weighs.

    The loss is class_weight * CE(class head, labels) + alpha * L_teacher(distillation head) +
    hidden_weight * L_hidden. None: the method's own (`dearkd.teaching`, `dearkd.models.aligner`),
    written down in the run folder.
    """

    logits: Logits | None = None
    """What the teacher says: ``hard``, its decision (dearkd, deit-hard); ``soft``, its softmax at a
    temperature (deit-soft); ``standardized``, the same of logits brought to mean 0 and deviation 1
    over the classes of an image (three at least)."""
    class_weight: float | None = None
    """Weight of the labels, in [0, 1]. None: 1 - alpha. 0: the labels are not used, and both heads
    learn from the teacher."""
    alpha: float | None = None
    """Weight of the teacher's logits, in [0, 1]. None: 1 - class_weight where that is set, else 0.5
    for hard (DeiT eq. 3), 0.1 for soft (DeiT section 5) and 0.9 for standardized."""
    temperature: float | None = None
    """Softening of both predictions. None: 3 for soft labels (DeiT section 5), 4 for these alone
    (class_weight 0; ours), 2 for standardized ones; none for hard."""
    token: Token | None = None
    """Which token learns from the teacher. None: the distillation token where the student has one,
    else the class token, which then learns from labels and teacher."""
    hidden_weight: float | None = None
    """lambda of L_hidden, of dearkd alone. None: that of the pair preset, 1 or 2.5, and 50 for the
    three pairs of ``--recipe best``. Departure: the paper gives no value."""
    pairs: list[Pair] = field(default_factory=list)
    """Aligned pairs, by hand. Empty: those of ``pair_preset``."""
    pair_preset: PairPreset | None = None
    """``last`` (None): the last MHCA block and the teacher stage on the nearest grid.
    ``early-middle-late``: the first, middle and last block with three stages (Locality Guidance),
    with a pointwise aligner on raw features, without norm and ReLU, and a weight of 2.5, unless
    other settings say so."""
    aligner: AlignerKind | None = None
    """``paper``: 1x1 and 3x3 depth-wise convolution on the teacher's grid. ``pointwise``: a 1x1
    convolution on the larger of the two grids. None: the preset's."""
    aligner_norm: bool | None = None
    """A LayerNorm at the aligner's end. None: the preset's, and none where ``target_scale`` is not
    ``position``: it gives every position one norm, which such targets do not have."""
    aligner_relu: bool | None = None
    """A ReLU at the aligner's end. None: the preset's; the paper's has one where the stage has."""
    target_scale: TargetScale | None = None
    """What the teacher's features are divided by: ``position``, the RMS of each position;
    ``stage``, one number a stage, measured before training; ``none``. None: the preset's
    (position)."""

    def __post_init__(self) -> None:
        for name, low, high in (("hidden_weight", 0, 1e6), ("alpha", 0, 1), ("class_weight", 0, 1)):
            if (value := getattr(self, name)) is not None:
                check_range(f"distill.{name}", value, low, high)
        if self.temperature is not None:
            check_range("distill.temperature", self.temperature, 0, 1e6, open_low=True)


@dataclass(frozen=True, kw_only=True)
class OptimConfig:
    """The optimizer and one cosine over the whole run."""

    name: OptimizerName = "adamw"
    """adamw; sgd: Nesterov's, with weight decay in the gradient; muon: timm's, which takes steps
    of AdamW's size in matrices and convolutions, and NAdamW for the last layer and the rest."""
    lr: float | None = None
    """Peak learning rate. None: for large images 5e-4 * batch_size / 512, below 512 by the square
    root of that share; 1e-3 for small ones (Departure); twice that with ``muon``; ``sgd`` must be
    told."""
    min_lr: float = MIN_LR
    """Learning rate at the end of the cosine; never above the peak."""
    warmup_epochs: float | None = None
    """Linear warm-up, shorter than the run. None: 5, or a tenth of a run below 50 epochs."""
    weight_decay: float | None = None
    """Of matrices and convolutions. None: 0.05, or 5e-4 with ``sgd``."""
    momentum: float | None = None
    """Of ``sgd`` (None: 0.9) and ``muon`` (None: 0.95)."""
    clip_grad: float | None = None
    """Largest gradient norm; None: no clipping."""
    drop_path: float | None = None
    """Stochastic depth. None: 0.1 for a ViT on large images, else 0."""
    ema_decay: float | None = None
    """Constant decay a step of a moving average of the weights (DeiT: 0.99996), which is evaluated
    and saved in place of the last weights. None: no average."""

    def __post_init__(self) -> None:
        self._check_optimizer()
        if self.lr is not None:
            check_range("optim.lr", self.lr, 0, 10, open_low=True)
        check_range("optim.min_lr", self.min_lr, 0, 10)
        if self.lr is not None and MIN_LR != self.min_lr > self.lr:
            raise UserError(f"optim.min_lr must be at most optim.lr ({self.lr}), got {self.min_lr}")
        if self.weight_decay is not None:
            check_range("optim.weight_decay", self.weight_decay, 0, 10)
        if self.warmup_epochs is not None:
            check_range("optim.warmup_epochs", self.warmup_epochs, 0, 100_000)
        if self.clip_grad is not None:
            check_range("optim.clip_grad", self.clip_grad, 0, 1e6, open_low=True)
        if self.drop_path is not None:
            check_range("optim.drop_path", self.drop_path, 0, 0.99)
        if self.ema_decay is not None:
            check_range("optim.ema_decay", self.ema_decay, 0, 0.9999999, open_low=True)

    def _check_optimizer(self) -> None:
        if self.name == "sgd" and self.lr is None:
            raise UserError("optim.name=sgd has no default learning rate; set optim.lr, e.g. 0.1")
        if self.momentum is None:
            return
        if self.name == "adamw":
            raise UserError(
                f"optim.momentum={self.momentum} has no effect with optim.name=adamw; leave it "
                "out, or choose optim.name=sgd or muon"
            )
        check_range("optim.momentum", self.momentum, 0, 0.9999, open_low=True)


@dataclass(frozen=True, kw_only=True)
class SwitchConfig:
    """Where ``stage1: auto`` ends stage 1 (`dearkd.training.switch` has the rule).

    Departure:
        The paper's stages have fixed lengths. The rule is ours, after Adaptive Locality Guidance,
        and so are its numbers.
    """

    epochs: int | None = None
    """Length of the whole run, with ``stage1: auto`` alone. Stage 2 takes what stage 1 leaves."""
    fall: float = 0.02
    """Stage 1 ends when its hidden loss fell by less than this share over a tenth of ``epochs``."""
    least: float = 0.3
    """Share of ``epochs`` that stage 1 has at least; at most it leaves ``stage2`` epochs."""

    def __post_init__(self) -> None:
        if self.epochs is not None:
            check_range("switch.epochs", self.epochs, 1, 1_000_000)
        check_range("switch.fall", self.fall, 0, 1)
        check_range("switch.least", self.least, 0, 1)

    @property
    def window(self) -> int:
        """Epochs in a tenth of the run, and at least one."""
        return max(1, round((self.epochs or 0) / 10))

    @property
    def earliest(self) -> int:
        """Epochs after which stage 1 may end: two windows tell a fall."""
        return max(math.ceil(round(self.least * (self.epochs or 0), 6)), 2 * self.window)

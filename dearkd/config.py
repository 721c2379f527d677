"""The configuration of a training run: frozen dataclasses, read from YAML and ``--set a.b=c``.

Fields that are ``None`` mean "choose for this data"; ``dearkd.training.recipe`` fills them in and
the run folder's ``config.yaml`` records what was chosen. The recipe is DeiT's (Touvron et al.,
https://arxiv.org/abs/2012.12877, table 9) and DearKD's (Chen et al.,
https://arxiv.org/abs/2204.12997) unless a line says ``Departure``.
"""

import dataclasses
import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from omegaconf import DictConfig

from dearkd.config_file import complete, user_tree
from dearkd.errors import UserError

__all__ = [
    "DataConfig",
    "DistillConfig",
    "OptimConfig",
    "Pair",
    "SwitchConfig",
    "TeacherConfig",
    "TrainConfig",
    "WITHOUT_EFFECT",
    "load_config",
    "train_config",
]

OptimizerName = Literal["adamw", "sgd", "muon"]
Precision = Literal["auto", "fp32", "bf16", "mixed", "fastest"]
Labels = Literal["auto", "none"]
Shuffle = Literal["auto", "images", "shards"]
Place = Literal["auto", "cpu", "device"]
MemoryFormat = Literal["auto", "contiguous", "channels_last", "fastest"]
Logits = Literal["hard", "soft", "standardized"]
Token = Literal["distillation", "class"]
PairPreset = Literal["last", "early-middle-late"]
AlignerKind = Literal["paper", "pointwise"]
TargetScale = Literal["position", "stage", "none"]

MIN_LR = 1e-5
WITHOUT_EFFECT = (
    *("seed", "out", "trackers", "checkpoint_minutes", "data.workers"),
    "cache_labels",  # it changes none with labels, and less than rounding does with logits
)
"""The seed, and settings that have no effect on the trained weights."""
STAGE2 = 10
"""Epochs of the second stage where none are named."""
FORMER_DISTILL: dict[str, Any] = {
    "hidden_weight": 1.0,
    "pairs": [],
    "temperature": 3.0,
    "alpha": 0.1,
    "token": "distillation",
}
"""The fields of ``distill`` before there was ``distill.logits``, and their defaults."""


@dataclass(frozen=True, kw_only=True)
class DataConfig:
    """Images to train on and how a view of one is drawn."""

    train: str = "digits"
    """Image folder (class folders, or pictures without labels), parquet files, WebDataset tars
    (file, folder, or a pattern such as ``train-{000..146}.tar``), timm data set name, or ``digits``
    (embedded)."""
    labels: Labels = "auto"
    """none: the images are trained on without labels, whatever lies beside them; they are not even
    read. auto: those that are there; pictures that lie in a folder, none of them in a class folder,
    have none."""
    evaluation: str | None = None
    """Where to evaluate; None: the training set's own val/test split, if it has one."""
    validation: float | None = None
    """Evaluate on images cut from the training set, which no run with this setting trains on: so
    many, or that share of all if below 1; classes in proportion, the same ones whatever the seed.
    None: no such split."""
    fraction: float = 1.0
    """Share of each class that is kept: the same images whatever the seed, for paired runs. Of a
    set with a validation split, of what that leaves."""
    keep_steps: bool = False
    """With ``fraction`` < 1: as many steps an epoch as the whole set would give."""
    img_size: int | None = None
    """Pixels a side. None: the student's own size; where none is named, the one a teacher from a
    run folder was trained at, else 32 or 224 as the images are (16 for the 8 x 8 digits)."""
    batch_size: int | None = None
    """Views an optimizer step, over all processes; even. None: 1024 for large images, 128 for
    small ones and 32 for digits, or what an epoch has if that is less."""
    micro_batch: int | None = None
    """Views a forward pass on one process; None: the batch in one pass."""
    augment: Literal["auto", "deit", "light", "digits", "none"] = "auto"
    """Views: DeiT's recipe (auto for large images), pad-crop and flip for small ones, shifts
    for digits."""
    flip: bool | None = None
    """Mirror every other view (``deit`` and ``light``; the others never do): not for digits, text
    and the like. None: yes, but for a synthetic set that was made without."""
    mixup: float | None = None
    """Beta parameter of mixup, 0 = off. None: 0.8 with ``deit``, else 0."""
    cutmix: float | None = None
    """Beta parameter of cutmix, 0 = off. None: 1.0 with ``deit``, else 0."""
    smoothing: float = 0.1
    """Label smoothing in [0, 1); the teacher's labels are not smoothed."""
    repeats: int | None = None
    """Repeated augmentation: views of one image an epoch. None: 3 with ``deit``, else 1."""
    shuffle: Shuffle = "auto"
    """Order of an epoch: all images at random, or few tar files or parquet row groups at a time,
    as suits slow disks and networks. auto: ``shards`` for parquet files of more than 256 MiB,
    where each image would cost a row group, else ``images``."""
    views: Place = "auto"
    """Where views that begin with a random crop are made: by the loader processes, or by these and
    kornia on the device. auto: on a CUDA device, else on the CPU."""
    workers: int | None = None
    """Loader processes. None: one a core on a GPU machine, 0 for small images on a CPU."""
    on_bad_image: Literal["skip", "fail"] = "skip"
    """An image that can't be read: name it and take another, or stop."""

    def __post_init__(self) -> None:
        _between("data.fraction", self.fraction, 0, 1, open_low=True)
        _between("data.smoothing", self.smoothing, 0, 0.999)
        if self.validation is not None:
            _between("data.validation", self.validation, 0, 1e9, open_low=True)
            if self.validation >= 1 and self.validation % 1:
                raise UserError(
                    "data.validation must be a share below 1 or a whole number of images, got "
                    f"{self.validation}"
                )
        for name in ("img_size", "batch_size", "micro_batch", "repeats"):
            if (value := getattr(self, name)) is not None:
                _between(f"data.{name}", value, 1, 100_000)
        for name in ("mixup", "cutmix", "workers"):
            if (value := getattr(self, name)) is not None:
                _between(f"data.{name}", value, 0, 1000)


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
    """lambda of L_hidden, of dearkd alone. None: that of the pair preset, 1 or 2.5. Departure: the
    paper gives no value."""
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
                _between(f"distill.{name}", value, low, high)
        if self.temperature is not None:
            _between("distill.temperature", self.temperature, 0, 1e6, open_low=True)


@dataclass(frozen=True, kw_only=True)
class OptimConfig:
    """The optimizer and one cosine over the whole run."""

    name: OptimizerName = "adamw"
    """adamw; sgd: Nesterov's, with weight decay in the gradient; muon: timm's, which takes steps
    of AdamW's size in matrices and convolutions, and NAdamW for the last layer and the rest."""
    lr: float | None = None
    """Peak learning rate. None: 5e-4 * batch_size / 512 for large images, 1e-3 for small
    ones (Departure); ``sgd`` and ``muon`` must be told."""
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
            _between("optim.lr", self.lr, 0, 10, open_low=True)
        _between("optim.min_lr", self.min_lr, 0, 10)
        if self.lr is not None and MIN_LR != self.min_lr > self.lr:
            raise UserError(f"optim.min_lr must be at most optim.lr ({self.lr}), got {self.min_lr}")
        if self.weight_decay is not None:
            _between("optim.weight_decay", self.weight_decay, 0, 10)
        if self.warmup_epochs is not None:
            _between("optim.warmup_epochs", self.warmup_epochs, 0, 100_000)
        if self.clip_grad is not None:
            _between("optim.clip_grad", self.clip_grad, 0, 1e6, open_low=True)
        if self.drop_path is not None:
            _between("optim.drop_path", self.drop_path, 0, 0.99)
        if self.ema_decay is not None:
            _between("optim.ema_decay", self.ema_decay, 0, 0.9999999, open_low=True)

    def _check_optimizer(self) -> None:
        if self.name != "adamw" and self.lr is None:
            raise UserError(
                f"optim.name={self.name} has no default learning rate; set optim.lr, e.g. "
                f"{0.1 if self.name == 'sgd' else 0.01}"
            )
        if self.momentum is None:
            return
        if self.name == "adamw":
            raise UserError(
                f"optim.momentum={self.momentum} has no effect with optim.name=adamw; leave it "
                "out, or choose optim.name=sgd or muon"
            )
        _between("optim.momentum", self.momentum, 0, 0.9999, open_low=True)


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
            _between("switch.epochs", self.epochs, 1, 1_000_000)
        _between("switch.fall", self.fall, 0, 1)
        _between("switch.least", self.least, 0, 1)

    @property
    def window(self) -> int:
        """Epochs in a tenth of the run, and at least one."""
        return max(1, round((self.epochs or 0) / 10))

    @property
    def earliest(self) -> int:
        """Epochs after which stage 1 may end: two windows tell a fall."""
        return max(math.ceil(round(self.least * (self.epochs or 0), 6)), 2 * self.window)


@dataclass(frozen=True, kw_only=True)
class TrainConfig:
    """One training run."""

    method: str = "dearkd"
    """dearkd, deit-hard, deit-soft, deit (any ``distill.logits``), ce, or one of yours
    (`dearkd.training.methods`)."""
    method_args: dict[str, Any] = field(default_factory=dict)
    """Arguments of a method of your own, besides what ``distill`` has."""
    student: str | None = None
    """timm name. None: ``dearkd_micro_patch4_32`` up to 64 px, else ``dearkd_tiny_patch16_224``.
    ``cnn``: a small CNN for the data's size, as `dearkd teacher` takes."""
    student_args: dict[str, Any] = field(default_factory=dict)
    """Further arguments of the student, e.g. ``mhca_depth``, ``mhca_fusion``, of `dearkd_*`."""
    stage1: int | Literal["auto"] = 40
    """Epochs with the teacher (early distillation). auto: until the hidden loss has all but stopped
    falling (``switch``), in a run of ``switch.epochs``."""
    stage2: int | None = None
    """Epochs on the labels alone; with ``stage1: auto`` at least so many, and all that stage 1
    leaves. Of images without labels the teacher's hard labels take their place. Methods without
    stages run stage1 + stage2 epochs. None: 10, but with stages and without labels 0."""
    switch: SwitchConfig = field(default_factory=SwitchConfig)
    init: str | None = None
    """Weights to start from: a run folder, or a timm name (pretrained)."""
    data: DataConfig = field(default_factory=DataConfig)
    teacher: TeacherConfig = field(default_factory=TeacherConfig)
    distill: DistillConfig = field(default_factory=DistillConfig)
    optim: OptimConfig = field(default_factory=OptimConfig)
    seed: int = 0
    precision: Precision = "auto"
    """Arithmetic of the student's step. auto: by the device (`dearkd.training.arithmetic`);
    fastest: measured once, so that two runs may differ."""
    memory_format: MemoryFormat = "auto"
    """Layout of the student's weights and images; auto and fastest as for ``precision``."""
    compile: bool = False
    """torch.compile the step's forward (student, teacher and losses in one): pays on long GPU runs,
    needs a C++ compiler on a CPU."""
    eval_every: int = 1
    """Epochs between evaluations; the last epoch is always evaluated."""
    checkpoint_minutes: float = 10.0
    """A checkpoint inside an epoch after this many minutes, besides the one at its end."""
    cache_labels: str | None = None
    """Folder in which the teacher's answers to the views are kept: this run reads those that an
    earlier one wrote, of the same data, views and teacher, and adds its own. None: off."""
    out: str | None = None
    """Run folder. None: a fresh one under ``runs/``."""
    imports: tuple[str, ...] = ()
    """Python files run first; they may register models with timm."""
    trackers: tuple[Literal["tensorboard", "wandb"], ...] = ("tensorboard",)

    def __post_init__(self) -> None:
        if self.stage2 is not None:
            _between("stage2", self.stage2, 0, 1_000_000)
        self._check_stage1()
        warmup = self.optim.warmup_epochs
        if warmup is not None and warmup >= self.epochs:
            raise UserError(
                f"optim.warmup_epochs must be below the run's epochs, {self.epochs}, got "
                f"{warmup}; set it, or lengthen the run"
            )
        if self.cache_labels is not None and not self.cache_labels.strip():
            raise UserError("cache_labels must name a folder, got nothing; leave it out for none")
        _between("seed", self.seed, 0, 2**63 - 1)
        _between("eval_every", self.eval_every, 1, 1_000_000)
        _between("checkpoint_minutes", self.checkpoint_minutes, 0, 1e6, open_low=True)

    @property
    def epochs(self) -> int:
        """Length of the whole run in epochs."""
        return sum(self.lengths)

    @property
    def lengths(self) -> tuple[int, int]:
        """Epochs of both stages: with ``stage1: auto`` the most of the first."""
        stage2 = STAGE2 if self.stage2 is None else self.stage2
        if self.stage1 == "auto":
            return (self.switch.epochs or 0) - stage2, stage2
        return self.stage1, stage2

    def _check_stage1(self) -> None:
        """Refuses a run without an epoch, and a rule that has nothing to decide."""
        if self.stage1 != "auto":
            _between("stage1", self.stage1, 0, 1_000_000)
            if self.stage1 == self.stage2 == 0:
                raise UserError("stage1 and stage2 are both 0; a run needs at least 1 epoch")
            for name, value in vars(self.switch).items():
                if value != getattr(SwitchConfig(), name):
                    typed = f"--epochs {value}" if name == "epochs" else f"switch.{name}={value}"
                    raise UserError(
                        f"{typed} has no effect with stage1={self.stage1}: the run has stage1 + "
                        "stage2 epochs; leave it out, or choose --stage1 auto"
                    )
            return
        if self.switch.epochs is None:
            raise UserError("stage1=auto needs the length of the whole run; give it by --epochs N")
        latest, stage2 = self.lengths
        if latest <= self.switch.earliest:
            raise UserError(
                f"stage1=auto has nothing to decide: of {self.switch.epochs} epochs "
                f"stage2={stage2} leaves {max(0, latest)}, and stage 1 must be able to have "
                f"more than {self.switch.earliest} (switch.least={self.switch.least:g}, and two "
                "tenths); give more --epochs, a lower --stage2 or a number for --stage1"
            )


def load_config(
    path: Path | None = None,
    settings: Sequence[str] = (),
    options: dict[str, Any] | None = None,
) -> TrainConfig:
    """The run that a YAML file, then command-line options, then ``a.b=c`` settings describe.

    Raises:
        UserError: Unknown key (with the nearest known one), wrong type or value out of range.
        FileNotFoundError: If ``path`` does not exist.
    """
    tree = user_tree(TrainConfig, path, settings, options)
    _drop_former_defaults(tree)
    return train_config(tree)


def train_config(*layers: DictConfig) -> TrainConfig:
    """The run that has the layers' fields, later layers over earlier ones.

    Raises:
        UserError: Unknown key (with the nearest known one), wrong type or value out of range.
    """
    return _tupled(complete(TrainConfig, *layers))


def _between(name: str, value: float, low: float, high: float, *, open_low: bool = False) -> None:
    inside = (low < value if open_low else low <= value) and value <= high
    if not inside:
        bound = f"{'above' if open_low else 'at least'} {low} and at most {high}"
        raise UserError(f"{name} must be {bound}, got {value}")


def _drop_former_defaults(tree: DictConfig) -> None:
    """Leaves open what a run folder of an older version has of ``distill`` unchosen.

    That version wrote five fields, whatever the method, and some would now have an effect. Where
    they had one, the method's own value is the same.
    """
    distill = tree.get("distill")
    if not isinstance(distill, DictConfig) or set(distill) != set(FORMER_DISTILL):
        return
    for name, value in FORMER_DISTILL.items():
        if distill[name] == value:
            del distill[name]


def _tupled(config: TrainConfig) -> TrainConfig:
    """The same config with OmegaConf's lists as tuples, so that it hashes and compares."""
    return dataclasses.replace(
        config,
        imports=tuple(config.imports),
        trackers=tuple(config.trackers),
    )

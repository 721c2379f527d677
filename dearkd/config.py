"""The configuration of a training run: frozen dataclasses, read from YAML and ``--set a.b=c``.

Its parts lie in the rooms that they are about: `dearkd.data.settings`, `dearkd.training.settings`.
Fields that are ``None`` mean "choose for this data"; ``dearkd.training.recipe`` fills them in and
the run folder's ``config.yaml`` records what was chosen. The recipe is DeiT's (Touvron et al.,
https://arxiv.org/abs/2012.12877, table 9) and DearKD's (Chen et al.,
https://arxiv.org/abs/2204.12997) unless a line says ``Departure``.
"""

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from omegaconf import DictConfig, OmegaConf

from dearkd.config_file import check_range, complete, user_tree
from dearkd.data.settings import DataConfig
from dearkd.errors import UserError
from dearkd.training.named_recipes import Recipe, recipe_settings
from dearkd.training.settings import (
    DistillConfig,
    MemoryFormat,
    OptimConfig,
    Precision,
    SwitchConfig,
    TeacherConfig,
)

__all__ = ["STAGE2", "WITHOUT_EFFECT", "TrainConfig", "load_config", "train_config"]

WITHOUT_EFFECT = (
    *("seed", "out", "trackers", "checkpoint_minutes", "data.workers"),
    "recipe",  # a name of settings that are written down beside it
    "cache_labels",  # it changes none with labels, and less than rounding does with logits
    "compile",  # the same arithmetic, rounded otherwise, as by another machine
)
"""The seed, and settings that change nothing in the trained weights, or no more than rounding."""
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
class TrainConfig:
    """One training run."""

    recipe: Recipe = "paper"
    """Defaults under the settings that are given (`dearkd.training.named_recipes`). paper: none.
    best: what did best in our studies; chosen by itself for a synthetic set if method, stages and
    distillation are left open."""
    method: str = "dearkd"
    """dearkd, deit-hard, deit-soft, deit (any ``distill.logits``), ce, or one of yours
    (`dearkd.training.methods`)."""
    method_args: dict[str, Any] = field(default_factory=dict)
    """Arguments of a method of your own, besides what ``distill`` has."""
    student: str | None = None
    """timm name. None: ``dearkd_mini_patch4_32`` up to 64 px, else ``dearkd_tiny_patch16_224``.
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
    """torch.compile the step (student, teacher, losses), on a GPU replayed as CUDA graphs in a run
    of one stage: pays on long runs, most of all with a small student; needs C++ on a CPU."""
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
            check_range("stage2", self.stage2, 0, 1_000_000)
        self._check_stage1()
        warmup = self.optim.warmup_epochs
        if warmup is not None and warmup >= self.epochs:
            raise UserError(
                f"optim.warmup_epochs must be below the run's epochs, {self.epochs}, got "
                f"{warmup}; set it, or lengthen the run"
            )
        if self.cache_labels is not None and not self.cache_labels.strip():
            raise UserError("cache_labels must name a folder, got nothing; leave it out for none")
        check_range("seed", self.seed, 0, 2**63 - 1)
        check_range("eval_every", self.eval_every, 1, 1_000_000)
        check_range("checkpoint_minutes", self.checkpoint_minutes, 0, 1e6, open_low=True)

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
            check_range("stage1", self.stage1, 0, 1_000_000)
            if self.stage1 == self.stage2 == 0:
                raise UserError("stage1 and stage2 are both 0; a run needs at least 1 epoch")
            for name, value in vars(self.switch).items():
                if value != getattr(SwitchConfig(), name):
                    typed, length = f"switch.{name}={value}", ""
                    if name == "epochs":
                        typed = f"--epochs {value}"
                        length = f", give the length as --stage1 {value} --stage2 0"
                    raise UserError(
                        f"{typed} has no effect with stage1={self.stage1}: the run has stage1 + "
                        f"stage2 epochs; leave it out{length}, or choose --stage1 auto"
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
    given = OmegaConf.merge(*layers)
    assert isinstance(given, DictConfig)
    return _tupled(complete(TrainConfig, recipe_settings(given), given))


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

"""Settings of one synthesis run, frozen and checked before a network is touched."""

from dataclasses import dataclass, field, fields
from typing import Literal

from synth.generator_settings import SIZES, GeneratorConfig
from synth.objective_settings import ObjectiveConfig
from synth.refusal import SynthError, at_least, at_most

__all__ = [
    "MOST_PER_CLASS",
    "STOP_BN_FALL",
    "STOP_WINDOW",
    "ImageFormat",
    "Precision",
    "SynthesisConfig",
]

ImageFormat = Literal["png", "webp", "parquet"]
Precision = Literal["fp32", "bf16"]

STOP_BN_FALL, STOP_WINDOW = 0.1, 100
MOST_PER_CLASS = 1_000_000
"""All images are planned before the first is made: more of them would fill the memory."""
MOST_PIXELS = 8192
"""A side of an image at most: one step takes gigabytes above it."""
MOST_ITERATIONS = 100_000
"""Of a stage at most: the views of all its iterations are drawn before the first."""
MAX_LR = 10
"""Normalised pixels span about 4: a larger step of Adam only overshoots."""
INVERSION_ONLY = (
    "basis",
    "lr",
    "betas",
    "warmup_iterations",
    "groups_per_batch",
    "stop_cross_entropy",
    "objective.auto_weights",
    "objective.ep_warmup_iterations",
)


@dataclass(frozen=True, kw_only=True)
class SynthesisConfig:
    """One whole run: the stages, the groups, the objective.

    Source:
        DF-DearKD for the two stages of 2000 iterations; the public DeepInversion code for the
        optimiser, its schedule, jitter, flip and clipping.

    Raises:
        SynthError: If a value is out of its range, or a setting can have no effect.
    """

    resolutions: tuple[int, ...] = (112, 224)  # pixels a side, one entry a stage
    iterations: tuple[int, ...] = (2000, 2000)  # one entry a stage
    canvas: Literal["upsample", "pooled"] = "upsample"  # pooled: full canvas, average-pooled
    basis: Literal["pixels", "spectrum"] = "pixels"  # normalised; ours: as natural images have it
    lr: float = 0.25  # peak of Adam's rate, in units of the basis; 0.2-0.25 in the public code
    betas: tuple[float, float] = (0.5, 0.9)  # public code
    warmup_iterations: int = 100  # public code; a short stage warms up for a quarter of itself
    jitter_fraction: float = 30 / 224  # of the side, either way: 30 px at 224, 15 at 112, 4 at 32
    flip_probability: float = 0.5  # public code
    smallest_crop: float = 1.0  # views are squares of this share of the side up to 1; 1: no crop
    keep: Literal["final", "best"] = "final"  # best: at each group's lowest objective, last stage

    # Ours, off (synth.early_stop): a group whose cross-entropy is below stop_cross_entropy (0:
    # never) stops once R_BN falls by less than a share stop_bn_fall in stop_window iterations.
    stop_cross_entropy: float = 0.0
    stop_bn_fall: float = STOP_BN_FALL
    stop_window: int = STOP_WINDOW

    classes: tuple[int, ...] | None = None  # teacher indices; None: all of them
    per_class: int = 50  # images
    images_per_class: int = 4  # k: images of one class in a group (ours)
    classes_per_group: int = 10  # c: classes in a group (ours)
    groups_per_batch: int = 1  # groups optimised side by side

    # inversion optimises the images, generator a network that draws them
    engine: Literal["inversion", "generator"] = "inversion"
    generator: GeneratorConfig = field(default_factory=GeneratorConfig)
    objective: ObjectiveConfig = field(default_factory=ObjectiveConfig)
    allow_no_bn: bool = False  # go on with the priors alone if the teacher has no BatchNorm2d
    seed: int = 0
    # auto: by facts of machine, network and work (synth.facts); fastest: by a stopwatch, once
    precision: Literal["auto", "fp32", "bf16", "fastest"] = "auto"
    layout: Literal["auto", "contiguous", "channels_last", "fastest"] = "auto"
    compile: Literal["auto", "always", "never", "fastest"] = "auto"
    image_format: ImageFormat = "png"  # all lossless; parquet: one file of PNGs for each group
    cuda_graphs: bool = True  # a compiled step is replayed as CUDA graphs where there is CUDA
    log_interval: int = 50  # iterations between progress events, device syncs, looks at the stop
    grad_norm_interval: int = 0  # iterations between gradient norms of each term; 0: never

    def __post_init__(self) -> None:
        """Turn lists (as YAML gives them) into tuples and check the ranges."""
        for name in ("resolutions", "iterations", "betas", "classes"):
            value = getattr(self, name)
            if value is not None:
                object.__setattr__(self, name, tuple(value))
        self._check_stages()
        self._check_counts()
        self._check_ranges()
        self._check_grad_norms()
        self._check_early_stop()
        _check_engine(self)
        if self.classes is not None:
            _check_classes(self.classes)

    @property
    def stages(self) -> tuple[tuple[int, int], ...]:
        """The (resolution, iterations) pairs."""
        return tuple(zip(self.resolutions, self.iterations, strict=True))

    def _check_stages(self) -> None:
        if not self.resolutions or len(self.resolutions) != len(self.iterations):
            raise SynthError(
                "resolutions and iterations need one entry a stage, as in 112,224 and 500,500; got "
                f"{list(self.resolutions)} and {list(self.iterations)}"
            )
        for name, floor, bound in (
            ("resolutions", 8, MOST_PIXELS),
            ("iterations", 1, MOST_ITERATIONS),
        ):
            at_least(f"{name} of every stage", min(getattr(self, name)), floor)
            at_most(f"{name} of every stage", max(getattr(self, name)), bound)
        if list(self.resolutions) != sorted(self.resolutions):
            raise SynthError(
                f"resolutions must not fall, got {list(self.resolutions)}; "
                f"write resolutions={sorted(self.resolutions)}"
            )
        final = self.resolutions[-1]
        if self.canvas == "pooled" and len(self.resolutions) == 1:
            raise SynthError("canvas=pooled has no effect with one stage; leave it out")
        if self.canvas == "pooled" and any(final % size for size in self.resolutions):
            raise SynthError(
                f"a pooled canvas needs resolutions that divide the last, {final}, got "
                f"{list(self.resolutions)}; use canvas=upsample"
            )

    def _check_counts(self) -> None:
        at_least("groups_per_batch", self.groups_per_batch, 1)
        # With a boundary-preserving loss 1 is too few as well; plan_groups says why.
        least = 2 if self.objective.intra_divergence else 1
        for name in ("per_class", "images_per_class", "classes_per_group"):
            if getattr(self, name) < 1:
                at_least(name, getattr(self, name), least)
        at_most("per_class", self.per_class, MOST_PER_CLASS)

    def _check_ranges(self) -> None:
        if not 0 < self.lr <= MAX_LR:
            raise SynthError(f"lr must be above 0 and at most {MAX_LR}, got {self.lr}")
        if len(self.betas) != 2 or not all(0 <= beta < 1 for beta in self.betas):
            raise SynthError(f"betas must be two numbers in [0, 1), got {list(self.betas)}")
        for name, high in (("jitter_fraction", 0.5), ("flip_probability", 1.0)):
            if not 0 <= getattr(self, name) <= high:
                raise SynthError(f"{name} must be in 0-{high}, got {getattr(self, name)}")
        if not 0.1 <= self.smallest_crop <= 1:
            raise SynthError(
                f"smallest_crop must be in 0.1-1 of the image's side, got {self.smallest_crop}"
            )
        at_least("log_interval", self.log_interval, 1)
        for name in ("warmup_iterations", "seed"):
            at_least(name, getattr(self, name), 0)

    def _check_grad_norms(self) -> None:
        at_least("grad_norm_interval", self.grad_norm_interval, 0)
        if self.compile == "always" and self.grad_norm_interval:
            raise SynthError("grad_norm_interval needs an uncompiled step; set compile=never")
        if self.grad_norm_interval > max(self.iterations):
            raise SynthError(
                f"grad_norm_interval={self.grad_norm_interval} has no effect in stages of at most "
                f"{max(self.iterations)} iterations; give a number up to that"
            )

    def _check_early_stop(self) -> None:
        at_least("stop_cross_entropy", self.stop_cross_entropy, 0.0)
        at_least("stop_window", self.stop_window, 1)
        if not 0 <= self.stop_bn_fall < 1:
            raise SynthError(f"stop_bn_fall must be in [0, 1), got {self.stop_bn_fall}")
        if not self.stop_cross_entropy:
            for name, value in (("stop_bn_fall", STOP_BN_FALL), ("stop_window", STOP_WINDOW)):
                if getattr(self, name) != value:
                    raise SynthError(
                        f"{name} has no effect without stop_cross_entropy; set stop_cross_entropy "
                        f"above 0, or leave {name} out"
                    )
        elif not self.objective.bn_weight:
            raise SynthError(
                "stop_cross_entropy needs R_BN, and bn_weight is 0; give objective.bn_weight a "
                "value above 0, or leave stop_cross_entropy out"
            )
        elif self.keep == "best":
            raise SynthError("stop_cross_entropy and keep=best exclude each other; leave one out")


def _check_engine(config: SynthesisConfig) -> None:
    """Refuse what the engine can't do, and every setting that has no effect on it.

    Raises:
        SynthError: The message names the setting and the remedy.
    """
    if config.engine == "inversion":
        _refuse_changed(config, [f"generator.{one.name}" for one in fields(GeneratorConfig)])
        return
    _refuse_changed(config, INVERSION_ONLY)
    if config.compile in ("always", "fastest"):
        raise SynthError(
            f"compile={config.compile} has no effect with engine=generator; leave it out"
        )
    sizes, (low, high) = config.resolutions, SIZES
    if len(sizes) > 1:
        raise SynthError(
            f"engine=generator makes images of one size, got resolutions={list(sizes)}; "
            f"write resolutions=[{sizes[0]}]"
        )
    if not low <= sizes[0] <= high or sizes[0] % 4:
        nearest = min(high, max(low, sizes[0] // 4 * 4))
        raise SynthError(
            f"engine=generator makes images of {low}-{high} pixels a side, a multiple of 4, got "
            f"resolutions=[{sizes[0]}]; write resolutions=[{nearest}]"
        )


def _refuse_changed(config: SynthesisConfig, names: list[str] | tuple[str, ...]) -> None:
    """Refuse the first of these settings that is not at its default."""
    for name in names:
        part, _, inner = name.rpartition(".")
        if part:
            here = getattr(config, part)
            default, value = getattr(type(here)(), inner), getattr(here, inner)
        else:
            default, value = getattr(SynthesisConfig, name), getattr(config, name)
        if value != default:
            raise SynthError(
                f"{name}={value} has no effect with engine={config.engine}; leave it out"
            )


def _check_classes(classes: tuple[int, ...]) -> None:
    if not classes:
        raise SynthError("classes is empty; name at least one class, or leave it out for all")
    if len(set(classes)) < len(classes):
        twice = next(index for index in classes if classes.count(index) > 1)
        raise SynthError(f"classes names {twice} more than once; name every class once")
    at_least("every entry of classes", min(classes), 0)

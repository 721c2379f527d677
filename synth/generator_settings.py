"""Settings of the generator engine, and which settings of the two engines have no effect."""

import dataclasses
from dataclasses import dataclass
from typing import TYPE_CHECKING

from synth.refusal import SynthError, at_least, at_most

if TYPE_CHECKING:
    from synth.settings import SynthesisConfig

__all__ = ["GeneratorConfig", "check_engine"]

SIZES = (16, 128)  # pixels a side that the generator draws
MOST = {"latent_dim": 65_536, "width": 4096}  # far beyond any use
MAX_LR = {"lr": 1.0, "latent_lr": 10.0}  # a larger step of Adam only overshoots
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
class GeneratorConfig:
    """The generator, for ``engine="generator"``.

    The steps of a batch are ``iterations``, a batch is one group of ``images_per_class`` x
    ``classes_per_group`` images, and its views are shifted by up to ``jitter_fraction``.

    Raises:
        SynthError: If a value is out of its range.
    """

    lr: float = 5e-3  # of Adam on the generator's weights (ours, on digits)
    latent_lr: float = 0.5  # of Adam on the latent vectors (ours, on digits)
    latent_dim: int = 256  # length of a latent vector
    width: int = 64  # channels before the last convolution; twice as many before that
    conditional: bool = True  # ours: each class has a vector that is added to the latent vectors
    warmup_batches: int = 20  # made at the start of each chain, and not kept
    chains: int = 1  # independent generators; as many processes can share the work

    def __post_init__(self) -> None:
        """Check the ranges."""
        for name, high in MAX_LR.items():
            if not 0 < getattr(self, name) <= high:
                raise SynthError(
                    f"generator.{name} must be above 0 and at most {high:g}, got "
                    f"{getattr(self, name)}"
                )
        for name in ("latent_dim", "width", "chains"):
            at_least(f"generator.{name}", getattr(self, name), 1)
        for name, bound in MOST.items():
            at_most(f"generator.{name}", getattr(self, name), bound)
        at_least("generator.warmup_batches", self.warmup_batches, 0)


def check_engine(config: "SynthesisConfig") -> None:
    """Refuse what the engine can't do, and every setting that has no effect on it.

    Raises:
        SynthError: The message names the setting and the remedy.
    """
    if config.engine == "inversion":
        _refuse_changed(config, [f"generator.{name}" for name in _fields()])
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


def _fields() -> list[str]:
    return [field.name for field in dataclasses.fields(GeneratorConfig)]


def _refuse_changed(config: "SynthesisConfig", names: list[str] | tuple[str, ...]) -> None:
    """Refuse the first of these settings that is not at its default."""
    fields = type(config).__dataclass_fields__
    for name in names:
        part, _, inner = name.rpartition(".")
        if part:
            here = getattr(config, part)
            default, value = getattr(type(here)(), inner), getattr(here, inner)
        else:
            default, value = fields[name].default, getattr(config, name)
        if value != default:
            raise SynthError(
                f"{name}={value} has no effect with engine={config.engine}; leave it out"
            )

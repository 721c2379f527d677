"""Settings of the generator engine, frozen and checked."""

from dataclasses import dataclass

from synth.refusal import SynthError, at_least, at_most

__all__ = ["SIZES", "GeneratorConfig"]

SIZES = (16, 128)
"""Pixels a side that the generator draws."""
MOST = {"latent_dim": 65_536, "width": 4096}  # far beyond any use
MAX_LR = {"lr": 1.0, "latent_lr": 10.0}  # a larger step of Adam only overshoots


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

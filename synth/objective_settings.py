"""The weights of the objective, frozen and checked."""

from dataclasses import dataclass

from synth.refusal import SynthError, at_least

__all__ = ["ObjectiveConfig"]

TRIPLET_MARGIN = 0.3


@dataclass(frozen=True, kw_only=True)
class ObjectiveConfig:
    """Weights of the objective's terms; the defaults are DF-DearKD's for ImageNet.

    Every term is a mean or a norm *per group or per image*, so that no weight depends on the batch
    size; ``synth.priors`` says how the public DeepInversion code's weights convert.

    Source:
        DF-DearKD's objective (Chen et al. 2022, https://arxiv.org/abs/2204.12997); Adaptive
        DeepInversion: Yin et al. 2020, https://arxiv.org/abs/1912.08795, equation 8.

    Raises:
        SynthError: If a weight is negative, or a setting can have no effect.
    """

    ce_weight: float = 1.0  # of the cross-entropy; the paper has no factor before it
    tv_weight: float = 1e-4  # alpha_TV of the paper; the public code's at one image a batch
    l2_weight: float = 1e-5  # alpha_L2 of the paper
    bn_weight: float = 5e-2  # alpha_BN of the paper
    bn_first_multiplier: float = 1.0  # the paper has none; the public code's habit is 10
    bn_relative: bool = False  # ours: each layer's distances in units of its stored statistics
    ep_weight: float = 50.0  # alpha_ep of the paper, on distances in [0, 2]
    triplet_weight: float = 0.5  # alpha_tri; holds 2 images of a class only if above ep_weight
    triplet_margin: float = TRIPLET_MARGIN  # ours: the paper names no number
    ep_warmup_iterations: int = 0  # ours, off: linear rise of ep_weight in the first stage
    compete_weight: float = 0.0  # Adaptive DeepInversion's R_c; 0.2 in the public code
    adversary_weight: float = 0.0  # L_adv with a student; published weights are 1.1-1.33
    auto_weights: bool = False  # pilot runs set bn_weight so that the BN term ends within 1-10
    auto_iterations: int = 200  # ours: length of one such pilot run

    def __post_init__(self) -> None:
        """Check the ranges."""
        for name in ("ce", "tv", "l2", "bn", "ep", "triplet", "compete", "adversary"):
            at_least(f"{name}_weight", getattr(self, f"{name}_weight"), 0.0)
        at_least("bn_first_multiplier", self.bn_first_multiplier, 0.0)
        at_least("ep_warmup_iterations", self.ep_warmup_iterations, 0)
        at_least("auto_iterations", self.auto_iterations, 1)
        if not 0 <= self.triplet_margin <= 2:
            raise SynthError(
                "triplet_margin must be in 0-2, the range of the embedding's distances, got "
                f"{self.triplet_margin}"
            )
        for name, weight in (
            ("bn_relative", "bn_weight"),
            ("bn_first_multiplier", "bn_weight"),
            ("triplet_margin", "triplet_weight"),
            ("ep_warmup_iterations", "ep_weight"),
        ):
            changed = getattr(self, name) != getattr(ObjectiveConfig, name)
            if changed and not getattr(self, weight):
                raise SynthError(
                    f"objective.{name} has no effect with objective.{weight}=0; leave it out, or "
                    f"give objective.{weight} a value above 0"
                )
        if self.auto_iterations != ObjectiveConfig.auto_iterations and not self.auto_weights:
            raise SynthError(
                "objective.auto_iterations has no effect without objective.auto_weights; set "
                "objective.auto_weights=true, or leave objective.auto_iterations out"
            )
        if self.auto_weights and not self.bn_weight:
            raise SynthError("auto_weights tunes bn_weight, which is 0; give it a start value")

    @property
    def intra_divergence(self) -> bool:
        """Whether the boundary-preserving terms are on: every anchor then needs partners."""
        return self.ep_weight > 0 or self.triplet_weight > 0

    @property
    def student_weight(self) -> float:
        """The larger weight of the terms that need a student; 0: they are off."""
        return max(self.compete_weight, self.adversary_weight)

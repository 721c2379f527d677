"""``auto_weights``: the weight of R_BN that suits a teacher, found by short pilot runs."""

import dataclasses
import math

import torch

from synth.groups import Group
from synth.objective import Objective
from synth.refusal import SynthError
from synth.settings import SynthesisConfig
from synth.stage import MakeImages

__all__ = ["tune_bn_weight"]

BN_TERM_RANGE = (1.0, 10.0)  # where DeepInversion's issue 14 wants the weighted BN term
PILOTS = 4  # at most; the term falls with the weight, so one pilot may miss the range


def tune_bn_weight(
    make_images: MakeImages,
    objective: Objective,
    groups: tuple[Group, ...],
    config: SynthesisConfig,
    device: torch.device,
) -> float:
    """Set (and return) ``objective.bn_weight`` so that the BN term ends a pilot run within 1-10.

    A pilot is the first stage cut to ``auto_iterations``, made by ``make_images`` as the run itself
    will be. Where its final term is out of range the weight is scaled to put it at sqrt(10), and
    tried again.

    Source:
        The rule of thumb in DeepInversion's issue 14.

    Departure:
        How to find the weight is ours; the term of a full run ends lower than that of a pilot.

    Raises:
        SynthError: If four pilots do not reach the range.
    """
    pilot = _pilot(config)
    low, high = BN_TERM_RANGE
    term = math.nan
    for _ in range(PILOTS):
        *_, last = make_images(objective, groups, pilot, device)
        raw = sum(last.terms["bn_statistics"]) / len(groups)
        term = objective.bn_weight * raw
        if low <= term <= high:
            return objective.bn_weight
        objective.bn_weight = math.sqrt(low * high) / raw
    raise SynthError(
        f"auto_weights left the BN term at {term:.3g} after {PILOTS} pilot runs, wanted "
        f"{low:g}-{high:g}; set bn_weight by hand"
    )


def _pilot(config: SynthesisConfig) -> SynthesisConfig:
    """The first stage alone, of ``auto_iterations`` at most."""
    iterations = min(config.objective.auto_iterations, config.iterations[0])
    return dataclasses.replace(
        config,
        resolutions=config.resolutions[:1],
        iterations=(iterations,),
        canvas="upsample",
        keep="final",
        grad_norm_interval=0,
    )

"""Settings that have no effect in stages of the run's sizes and lengths."""

from synth.objective_settings import ObjectiveConfig
from synth.refusal import SynthError
from synth.settings import SynthesisConfig

__all__ = ["refuse_idle"]


def refuse_idle(config: SynthesisConfig) -> None:
    """Refuse settings that have no effect in stages of these sizes and lengths.

    Sets that were begun before they were refused go on with them.

    Raises:
        SynthError: Naming the setting and the remedy.
    """
    if config.canvas == "pooled" and len(set(config.resolutions)) == 1:
        raise SynthError("canvas=pooled has no effect with stages of one size; leave it out")
    side = config.resolutions[-1]
    if config.jitter_fraction and not round(config.jitter_fraction * side):
        raise SynthError(
            f"jitter_fraction={config.jitter_fraction} has no effect at {side} px, half a pixel "
            f"or less; give at least {0.51 / side:.3g}, or 0 for none"
        )
    most, every, window = max(config.iterations), config.log_interval, config.stop_window
    warmup, longest = config.warmup_iterations, most // 4
    if warmup != SynthesisConfig.warmup_iterations and warmup > longest:
        raise SynthError(
            f"warmup_iterations={warmup} has no effect beyond {longest}, a quarter of the longest "
            "stage; give at most that, or leave it out"
        )
    pilot, first = config.objective.auto_iterations, config.iterations[0]
    if pilot != ObjectiveConfig.auto_iterations and pilot > first:
        raise SynthError(
            f"objective.auto_iterations={pilot} has no effect beyond {first}, the first stage's "
            "iterations; give at most that, or leave it out"
        )
    if config.stop_cross_entropy and every + window > (most - 1) // every * every:
        raise SynthError(
            f"stop_cross_entropy has no effect in stages of at most {most} iterations: groups are "
            f"looked at every log_interval={every}, and R_BN is compared over stop_window={window} "
            "iterations; lower both, or leave stop_cross_entropy out"
        )
    if config.stop_cross_entropy and window < every:
        raise SynthError(
            f"stop_window={window} has no effect below log_interval={every}, at which R_BN is "
            "looked at; give at least that"
        )

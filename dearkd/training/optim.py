"""AdamW, its schedule and its state by parameter name."""

import math
from typing import Any

import torch
from jaxtyping import Float
from timm.optim._param_groups import param_groups_weight_decay
from torch import Tensor, nn

from dearkd.config import OptimConfig

__all__ = [
    "build_optimizer",
    "learning_rate",
    "load_optimizer_state",
    "optimizer_state",
    "short_average",
]


def learning_rate(
    step: int, total_steps: int, warmup_steps: int, peak: float, floor: float
) -> float:
    """Learning rate of optimizer step ``step`` (from 0): linear warm-up, then one cosine.

    The cosine runs over both stages of DearKD and ends at ``floor`` on the last step.

    Source:
        DeiT, https://arxiv.org/abs/2012.12877, section 6; Loshchilov and Hutter,
        https://arxiv.org/abs/1608.03983, eq. 5 without restarts.
    """
    if step < warmup_steps:
        return peak * (step + 1) / warmup_steps
    progress = (step - warmup_steps) / max(1, total_steps - 1 - warmup_steps)
    floor = min(floor, peak)
    return floor + (peak - floor) * 0.5 * (1 + math.cos(math.pi * min(1.0, progress)))


def build_optimizer(objective: nn.Module, config: OptimConfig) -> torch.optim.AdamW:
    """AdamW over everything in the objective that trains: the student and, in stage 1, aligners.

    Biases, norms, tokens and position parameters are not decayed, as in DeiT.
    """
    student = objective.get_submodule("student")
    undecayed = {f"student.{name}" for name in getattr(student, "no_weight_decay", set)()}
    groups = param_groups_weight_decay(
        objective, config.weight_decay, no_weight_decay_list=undecayed
    )
    assert config.lr is not None
    # The fused kernel is one launch on a GPU; on a CPU it is the same arithmetic in one pass.
    return torch.optim.AdamW(groups, lr=config.lr, fused=True)


def short_average(config: OptimConfig, steps: int) -> str | None:
    """A line for a moving average that a run of so many steps is too short for; else None."""
    if config.ema_decay is None:
        return None
    memory = round(1 / (1 - config.ema_decay))
    if memory <= steps / 2:
        return None
    return (
        f"optim.ema_decay={config.ema_decay} averages the weights over about {memory:,} steps and "
        f"the run has {steps:,}: what is judged and saved stays near the first weights; "
        f"{max(0.0, 1 - 10 / max(steps, 10)):.4g} averages over a tenth of the run"
    )


def optimizer_state(
    optimizer: torch.optim.Optimizer, objective: nn.Module
) -> dict[str, dict[str, Any]]:
    """Moments and step counts keyed by parameter name, so that a stage can hand them on."""
    return {
        name: optimizer.state[parameter]
        for name, parameter in objective.named_parameters()
        if parameter in optimizer.state
    }


def load_optimizer_state(
    optimizer: torch.optim.Optimizer, objective: nn.Module, state: dict[str, dict[str, Any]]
) -> None:
    """Gives each named parameter its saved moments; names that are gone (aligners) are dropped."""
    parameters = dict(objective.named_parameters())
    for name, saved in state.items():
        if name in parameters:
            parameter = parameters[name]
            optimizer.state[parameter] = {
                key: _moved(value, parameter) if key != "step" else value
                for key, value in saved.items()
            }


def _moved(value: Float[Tensor, "..."], parameter: nn.Parameter) -> Float[Tensor, "..."]:
    return value.to(parameter.device, parameter.dtype, copy=True)

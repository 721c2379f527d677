"""The optimizers, their schedule and their state by parameter name."""

import math
from typing import Any

import torch
from jaxtyping import Float
from timm.optim._param_groups import param_groups_weight_decay
from torch import Tensor, nn

from dearkd.training.muon import Muon
from dearkd.training.settings import OptimConfig

__all__ = [
    "build_optimizer",
    "learning_rate",
    "load_optimizer_state",
    "optimizer_state",
    "set_learning_rate",
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


def set_learning_rate(
    optimizer: torch.optim.Optimizer, config: OptimConfig, step: int, steps: int, epochs: int
) -> float:
    """Gives the optimizer the learning rate of ``step`` of a run of so many epochs of ``steps``."""
    assert config.lr is not None
    assert config.warmup_epochs is not None
    warmup_steps = round(config.warmup_epochs * steps)
    lr = learning_rate(step, epochs * steps, warmup_steps, config.lr, config.min_lr)
    for group in optimizer.param_groups:
        group["lr"] = lr
    return lr


def build_optimizer(
    objective: nn.Module, config: OptimConfig, precision: str = "fp32"
) -> torch.optim.Optimizer:
    """The optimizer of all in the objective that trains: the student and, in stage 1, aligners.

    Biases, norms, tokens and position parameters are not decayed, as in DeiT. Muon leaves to
    NAdamW, at the same learning rate, what it is not made for: the classifier, all that is not
    decayed, and by timm's rule depth-wise convolutions and other thin matrices. It iterates in bf16
    unless the ``precision`` of the run is fp32.

    Source:
        SGD: Sutskever et al. 2013, https://proceedings.mlr.press/v28/sutskever13.html. Muon: Jordan
        et al. 2024, https://kellerjordan.github.io/posts/muon/; its step size: Liu et al. 2025,
        https://arxiv.org/abs/2502.16982, section 2.2.
    """
    student: Any = objective.get_submodule("student")
    undecayed = {f"student.{name}" for name in getattr(student, "no_weight_decay", set)()}
    left = undecayed | {f"student.{name}.*" for name in _classifiers(student)}
    groups = param_groups_weight_decay(
        objective,
        config.weight_decay,
        no_weight_decay_list=undecayed,
        fallback_list=left if config.name == "muon" else (),
    )
    assert config.lr is not None
    match config.name:
        case "adamw":
            # The fused kernel is one launch on a GPU; on a CPU the same arithmetic in one pass.
            return torch.optim.AdamW(groups, lr=config.lr, fused=True)
        case "sgd":
            assert config.momentum is not None
            return torch.optim.SGD(groups, lr=config.lr, momentum=config.momentum, nesterov=True)
        case "muon":
            assert config.momentum is not None
            return Muon(
                groups,
                lr=config.lr,
                momentum=config.momentum,
                iterates=torch.float32 if precision == "fp32" else torch.bfloat16,
                stacked=next(student.parameters()).device.type == "cuda",
            )


def short_average(config: OptimConfig, steps: int) -> str | None:
    """A line for a moving average that a run of so many steps is too short for; else None."""
    if config.ema_decay is None:
        return None
    memory = round(1 / (1 - config.ema_decay))
    if memory <= steps / 2:
        return None
    tenth = (
        f"{1 - 10 / steps:.4g} averages over a tenth of the run" if steps > 10 else "leave it out"
    )
    return (
        f"optim.ema_decay={config.ema_decay} averages the weights over about {memory:,} steps and "
        f"the run has {steps:,}: what is judged and saved stays near the first weights; {tenth}"
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
            optimizer.state[parameters[name]] = {
                key: _moved(key, value, parameters[name]) if torch.is_tensor(value) else value
                for key, value in saved.items()
            }


def _classifiers(student: Any) -> tuple[str, ...]:
    """Names of the last layers, as timm knows them."""
    names = (getattr(student, "pretrained_cfg", None) or {}).get("classifier") or ()
    return (names,) if isinstance(names, str) else tuple(names)


def _moved(key: str, value: Float[Tensor, "..."], parameter: nn.Parameter) -> Float[Tensor, "..."]:
    """A copy on the parameter's device, where a step count keeps its own precision."""
    dtype = value.dtype if key == "step" else parameter.dtype
    return value.to(parameter.device, dtype, copy=True)

"""The two heads of a distilled student: which of them learn, and what that means for its answer.

timm's distilled transformers answer by the mean of both heads. A head that learned nothing must
not be in that mean, and two heads can only be averaged if their logits are on one scale.
"""

from collections.abc import Iterable, Mapping
from typing import Any, Literal

import torch
from jaxtyping import Float
from torch import Tensor, nn

from dearkd.errors import UserError
from dearkd.models.pairs import model_name

__all__ = [
    "HEADS",
    "Token",
    "bare_heads",
    "fitted_scale",
    "fitting_token",
    "has_distillation_token",
    "learning_heads",
    "mark_heads",
    "settle_heads",
]

HEADS = ("class", "distillation")
MODULES = {"class": "head", "distillation": "head_dist"}
"""Names of the heads in timm's models."""
LARGEST_SCALE = 100.0
"""Of logits, and its inverse the smallest: what a scale is searched between."""
HALVINGS = 60

Token = Literal["distillation", "class"]


def has_distillation_token(student: nn.Module) -> bool:
    """Whether the student has a second head to learn from the teacher (timm's convention)."""
    return hasattr(student, "set_distilled_training")


def fitting_token(student: Any, token: Token | None) -> Token:
    """The token that learns from the teacher; both heads then answer in training.

    None: the distillation token where the student has one, else the class token.

    Raises:
        UserError: If the student has no such token, or another one would stay untrained.
    """
    has_two = has_distillation_token(student)
    if token == "class" and has_two:
        raise UserError(
            f"token=class would leave the distillation head of {model_name(student)} "
            "untrained; use token=distillation, or a student without a distillation token"
        )
    if token == "distillation" and not has_two:
        raise UserError(
            f"student {model_name(student)} has no distillation token; choose a dearkd_* or "
            "deit_*_distilled student, or leave distill.token out, and its class head learns both"
        )
    if has_two:
        student.set_distilled_training(True)
    return "distillation" if has_two else "class"


def learning_heads(student: nn.Module) -> tuple[str, ...]:
    """The heads that the last backward pass has a gradient for; waits for the device."""
    if not has_distillation_token(student):
        return ()
    return tuple(
        name
        for name in HEADS
        if any(
            parameter.grad is not None and bool(parameter.grad.any())
            for parameter in _module(student, name).parameters()
        )
    )


def bare_heads(student: nn.Module) -> tuple[str, ...]:
    """The heads whose biases are all exactly zero, as timm begins: they never took a step."""
    if not has_distillation_token(student):
        return ()
    found = {name: getattr(_linear(student, name), "bias", None) for name in HEADS}
    return tuple(name for name, bias in found.items() if bias is not None and not bias.any())


@torch.no_grad()
def settle_heads(student: nn.Module, heads: Iterable[str], scales: Mapping[str, float]) -> None:
    """Makes the mean of both heads, which timm's classes answer by, one of ``heads`` alone.

    The logits of each head are multiplied by its scale. Where one head alone was trained, its
    weights are doubled and those of the other set to zero: every program that loads the weights
    then computes that head's answer, exported graphs included.
    """
    heads = tuple(heads)
    for name, scale in scales.items():
        _scale(student, name, scale)
    if len(heads) == 1 and has_distillation_token(student):
        for name in HEADS:
            _scale(student, name, 2.0 if name in heads else 0.0)
    mark_heads(student, heads)


def mark_heads(student: Any, heads: Iterable[str]) -> None:
    """Notes on a network which heads its answer is of, where it is not all that it has."""
    if has_distillation_token(student):
        student.answering_heads = tuple(heads)


def fitted_scale(
    logits: Float[Tensor, "images classes"], targets: Float[Tensor, "images classes"]
) -> float:
    """The factor of the logits at which their cross-entropy with the targets is least.

    The loss is convex in the factor, whose sign is that of the slope at it: found by halving on a
    logarithmic scale between 0.01 and 100, in float64, so that it is the same every time.

    Source:
        Guo et al. 2017 (temperature scaling), https://arxiv.org/abs/1706.04599, section 4.2.
    """
    logits, targets = logits.double(), targets.double()
    low, high = 1 / LARGEST_SCALE, LARGEST_SCALE
    for _ in range(HALVINGS):
        middle = (low * high) ** 0.5
        slope = (((middle * logits).softmax(dim=1) - targets) * logits).sum()
        if slope > 0:
            high = middle
        else:
            low = middle
    return (low * high) ** 0.5


def _module(student: nn.Module, name: str) -> nn.Module:
    return student.get_submodule(MODULES[name])


def _linear(student: nn.Module, name: str) -> nn.Module:
    """The linear layer of a head, which LeViT has inside one with a norm."""
    layers = [part for part in _module(student, name).modules() if isinstance(part, nn.Linear)]
    return layers[-1] if layers else nn.Identity()


def _scale(student: nn.Module, name: str, factor: float) -> None:
    for parameter in _linear(student, name).parameters():
        parameter.mul_(factor)

"""The two heads of a distilled student: which of them learn, and what that means for its answer.

timm's distilled transformers answer by the mean of both heads. A head that learned nothing must
not be in that mean, and two heads can only be averaged if their logits are on one scale.
"""

import copy
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, Literal

import torch
from jaxtyping import Float
from torch import Tensor, nn

from dearkd.errors import UserError
from dearkd.models.create import model_name

__all__ = [
    "HEADS",
    "Token",
    "answering",
    "bare_heads",
    "fitted_scale",
    "fitting_token",
    "has_distillation_token",
    "head_logits",
    "head_modules",
    "heads_note",
    "learning_heads",
    "mark_heads",
    "settle_heads",
]

HEADS = ("class", "distillation")
MODULES = {"class": "head", "distillation": "head_dist"}
"""Names of the heads in timm's models."""
LARGEST_SCALE = 100.0
"""The largest factor of logits that is tried; the smallest is its inverse."""
HALVINGS = 60
"""Steps of the search, after which the factor is exact to the last bit."""

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
            f"distill.token=class would leave the distillation head of {model_name(student)} "
            "untrained; use distillation, or a student without a distillation token"
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
    """The heads of two that the last backward pass has a gradient for; waits for the device."""
    if not has_distillation_token(student):
        return ()
    return tuple(name for name, module in head_modules(student).items() if _has_gradient(module))


def bare_heads(student: nn.Module) -> tuple[str, ...]:
    """The heads of two whose biases are exactly zero, as timm begins: they never took a step."""
    if not has_distillation_token(student):
        return ()
    biases = {name: _layer(module).bias for name, module in head_modules(student).items()}
    return tuple(name for name, bias in biases.items() if bias is not None and not bias.any())


def answering(student: nn.Module, heads: Sequence[str], scales: Mapping[str, float]) -> nn.Module:
    """The student as it answers by ``heads``: itself, or a copy with its heads settled."""
    if len(heads) != 1 and not scales:
        return student
    model = copy.deepcopy(student)
    settle_heads(model, heads, scales)
    return model


@torch.no_grad()
def settle_heads(student: nn.Module, heads: Iterable[str], scales: Mapping[str, float]) -> None:
    """Makes the mean of both heads, which timm's classes answer by, one of ``heads`` alone.

    The logits of each head are multiplied by its scale. Where one head alone was trained, its
    weights are doubled and those of the other set to zero: every program that loads the weights
    then computes that head's answer, exported graphs included.
    """
    heads, factors = tuple(heads), dict(scales)
    if len(heads) == 1 and has_distillation_token(student):
        factors = {name: 2 * scales.get(name, 1) if name in heads else 0 for name in HEADS}
    for name, factor in factors.items():
        for parameter in _layer(head_modules(student)[name]).parameters():
            parameter.mul_(factor)
    mark_heads(student, heads)


def mark_heads(student: Any, heads: Iterable[str]) -> None:
    """Stores in ``answering_heads`` which of a network's two heads its answer comes from."""
    if (known := tuple(heads)) and has_distillation_token(student):
        student.answering_heads = known


def heads_note(heads: Sequence[str]) -> str | None:
    """What to say of a network's answers where not all of its heads learned; else None."""
    if len(heads) != 1:
        return None
    other = next(name for name in HEADS if name not in heads)
    return f"answers by its {heads[0]} head alone, as the {other} head was never trained"


@torch.no_grad()
def head_logits(
    model: nn.Module, images: Float[Tensor, "batch 3 height width"]
) -> dict[str, Float[Tensor, "batch classes"]]:
    """The logits of each head of a model in eval mode, by one forward pass."""
    if not has_distillation_token(model):
        return {HEADS[0]: model(images).float()}
    found: dict[str, Tensor] = {}

    def keep(name: str) -> Callable[[nn.Module, Any, Tensor], None]:
        return lambda _module, _inputs, output: found.__setitem__(name, output.float())

    hooks = [
        module.register_forward_hook(keep(name)) for name, module in head_modules(model).items()
    ]
    try:
        model(images)
    finally:
        for hook in hooks:
            hook.remove()
    return found


def fitted_scale(
    logits: Float[Tensor, "images classes"], targets: Float[Tensor, "images classes"]
) -> float:
    """The factor of the logits at which their cross-entropy with the targets is least.

    The loss is convex in the factor, so its slope changes sign once; bisection on a logarithmic
    scale from 0.01 to 100 in float64 finds that point, the same every time.

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


def head_modules(student: Any) -> dict[str, nn.Module]:
    """The heads of a student, by timm's names for them; of one head it is ``class``.

    Raises:
        UserError: If timm's configuration does not name the last layer.
    """
    if has_distillation_token(student):
        return {name: student.get_submodule(place) for name, place in MODULES.items()}
    place = (getattr(student, "pretrained_cfg", None) or {}).get("classifier")
    if not isinstance(place, str) or not place:
        raise UserError(
            f"the logits of {model_name(student)} would have no certain scale, and its last layer "
            "is not known; name it as classifier in its pretrained_cfg, or raise "
            "distill.class_weight"
        )
    return {HEADS[0]: student.get_submodule(place)}


def _has_gradient(module: nn.Module) -> bool:
    gradients = [parameter.grad for parameter in module.parameters()]
    return any(gradient is not None and bool(gradient.any()) for gradient in gradients)


def _layer(head: nn.Module) -> Any:
    """The last layer of a head, which LeViT has in one module with a norm."""
    return [part for part in head.modules() if isinstance(part, nn.Linear | nn.Conv2d)][-1]

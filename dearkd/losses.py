"""The losses of DearKD and DeiT, one function for each equation.

Every loss is a mean over the batch, so a weight means the same at any batch size and no image's
loss depends on the other images. Each function is decorated with ``in_full_precision``, so that it
computes in float32 at least, whatever autocast the networks run under.

Source:
    Chen et al. 2022 (DearKD), https://arxiv.org/abs/2204.12997; Touvron et al. 2020 (DeiT),
    https://arxiv.org/abs/2012.12877.
"""

import functools
from collections.abc import Callable
from typing import Any, ParamSpec, TypeVar

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor

__all__ = [
    "cross_entropy",
    "hard_distillation",
    "hidden_loss",
    "in_full_precision",
    "scale_stage",
    "scale_target",
    "soft_distillation",
    "standardized_distillation",
]

_EPS = 1e-6
_STD_EPS = 1e-7
"""What logit standardization adds to the standard deviation."""

Arguments = ParamSpec("Arguments")
Result = TypeVar("Result")


def in_full_precision(loss: Callable[Arguments, Result]) -> Callable[Arguments, Result]:
    """The loss, computed in float32 (float64 where a tensor has that) with autocast switched off.

    A cast to float32 alone is not enough: under autocast a matrix product rounds its operands to
    bfloat16 again.
    """

    @functools.wraps(loss)
    def call(*args: Arguments.args, **kwargs: Arguments.kwargs) -> Result:
        tensors = [value for value in (*args, *kwargs.values()) if isinstance(value, Tensor)]
        with torch.autocast(tensors[0].device.type, enabled=False):
            exact: Any = [_exact(value) for value in args]
            named: Any = {name: _exact(value) for name, value in kwargs.items()}
            return loss(*exact, **named)

    return call


@in_full_precision
def cross_entropy(
    logits: Float[Tensor, "batch classes"],
    targets: Int[Tensor, " batch"] | Float[Tensor, "batch classes"],
) -> Float[Tensor, ""]:
    """Cross-entropy in nats against labels, or soft targets (mixed or smoothed labels).

    Source:
        DeiT eq. 3, first term; the rows of soft targets sum to 1 (Szegedy et al. 2016,
        https://arxiv.org/abs/1512.00567, section 7).
    """
    return F.cross_entropy(logits, targets)


@in_full_precision
def hard_distillation(
    student_logits: Float[Tensor, "batch classes"],
    teacher_logits: Float[Tensor, "batch classes"],
) -> Float[Tensor, ""]:
    """Cross-entropy in nats against the teacher's decision y_t, the argmax of its logits.

    Source:
        DeiT eq. 3, second term; DearKD's L_S1, second term. Teacher labels are not smoothed.
    """
    return F.cross_entropy(student_logits, teacher_logits.argmax(dim=1))


@in_full_precision
def soft_distillation(
    student_logits: Float[Tensor, "batch classes"],
    teacher_logits: Float[Tensor, "batch classes"],
    temperature: float = 3.0,
) -> Float[Tensor, ""]:
    """tau^2 KL(teacher || student) in nats, both softened by tau, the ``temperature``.

    The factor tau^2 keeps gradients on the scale of the hard-label loss.

    Source:
        DeiT eq. 2; Hinton et al. 2015, https://arxiv.org/abs/1503.02531, section 2.

    Departure:
        DeiT's code divides by batch * classes, 1000 times weaker than its equation; this does not.

    Raises:
        ValueError: If ``temperature`` is not positive.
    """
    if temperature <= 0:
        raise ValueError(f"temperature must be positive, got {temperature}")
    student = F.log_softmax(student_logits / temperature, dim=1)
    teacher = F.log_softmax(teacher_logits / temperature, dim=1)
    return temperature**2 * F.kl_div(student, teacher, reduction="batchmean", log_target=True)


@in_full_precision
def standardized_distillation(
    student_logits: Float[Tensor, "batch classes"],
    teacher_logits: Float[Tensor, "batch classes"],
    temperature: float = 2.0,
) -> Float[Tensor, ""]:
    """tau^2 KL(teacher || student) in nats of logits brought to mean 0 and deviation 1 an image.

    Z(z) = (z - mean(z)) / (std(z) + 1e-7) over the classes of one image, with the biased standard
    deviation. The student's logits get neither mean nor scale from it.

    Source:
        Sun et al. 2024 (logit standardization), https://arxiv.org/abs/2403.01427.

    Raises:
        ValueError: If ``temperature`` is not positive, or there are fewer than three classes: of
            two, Z is -1 and 1 whatever the logits are, and the gradient is zero.
    """
    if student_logits.shape[1] < 3:
        raise ValueError(f"standardizing needs at least 3 classes, got {student_logits.shape[1]}")
    return soft_distillation(
        _standardized(student_logits), _standardized(teacher_logits), temperature
    )


@in_full_precision
def hidden_loss(
    aligned: Float[Tensor, "batch channels height width"],
    target: Float[Tensor, "batch channels height width"],
) -> Float[Tensor, ""]:
    """Mean squared error between the aligned student map and the scaled teacher map.

    A prediction of zero has a loss of 1 on a target from ``scale_target``.

    Source:
        Chen et al. 2022, L_hidden.

    Departure:
        The paper's text names no distance; MSE is our reading.
    """
    return F.mse_loss(aligned, target)


@in_full_precision
def scale_target(
    features: Float[Tensor, "batch channels height width"], nonnegative: bool
) -> Float[Tensor, "batch channels height width"]:
    """Teacher features with a mean square of 1 over the channels of every position.

    Non-negative features (of a stage that ends in a ReLU) are divided by their RMS and keep their
    sign, because a centred target would be negative in most places, where the aligner's ReLU can't
    reach it. Other features are centred as well, as by a LayerNorm without affine parameters.

    Departure:
        The paper gives no scale; this one lets one weight serve any teacher. The statistics belong
        to one position, as those of the aligner's LayerNorm do. With a scale common to an image or
        a batch the target's norm would differ from position to position, and a LayerNorm removes
        most of such differences. A batch or running RMS would tie an image's loss to other images.
    """
    if not nonnegative:
        features = features - features.mean(dim=1, keepdim=True)
    return features * torch.rsqrt(features.square().mean(dim=1, keepdim=True) + _EPS)


@in_full_precision
def scale_stage(
    features: Float[Tensor, "batch channels height width"],
    mean: Float[Tensor, " channels"],
    rms: Float[Tensor, ""],
) -> Float[Tensor, "batch channels height width"]:
    """Teacher features less a constant for each channel, divided by one number.

    With both measured on the training views the mean square is 1 over images, channels and
    positions together, and where in an image the energy is stays as it was. ``mean`` is 0 for
    non-negative features, for the reason that ``scale_target`` gives.

    Departure:
        The paper gives no scale. The constants belong to the teacher and not to a batch, so that
        no image's loss depends on the others.
    """
    return (features - mean[:, None, None]) / rms


def _standardized(logits: Float[Tensor, "batch classes"]) -> Float[Tensor, "batch classes"]:
    spread, mean = torch.std_mean(logits, dim=1, correction=0, keepdim=True)
    return (logits - mean) / (spread + _STD_EPS)


def _exact(value: object) -> object:
    """A tensor of fewer bits than float32 in float32; anything else as it is."""
    if isinstance(value, Tensor) and value.is_floating_point() and value.dtype != torch.float64:
        return value.float()
    return value

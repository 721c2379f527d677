"""The losses of DearKD and DeiT, one function for each equation, in nats.

Every loss is a mean over the batch, so a weight means the same at any batch size and no image's
loss depends on the other images. All are computed in at least float32, whatever autocast is used.

Source:
    Chen et al. 2022 (DearKD), https://arxiv.org/abs/2204.12997; Touvron et al. 2020 (DeiT),
    https://arxiv.org/abs/2012.12877.
"""

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor

__all__ = [
    "cross_entropy",
    "hard_distillation",
    "hidden_loss",
    "scale_target",
    "soft_distillation",
]

_EPS = 1e-6


def cross_entropy(
    logits: Float[Tensor, "batch classes"],
    targets: Int[Tensor, " batch"] | Float[Tensor, "batch classes"],
) -> Float[Tensor, ""]:
    """Cross-entropy against labels, or against soft targets (mixed or smoothed labels)."""
    return F.cross_entropy(_exact(logits), targets)


def hard_distillation(
    student_logits: Float[Tensor, "batch classes"],
    teacher_logits: Float[Tensor, "batch classes"],
) -> Float[Tensor, ""]:
    """Cross-entropy against the teacher's decision y_t, the argmax of its logits.

    Source:
        DeiT eq. 3, second term; DearKD's L_S1, second term. Teacher labels are not smoothed.
    """
    return F.cross_entropy(_exact(student_logits), teacher_logits.argmax(dim=1))


def soft_distillation(
    student_logits: Float[Tensor, "batch classes"],
    teacher_logits: Float[Tensor, "batch classes"],
    temperature: float = 3.0,
) -> Float[Tensor, ""]:
    """tau^2 KL(teacher || student) of predictions softened by tau, the ``temperature``.

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
    student = F.log_softmax(_exact(student_logits) / temperature, dim=1)
    teacher = F.log_softmax(_exact(teacher_logits) / temperature, dim=1)
    return temperature**2 * F.kl_div(student, teacher, reduction="batchmean", log_target=True)


def hidden_loss(
    aligned: Float[Tensor, "batch channels height width"],
    target: Float[Tensor, "batch channels height width"],
) -> Float[Tensor, ""]:
    """Mean squared error between the aligned student map and the scaled teacher map.

    A prediction of zero has a loss of 1 on a target from ``scale_target``.

    Departure:
        The paper's text names no distance; MSE is our reading.
    """
    return F.mse_loss(_exact(aligned), _exact(target))


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
    features = _exact(features)
    if not nonnegative:
        features = features - features.mean(dim=1, keepdim=True)
    return features * torch.rsqrt(features.square().mean(dim=1, keepdim=True) + _EPS)


def _exact(tensor: Float[Tensor, "..."]) -> Float[Tensor, "..."]:
    """The tensor in float32, or float64 where it has that already."""
    return tensor if tensor.dtype == torch.float64 else tensor.float()

"""Image priors and the terms with a student: one value for each image, independent of its batch.

Conversion from the public DeepInversion code. There total variation is the sum of four 2-norms,
each taken over the *whole batch* of difference maps, so that for B images of equal roughness it is
sqrt(B) times the value here. Beside a cross-entropy averaged over the batch its gradient an image
is then that of the mean over images here with a weight sqrt(B) times larger:

    tv_weight (here) = tv_weight (public code) * sqrt(batch size)

(1e-4 at 84 images a batch is 9.2e-4 here.) The public code's L2 is already a mean of norms an
image: its weight carries over unchanged.
"""

import math

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

__all__ = ["competition", "decision_adversarial", "l2", "total_variation"]


def total_variation(
    images: Float[Tensor, "batch channels height width"],
) -> Float[Tensor, "batch"]:
    """Roughness of each image (at least 0): the sum of the 2-norms of its four difference maps.

    The maps are the differences to the right, lower, lower-left and lower-right neighbour, over
    all channels. At a constant image the gradient is taken to be 0.

    Source:
        Yin et al. 2020, https://arxiv.org/abs/1912.08795, equation 2 (R_TV).

    Departure:
        Norms are taken for each image, not over the batch; the module docstring has the conversion.
    """
    maps = (
        images[..., :, 1:] - images[..., :, :-1],
        images[..., 1:, :] - images[..., :-1, :],
        images[..., 1:, :-1] - images[..., :-1, 1:],
        images[..., 1:, 1:] - images[..., :-1, :-1],
    )
    norms = [torch.linalg.vector_norm(m, dim=(1, 2, 3)) for m in maps]
    return torch.stack(norms).sum(dim=0)


def l2(images: Float[Tensor, "batch channels height width"]) -> Float[Tensor, "batch"]:
    """2-norm of each image in the teacher's normalised pixel space.

    Source:
        Yin et al. 2020, https://arxiv.org/abs/1912.08795, equation 2 (R_l2).
    """
    return torch.linalg.vector_norm(images, dim=(1, 2, 3))


def competition(
    teacher_logits: Float[Tensor, "batch classes"],
    student_logits: Float[Tensor, "batch classes"],
) -> Float[Tensor, "batch"]:
    """R_c = 1 - JS(teacher, student) of each image, in [1 - ln 2, 1].

    Minimising it looks for images on which the student still disagrees with the teacher.

    Source:
        Yin et al. 2020, https://arxiv.org/abs/1912.08795, equations 8 and 9.

    Departure:
        Natural logarithms and temperature 1; the public code clamps probabilities to 0.01-0.99.
    """
    log_teacher = F.log_softmax(teacher_logits, dim=1)
    log_student = F.log_softmax(student_logits, dim=1)
    log_mean = torch.logaddexp(log_teacher, log_student) - math.log(2)
    divergences = [(p.exp() * (p - log_mean)).sum(dim=1) / 2 for p in (log_teacher, log_student)]
    return 1 - (divergences[0] + divergences[1])


def decision_adversarial(
    teacher_logits: Float[Tensor, "batch classes"],
    student_logits: Float[Tensor, "batch classes"],
) -> Float[Tensor, "batch"]:
    """L_adv of each image, at most 0: -KL(teacher || student) where both name the same class.

    It is 0 where they don't. Minimising it looks for images on whose class the student agrees with
    the teacher while its distribution is far away.

    Source:
        Fast-Datafree, Fang et al. 2022, https://arxiv.org/abs/2112.15278.
    """
    log_teacher = F.log_softmax(teacher_logits, dim=1)
    log_student = F.log_softmax(student_logits, dim=1)
    divergence = (log_teacher.exp() * (log_teacher - log_student)).sum(dim=1)
    agree = teacher_logits.argmax(dim=1) == student_logits.argmax(dim=1)
    return -divergence * agree

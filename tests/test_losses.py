"""The losses against slow forms in float64, their limits, and independence of the batch."""

import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode

from dearkd import losses

GENERATOR = torch.Generator().manual_seed(0)


def rand(*shape: int) -> Tensor:
    return torch.randn(*shape, generator=GENERATOR, dtype=torch.float64)


def slow_log_softmax(row: list[float]) -> list[float]:
    total = sum(math.exp(value) for value in row)
    return [value - math.log(total) for value in row]


def test_cross_entropy_of_labels_and_of_soft_targets() -> None:
    logits, labels = rand(5, 7), torch.tensor([0, 6, 3, 3, 1])
    soft = rand(5, 7).softmax(1)
    rows = [slow_log_softmax(row) for row in logits.tolist()]
    hard_form = -sum(row[y] for row, y in zip(rows, labels.tolist(), strict=True)) / 5
    soft_form = -sum((soft[i, c] * rows[i][c]).item() for i in range(5) for c in range(7)) / 5
    assert losses.cross_entropy(logits, labels).item() == pytest.approx(hard_form, abs=1e-12)
    assert losses.cross_entropy(logits, soft).item() == pytest.approx(soft_form, abs=1e-12)


def test_hard_distillation_takes_the_teachers_decision() -> None:
    student, teacher = rand(6, 4), rand(6, 4)
    rows = [slow_log_softmax(row) for row in student.tolist()]
    decided = [max(range(4), key=row.__getitem__) for row in teacher.tolist()]
    slow = -sum(row[y] for row, y in zip(rows, decided, strict=True)) / 6
    assert losses.hard_distillation(student, teacher).item() == pytest.approx(slow, abs=1e-12)


@pytest.mark.parametrize("temperature", [1.0, 3.0])
def test_soft_distillation_is_the_batch_mean_of_the_divergence(temperature: float) -> None:
    student, teacher = rand(6, 4), rand(6, 4)
    slow = 0.0
    for ours, theirs in zip(student.tolist(), teacher.tolist(), strict=True):
        log_q = slow_log_softmax([value / temperature for value in ours])
        log_p = slow_log_softmax([value / temperature for value in theirs])
        slow += sum(math.exp(p) * (p - q) for p, q in zip(log_p, log_q, strict=True))
    value = losses.soft_distillation(student, teacher, temperature).item()
    assert value == pytest.approx(temperature**2 * slow / 6, abs=1e-12)
    assert losses.soft_distillation(teacher, teacher, temperature).item() == pytest.approx(0)


def test_soft_distillation_keeps_its_gradient_at_high_temperature() -> None:
    """Hinton et al.: for large tau the gradient tends to (student - teacher) / classes, centred."""
    student, teacher = rand(1, 5).requires_grad_(), rand(1, 5)
    losses.soft_distillation(student, teacher, 1e4).backward()
    difference = (student - student.mean()) - (teacher - teacher.mean())
    torch.testing.assert_close(student.grad, difference.detach() / 5, atol=1e-3, rtol=1e-3)


@pytest.mark.parametrize("temperature", [0.0, -1.0])
def test_soft_distillation_refuses_a_temperature(temperature: float) -> None:
    with pytest.raises(ValueError, match=f"temperature must be positive, got {temperature}"):
        losses.soft_distillation(rand(2, 3), rand(2, 3), temperature)


@pytest.mark.parametrize("temperature", [1.0, 2.0])
def test_standardized_distillation_is_its_equation(temperature: float) -> None:
    student, teacher = 5 * rand(6, 4) + 3, rand(6, 4)

    def z(row: list[float]) -> list[float]:
        mean = sum(row) / len(row)
        deviation = math.sqrt(sum((value - mean) ** 2 for value in row) / len(row))
        return [(value - mean) / (deviation + 1e-7) / temperature for value in row]

    slow = 0.0
    for ours, theirs in zip(student.tolist(), teacher.tolist(), strict=True):
        log_q, log_p = slow_log_softmax(z(ours)), slow_log_softmax(z(theirs))
        slow += sum(math.exp(p) * (p - q) for p, q in zip(log_p, log_q, strict=True))
    value = losses.standardized_distillation(student, teacher, temperature)
    assert value.item() == pytest.approx(temperature**2 * slow / 6, abs=1e-12)


def test_standardized_distillation_sees_neither_scale_nor_shift() -> None:
    student, teacher = rand(6, 4), rand(6, 4)
    scaled = losses.standardized_distillation(7 * student + 2, 0.1 * teacher - 5)
    exact = losses.standardized_distillation(student, teacher)
    assert scaled.item() == pytest.approx(exact.item(), rel=1e-5)
    assert losses.standardized_distillation(3 * teacher, teacher).item() == pytest.approx(
        0, abs=1e-9
    )


def test_standardized_distillation_refuses_two_classes() -> None:
    with pytest.raises(ValueError, match="at least 3 classes, got 2"):
        losses.standardized_distillation(rand(3, 2), rand(3, 2))


def test_a_stage_is_divided_by_one_number() -> None:
    features, mean, rms = rand(2, 3, 2, 2), rand(3), torch.tensor(2.5).double()
    scaled = losses.scale_stage(features, mean, rms)
    for b, c in torch.cartesian_prod(torch.arange(2), torch.arange(3)).tolist():
        torch.testing.assert_close(scaled[b, c], (features[b, c] - mean[c]) / 2.5)


def test_hidden_loss_is_the_mean_squared_error() -> None:
    aligned, target = rand(2, 3, 2, 2), rand(2, 3, 2, 2)
    pairs = zip(aligned.flatten().tolist(), target.flatten().tolist(), strict=True)
    slow = sum((a - b) ** 2 for a, b in pairs) / 24
    assert losses.hidden_loss(aligned, target).item() == pytest.approx(slow, abs=1e-12)


def test_nonnegative_targets_keep_their_sign_and_have_unit_mean_square() -> None:
    features = 7 * rand(2, 16, 3, 3).relu()
    scaled = losses.scale_target(features, nonnegative=True)
    assert scaled.min() == 0
    assert torch.equal(scaled == 0, features == 0)
    torch.testing.assert_close(
        scaled.square().mean(1), torch.ones(2, 3, 3).double(), rtol=1e-6, atol=0
    )
    assert torch.isfinite(losses.scale_target(torch.zeros(1, 4, 2, 2), nonnegative=True)).all()


def test_signed_targets_are_layer_normalised_over_channels() -> None:
    features = 5 * rand(2, 16, 3, 3) + 2
    scaled = losses.scale_target(features, nonnegative=False)
    for b, i, j in torch.cartesian_prod(torch.arange(2), torch.arange(3), torch.arange(3)).tolist():
        column = features[b, :, i, j]
        slow = (column - column.mean()) / column.std(correction=0)
        torch.testing.assert_close(scaled[b, :, i, j], slow, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("nonnegative", [True, False])
def test_a_weight_serves_any_teacher(nonnegative: bool) -> None:
    features = rand(2, 16, 3, 3).relu()
    scaled = losses.scale_target(features, nonnegative)
    torch.testing.assert_close(
        losses.scale_target(100 * features, nonnegative), scaled, rtol=1e-4, atol=1e-4
    )
    zero = torch.zeros_like(scaled)
    assert losses.hidden_loss(zero, scaled).item() == pytest.approx(1, abs=1e-3)


@pytest.mark.parametrize("nonnegative", [True, False])
def test_an_images_target_does_not_depend_on_its_batch(nonnegative: bool) -> None:
    features = rand(4, 8, 3, 3).relu() * torch.tensor([1.0, 10.0, 100.0, 0.1]).view(4, 1, 1, 1)
    together = losses.scale_target(features, nonnegative)
    alone = torch.cat([losses.scale_target(image[None], nonnegative) for image in features])
    assert torch.equal(together, alone)


def test_gradients() -> None:
    student, teacher = rand(3, 4).requires_grad_(), rand(3, 4)
    aligned = rand(2, 3, 2, 2).requires_grad_()
    target = rand(2, 3, 2, 2)
    assert torch.autograd.gradcheck(losses.soft_distillation, (student, teacher, 3.0))
    assert torch.autograd.gradcheck(losses.hard_distillation, (student, teacher))
    assert torch.autograd.gradcheck(losses.standardized_distillation, (student, teacher, 2.0))
    assert torch.autograd.gradcheck(losses.hidden_loss, (aligned, target))


def test_half_precision_logits_are_reduced_in_float32() -> None:
    student, teacher = rand(4, 10).bfloat16(), rand(4, 10).bfloat16()
    exact = losses.soft_distillation(student.double(), teacher.double(), 3.0)
    value = losses.soft_distillation(student, teacher, 3.0)
    assert value.dtype == torch.float32
    assert value.item() == pytest.approx(exact.item(), rel=1e-5)


def logits(*shape: int) -> Tensor:
    return rand(*shape).bfloat16()


CALLS = {
    "cross_entropy": lambda: (losses.cross_entropy, logits(5, 7), rand(5, 7).softmax(1)),
    "hard_distillation": lambda: (losses.hard_distillation, logits(5, 7), logits(5, 7)),
    "soft_distillation": lambda: (losses.soft_distillation, logits(5, 7), logits(5, 7)),
    "hidden_loss": lambda: (losses.hidden_loss, logits(2, 3, 4, 4), logits(2, 3, 4, 4)),
    "scale_stage": lambda: (losses.scale_stage, logits(2, 3, 4, 4), rand(3), rand(1)[0]),
    "scale_target": lambda: (losses.scale_target, logits(2, 3, 4, 4), False),
    "standardized_distillation": lambda: (
        losses.standardized_distillation,
        logits(5, 7),
        logits(5, 7),
    ),
}


def under_autocast(loss: Callable[..., Tensor], *args: Any) -> Tensor:
    with torch.autocast("cpu", torch.bfloat16):
        return loss(*args)


class NoAutocast(TorchFunctionMode):
    """Counts the calls of torch that autocast may round."""

    def __init__(self) -> None:
        super().__init__()
        self.calls = self.rounded = 0

    def __torch_function__(self, func, types, args=(), kwargs=None):  # type: ignore[no-untyped-def]
        if getattr(func, "__name__", "") != "__get__":  # an attribute, such as device
            self.calls += 1
            self.rounded += torch.is_autocast_enabled("cpu")
        return func(*args, **(kwargs or {}))


def test_every_loss_has_a_case_here() -> None:
    assert sorted(CALLS) == sorted(set(losses.__all__) - {"in_full_precision"})


@pytest.mark.parametrize("name", CALLS)
def test_autocast_rounds_no_loss(name: str) -> None:
    loss, *args = CALLS[name]()
    with NoAutocast() as seen:
        value = under_autocast(loss, *args)
    assert seen.calls > 0
    assert seen.rounded == 0
    exact = [arg.double() if isinstance(arg, Tensor) else arg for arg in args]
    torch.testing.assert_close(value.double(), loss(*exact), rtol=1e-6, atol=1e-6)


@losses.in_full_precision
def gram_loss(student: Tensor, teacher: Tensor) -> Tensor:
    """A loss with matrix products, as an importer may write one."""
    return (student @ student.T - teacher @ teacher.T).square().mean()


def test_a_matrix_product_in_a_loss_is_exact_under_autocast() -> None:
    student, teacher = rand(6, 40), rand(6, 40)
    slow = 0.0
    for i, j in torch.cartesian_prod(torch.arange(6), torch.arange(6)).tolist():
        ours = sum(a * b for a, b in zip(student[i].tolist(), student[j].tolist(), strict=True))
        theirs = sum(a * b for a, b in zip(teacher[i].tolist(), teacher[j].tolist(), strict=True))
        slow += (ours - theirs) ** 2 / 36
    value = under_autocast(gram_loss, student.float(), teacher.float())
    assert value.dtype == torch.float32
    assert value.item() == pytest.approx(slow, rel=1e-6)
    named = under_autocast(lambda: gram_loss(student=student.float(), teacher=teacher.float()))
    assert torch.equal(named, value)
    assert gram_loss(student, teacher).dtype == torch.float64

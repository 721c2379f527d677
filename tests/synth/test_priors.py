import itertools
import math

import pytest
import torch
from torch.autograd import gradcheck

from synth.priors import competition, decision_adversarial, l2, total_variation


def slow_total_variation(image):
    channels, height, width = image.shape
    total = 0.0
    for down, right in ((0, 1), (1, 0), (1, -1), (1, 1)):
        squares = 0.0
        for c, y, x in itertools.product(range(channels), range(height), range(width)):
            if y + down < height and 0 <= x + right < width:
                squares += (image[c, y + down, x + right] - image[c, y, x]).item() ** 2
        total += math.sqrt(squares)
    return total


def slow_competition(teacher, student):
    p, q = (
        [math.exp(v - max(r)) / sum(math.exp(w - max(r)) for w in r) for v in r]
        for r in (teacher, student)
    )
    js = sum(
        a * math.log(a / (0.5 * a + 0.5 * b)) / 2 + b * math.log(b / (0.5 * a + 0.5 * b)) / 2
        for a, b in zip(p, q, strict=True)
    )
    return 1 - js


def slow_adversary(teacher, student):
    p, q = (
        [math.exp(v - max(r)) / sum(math.exp(w - max(r)) for w in r) for v in r]
        for r in (teacher, student)
    )
    if p.index(max(p)) != q.index(max(q)):
        return 0.0
    return -sum(a * math.log(a / b) for a, b in zip(p, q, strict=True))


@pytest.fixture
def images():
    return torch.randn(3, 2, 4, 5, dtype=torch.float64, generator=torch.Generator().manual_seed(0))


def test_total_variation_is_the_slow_sum_over_pixels(images):
    expected = [slow_total_variation(image) for image in images]
    torch.testing.assert_close(total_variation(images).tolist(), expected, rtol=1e-12, atol=0)


def test_l2_is_the_norm_of_each_image(images):
    expected = [math.sqrt(sum(v * v for v in image.flatten().tolist())) for image in images]
    torch.testing.assert_close(l2(images).tolist(), expected, rtol=1e-12, atol=0)


@pytest.mark.parametrize("prior", [total_variation, l2])
def test_priors_of_an_image_do_not_depend_on_its_batch(prior, images):
    alone = torch.cat([prior(image[None]) for image in images])
    torch.testing.assert_close(prior(images), alone, rtol=1e-14, atol=0)


def test_the_written_conversion_from_the_public_total_variation(images):
    batch = images[:1].expand(9, -1, -1, -1)
    differences = (
        batch[..., :, 1:] - batch[..., :, :-1],
        batch[..., 1:, :] - batch[..., :-1, :],
        batch[..., 1:, :-1] - batch[..., :-1, 1:],
        batch[..., 1:, 1:] - batch[..., :-1, :-1],
    )
    public = sum(torch.linalg.vector_norm(d) for d in differences)
    torch.testing.assert_close(public, math.sqrt(9) * total_variation(batch).mean())


@pytest.mark.parametrize("prior", [total_variation, l2])
def test_prior_gradients(prior, images):
    assert gradcheck(prior, images.requires_grad_())


@pytest.mark.parametrize("prior", [total_variation, l2])
def test_the_gradient_is_zero_where_the_prior_is(prior):
    images = torch.zeros(2, 3, 4, 4, requires_grad=True)
    prior(images).sum().backward()
    assert torch.equal(images.grad, torch.zeros_like(images))


def test_competition_is_one_minus_the_slow_jensen_shannon():
    teacher, student = torch.randn(2, 5, 4, dtype=torch.float64) * 3
    expected = [
        slow_competition(t, s) for t, s in zip(teacher.tolist(), student.tolist(), strict=True)
    ]
    torch.testing.assert_close(competition(teacher, student).tolist(), expected)


def test_competition_runs_from_agreement_to_disagreement():
    sure = torch.tensor([[200.0, 0.0], [0.0, 200.0]])
    torch.testing.assert_close(competition(sure, sure), torch.ones(2))
    torch.testing.assert_close(competition(sure, sure.flip(0)), torch.full((2,), 1 - math.log(2)))


def test_competition_gradients():
    teacher, student = torch.randn(2, 3, 4, dtype=torch.float64)
    assert gradcheck(competition, (teacher.requires_grad_(), student.requires_grad_()))


def test_l_adv_is_minus_the_slow_divergence_where_both_agree():
    teacher, student = torch.randn(2, 40, 4, dtype=torch.float64) * 3
    expected = [
        slow_adversary(t, s) for t, s in zip(teacher.tolist(), student.tolist(), strict=True)
    ]
    assert 0 < expected.count(0.0) < 40
    torch.testing.assert_close(decision_adversarial(teacher, student).tolist(), expected)


def test_l_adv_of_equal_or_disagreeing_networks_is_none():
    logits = torch.tensor([[2.0, 0.0], [0.0, 3.0]])
    assert decision_adversarial(logits, logits).tolist() == [0.0, 0.0]
    assert decision_adversarial(logits, logits.flip(0)).tolist() == [0.0, 0.0]


def test_l_adv_gradients():
    teacher, student = torch.randn(2, 3, 4, dtype=torch.float64)
    student[0] = teacher[0] * 2  # agrees
    assert gradcheck(decision_adversarial, (teacher.requires_grad_(), student.requires_grad_()))

import pytest
import torch
from torch.autograd import gradcheck

from synth.intra_divergence import intra_divergence, mine, relations

TARGETS = torch.tensor([[0, 0, 0, 1, 1, 2, 2], [5, 5, 3, 3, 3, 5, 3]])


def slow_group(embedding, targets, margin):
    unit = [row / row.norm() for row in embedding]
    images = range(len(unit))
    easy_total = triplet_total = 0.0
    for a in images:
        same = [(unit[a] - unit[j]).norm() for j in images if j != a and targets[j] == targets[a]]
        other = [(unit[a] - unit[j]).norm() for j in images if targets[j] != targets[a]]
        easy_total = easy_total - min(same)
        triplet_total = triplet_total + torch.relu(max(same) - min(other) + margin)
    return easy_total / len(unit), triplet_total / len(unit)


@pytest.fixture
def embedding():
    generator = torch.Generator().manual_seed(0)
    return torch.randn(2, 7, 6, dtype=torch.float64, generator=generator)


@pytest.mark.parametrize("margin", [0.0, 0.3, 1.5])
def test_values_and_gradients_are_the_slow_loops(embedding, margin):
    embedding.requires_grad_()
    ours = intra_divergence(embedding, relations(TARGETS), margin)
    slow = [slow_group(e, t, margin) for e, t in zip(embedding, TARGETS.tolist(), strict=True)]
    for index in range(2):
        expected = torch.stack([group[index] for group in slow])
        torch.testing.assert_close(ours[index], expected, rtol=1e-12, atol=1e-14)
        weights = torch.tensor([0.3, 0.7], dtype=torch.float64)
        (g,) = torch.autograd.grad((ours[index] * weights).sum(), embedding, retain_graph=True)
        (e,) = torch.autograd.grad((expected * weights).sum(), embedding, retain_graph=True)
        torch.testing.assert_close(g, e, rtol=1e-10, atol=1e-14)


def test_gradients(embedding):
    pairs = relations(TARGETS)
    assert gradcheck(lambda e: intra_divergence(e, pairs), embedding.requires_grad_())


def test_groups_never_mix(embedding):
    both = intra_divergence(embedding, relations(TARGETS))
    for group in range(2):
        part = slice(group, group + 1)
        alone = intra_divergence(embedding[part], relations(TARGETS[part]))
        for together, single in zip(both, alone, strict=True):
            torch.testing.assert_close(together[part], single, rtol=1e-14, atol=0)


def test_mining_on_a_circle():
    degrees = torch.tensor([[0.0, 10.0, 50.0, 25.0, 180.0]])
    embedding = torch.stack([degrees.deg2rad().cos(), degrees.deg2rad().sin()], dim=-1) * 7
    easy, hard, negative = mine(embedding, relations(torch.tensor([[0, 0, 0, 1, 1]])))
    assert easy.tolist() == [[1, 0, 1, 4, 3]]
    assert hard.tolist() == [[2, 2, 0, 4, 3]]
    assert negative.tolist() == [[3, 3, 3, 1, 2]]


def test_identical_images_have_a_finite_gradient():
    embedding = torch.ones(1, 4, 3, requires_grad=True)
    easy, triplet = intra_divergence(embedding, relations(torch.tensor([[0, 0, 1, 1]])))
    (easy + triplet).sum().backward()
    assert easy.item() == 0 and triplet.item() == pytest.approx(0.3)
    assert torch.isfinite(embedding.grad).all()


def test_nearly_identical_images_keep_their_distance_in_float32():
    step = 1e-4
    embedding = torch.tensor([[[1.0, 0, 0], [1.0, step, 0], [0, 0, 1.0], [0, step, 1.0]]])
    easy, _ = intra_divergence(embedding, relations(torch.tensor([[0, 0, 1, 1]])))
    assert -easy.item() == pytest.approx(step, rel=1e-3)


def test_an_anchor_without_positive_is_refused():
    with pytest.raises(ValueError, match="class 4 has one image in its group, so no positive"):
        relations(torch.tensor([[1, 1, 2, 2], [3, 3, 3, 4]]))


def test_an_anchor_without_negative_is_refused():
    with pytest.raises(ValueError, match="holds class 3 alone, so no negative"):
        relations(torch.tensor([[1, 1, 2, 2], [3, 3, 3, 3]]))

import pytest
import torch
from torch.autograd import gradcheck

from synth.augment import draw_views, jitter_flip

VIEWS = torch.tensor([[0, 0, 0], [1, -2, 0], [-3, 2, 1], [0, 0, 1], [2, 5, 1]])


def slow(images, views):
    out = []
    for image, (down, right, flip) in zip(images, views.tolist(), strict=True):
        rolled = torch.roll(image, (down, right), dims=(1, 2))
        out.append(rolled.flip(2) if flip else rolled)
    return torch.stack(out)


def test_each_image_is_rolled_and_mirrored_by_its_own_view():
    images = torch.rand(5, 2, 4, 6)
    assert torch.equal(jitter_flip(images, VIEWS), slow(images, VIEWS))


def test_the_gradient_goes_back_to_the_same_pixels():
    images = torch.rand(5, 2, 4, 6, dtype=torch.float64, requires_grad=True)
    weights = torch.rand_like(images)
    (ours,) = torch.autograd.grad((jitter_flip(images, VIEWS) * weights).sum(), images)
    (expected,) = torch.autograd.grad((slow(images, VIEWS) * weights).sum(), images)
    assert torch.equal(ours, expected)
    assert gradcheck(lambda x: jitter_flip(x, VIEWS), images)


def test_views_follow_from_the_generator_and_cover_their_range():
    views = draw_views(400, 3, 2, 0.5, torch.Generator().manual_seed(1))
    assert torch.equal(views, draw_views(400, 3, 2, 0.5, torch.Generator().manual_seed(1)))
    assert not torch.equal(views, draw_views(400, 3, 2, 0.5, torch.Generator().manual_seed(2)))
    assert views[..., :2].unique().tolist() == [-2, -1, 0, 1, 2]
    assert 0.45 < views[..., 2].double().mean() < 0.55
    assert not torch.equal(views[:, 0], views[:, 1])  # each image has its own


@pytest.mark.parametrize("probability", [0.0, 1.0])
def test_flip_probability_at_its_ends(probability):
    views = draw_views(50, 2, 0, probability, torch.Generator())
    assert (views[..., 2] == probability).all() and (views[..., :2] == 0).all()

import pytest
import torch
from torch.autograd import gradcheck

from synth.jitter import draw_boxes, draw_views, jitter_flip, shift_flip, zoom_in

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


def cropped(images, views, edge):
    """The same views as crops of the image with a border."""
    out = []
    height, width = images.shape[2:]
    for image, (down, right, flip) in zip(images, views.tolist(), strict=True):
        canvas = edge.expand(-1, height + 16, width + 16).clone()
        canvas[:, 8:-8, 8:-8] = image
        seen = canvas[:, 8 - down :, 8 - right :][:, :height, :width]
        out.append(seen.flip(2) if flip else seen)
    return torch.stack(out)


def test_a_shift_with_an_edge_is_a_crop_of_the_image_with_a_border():
    images = torch.rand(5, 2, 4, 6, dtype=torch.float64, requires_grad=True)
    edge = torch.tensor([-1.0, -2.0], dtype=torch.float64).view(2, 1, 1)
    ours, expected = shift_flip(images, VIEWS, edge), cropped(images, VIEWS, edge)
    assert torch.equal(ours, expected)
    weights = torch.rand_like(images)
    gradients = [
        torch.autograd.grad((seen * weights).sum(), images)[0] for seen in (ours, expected)
    ]
    assert torch.equal(*gradients)


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


def test_zooming_shows_the_pixels_of_the_square():
    image = torch.arange(64.0).view(1, 1, 8, 8)
    quarter = torch.tensor([[0.5, 0.25, 0.5]])  # rows 2-5, columns 4-7
    expected = torch.nn.functional.interpolate(
        image[:, :, 1:7, 3:], scale_factor=2.0, mode="bilinear", align_corners=False
    )[:, :, 2:-2, 2:]
    seen = zoom_in(image, quarter)
    assert seen.shape == image.shape
    assert torch.allclose(seen[..., :-1], expected[..., :-1])
    # The square's own rows and columns, each twice: its mean is the square's.
    inner = zoom_in(image, torch.tensor([[0.5, 0.25, 0.25]]))
    assert torch.isclose(inner.mean(), image[:, :, 2:6, 2:6].mean())


def test_a_square_of_the_whole_image_changes_nothing_and_the_gradient_is_right():
    images = torch.rand(2, 1, 4, 4, dtype=torch.float64, requires_grad=True)
    whole = torch.tensor([[1.0, 0.0, 0.0], [1.0, 0.0, 0.0]])
    assert torch.allclose(zoom_in(images, whole), images)
    assert gradcheck(lambda x: zoom_in(x, draw_boxes(1, 2, 0.5, torch.Generator())[0]), images)


def test_boxes_follow_from_the_generator_and_lie_inside_the_image():
    boxes = draw_boxes(400, 3, 0.4, torch.Generator().manual_seed(1))
    assert torch.equal(boxes, draw_boxes(400, 3, 0.4, torch.Generator().manual_seed(1)))
    side, top, left = boxes.unbind(dim=-1)
    assert 0.4 <= side.min() < 0.41 and 0.99 < side.max() <= 1
    assert top.min() >= 0 and left.min() >= 0
    assert (top + side).max() <= 1 + 1e-6 and (left + side).max() <= 1 + 1e-6
    assert not torch.equal(boxes[:, 0], boxes[:, 1])  # each image has its own

import math

import pytest
import torch

from synth.natural import (
    MEAN,
    PLACES,
    Look,
    amplitudes,
    amplitudes_of_each,
    colours,
    places_of_each,
)


def drawn(count, channels, size):
    return amplitudes_of_each(count, channels, size, torch.Generator().manual_seed(1))


@pytest.mark.parametrize("size", [8, 9])
def test_amplitudes_fall_with_the_frequency(size):
    found = amplitudes(size)
    assert found.square().mean().item() == pytest.approx(1)
    assert found[0, 0] / found[0, 1] == pytest.approx(MEAN)
    for row in range(size):
        for column in range(row == 0, size):
            down, across = (k if k <= size // 2 else size - k for k in (row, column))
            assert found[row, column] / found[0, 1] == pytest.approx(1 / math.hypot(down, across))


def test_colours_are_opponents_in_units_of_their_spread():
    found = colours(3)
    assert found.square().sum(dim=1).mean().item() == pytest.approx(1)
    lengths = found.norm(dim=0)
    torch.testing.assert_close(lengths / lengths[0], torch.tensor([1, 0.3, 0.15]).double())
    torch.testing.assert_close(found.T @ found, torch.diag(lengths.square()))
    assert found[:, 0].unique().numel() == 1  # light: equal in all channels
    assert torch.equal(colours(1), torch.eye(1).double())


def test_images_differ_in_contrast_detail_and_colour_and_have_amplitudes_in_common():
    own = drawn(20_000, 3, 8)
    common = own.square().mean(dim=0) / amplitudes(8).square()
    assert common.flatten(1)[:, 1:].sub(1).abs().max() < 0.1
    within = own.clone()
    within[..., 0, 0] = 0
    light, blue, green = within.square().sum(dim=(-2, -1)).log().div(2).unbind(1)
    assert light.std().item() == pytest.approx(0.3, rel=0.03)
    assert (blue - light).std().item() == pytest.approx(0.6, rel=0.03)
    torch.testing.assert_close(blue, green)
    steepness = torch.log2(own[:, 0, 0, 1] / own[:, 0, 0, 2])
    assert steepness.mean().item() == pytest.approx(1, rel=0.01)
    assert steepness.std().item() == pytest.approx(0.2, rel=0.03)
    three = torch.stack([light, blue - light, steepness])
    assert (torch.corrcoef(three) - torch.eye(3)).abs().max() < 0.03
    assert torch.equal(own[:, 0, 0, 0], amplitudes(8)[0, 0].expand(20_000))


def test_an_image_is_as_far_from_the_others_at_every_size():
    small, large = drawn(5, 3, 8), drawn(5, 3, 16)
    ratio = [own[:, :, 0, 2] / own[:, :, 0, 1] for own in (small, large)]  # detail
    torch.testing.assert_close(*ratio)
    colour = [own[:, 1] / own[:, 0] for own in (small, large)]
    torch.testing.assert_close(colour[0][:, 0, 1], colour[1][:, 0, 1])


def test_other_than_three_channels_have_no_colour():
    own = drawn(4, 2, 8)
    assert torch.equal(own[:, 0], own[:, 1])
    assert not torch.equal(own[0], own[1])


def test_places_differ_in_contrast_and_are_smooth():
    places = places_of_each(2000, 32, torch.Generator().manual_seed(1))
    torch.testing.assert_close(places.square().mean((-2, -1)), torch.ones(2000, 1).double())
    points = places.log()[..., 4::8, 4::8].flatten(1)  # beside those of the grid
    assert points.std(dim=1).mean().item() == pytest.approx(PLACES, rel=0.15)
    assert places.log().diff(dim=-1).square().mean().sqrt() < PLACES / 4
    small = places_of_each(2000, 8, torch.Generator().manual_seed(1)).log()
    same = torch.nn.functional.avg_pool2d(places.log(), 4)
    assert torch.corrcoef(torch.stack([small.flatten(), same.flatten()]))[0, 1] > 0.98


@pytest.mark.parametrize("channels", [1, 2, 3, 4])
@pytest.mark.parametrize("size", [3, 8, 9])
def test_coefficients_of_any_look_are_those_of_its_images(channels, size):
    random = torch.Generator().manual_seed(1)
    own = amplitudes_of_each(5, channels, size, random)
    look = Look.of(own, places_of_each(5, size, random))
    images = torch.randn(5, channels, size, size, generator=random, dtype=torch.float64)
    torch.testing.assert_close(look.images(look.coefficients(images)), images)

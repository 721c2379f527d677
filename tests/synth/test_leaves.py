import math
from itertools import pairwise

import pytest
import torch
from torch.nn.functional import avg_pool2d

from synth.leaves import LARGEST, LEAVES, MARGIN, SMALLEST, STRETCH, leaves_of_each
from synth.natural import TEXTURE, Look, amplitudes_of_each, colours, places_of_each


def drawn(count, channels, size):
    return leaves_of_each(count, channels, size, torch.Generator().manual_seed(1))


def test_a_pixel_shows_the_last_leaf_over_it():
    """Against a slow form: away from edges, which are a pixel wide, the two agree."""
    size, random = 24, torch.Generator().manual_seed(1)
    x, y, turn, stretch, large, kind = torch.rand(
        6, 2, LEAVES, generator=random, dtype=torch.float64
    ).tolist()
    share = torch.rand(2, 1, generator=random, dtype=torch.float64).tolist()
    values = torch.randn(2, LEAVES + 1, 1, 1, 1, generator=random, dtype=torch.float64)
    image, found = 1, drawn(2, 1, size)[1, 0]
    smallest = SMALLEST[0] * (SMALLEST[1] / SMALLEST[0]) ** share[image][0]

    def shown(across, down):
        seen = LEAVES
        for leaf in range(LEAVES):
            radius = (smallest**-2 + large[image][leaf] * (LARGEST**-2 - smallest**-2)) ** -0.5
            wide = math.exp(STRETCH * (2 * stretch[image][leaf] - 1))
            right = across - ((1 + 2 * MARGIN) * x[image][leaf] - MARGIN)
            below = down - ((1 + 2 * MARGIN) * y[image][leaf] - MARGIN)
            cos, sin = math.cos(math.pi * turn[image][leaf]), math.sin(math.pi * turn[image][leaf])
            along, beside = (cos * right + sin * below) / wide, (cos * below - sin * right) * wide
            round_one = kind[image][leaf] < 0.5
            half = radius * math.sqrt(math.pi) / 2
            inside = max(abs(along), abs(beside)) < half
            if math.hypot(along, beside) < radius if round_one else inside:
                seen = leaf
        return values[image, seen].item()

    flat, expected = [], []
    for row in range(size):
        for column in range(size):
            around = {
                shown((column + 0.5 + right) / size, (row + 0.5 + below) / size)
                for right in (-1, 0, 1)
                for below in (-1, 0, 1)
            }
            if len(around) == 1:
                flat.append(found[row, column])
                expected.append(around.pop())
    assert len(flat) > size
    flat, expected = torch.stack(flat), torch.tensor(expected, dtype=torch.float64)
    scale = (flat - flat.mean()).norm() / (expected - expected.mean()).norm()
    torch.testing.assert_close(flat - flat.mean(), scale * (expected - expected.mean()))


def test_images_have_no_mean_and_a_variance_of_one_in_each_channel():
    found = drawn(300, 3, 16)
    assert found.mean(dim=(-2, -1)).abs().max() < 1e-12
    variance = found.var(dim=(-2, -1), correction=0)
    assert variance.max() < 1 + 1e-9
    assert variance.gt(0.999).double().mean() > 0.99
    assert torch.corrcoef(found.transpose(0, 1).flatten(1)).sub(torch.eye(3)).abs().max() < 0.05


def test_the_draws_are_the_same_at_any_size():
    small, large = drawn(20, 2, 16), avg_pool2d(drawn(20, 2, 64), 4)
    for pair in zip(small.flatten(1), large.flatten(1), strict=True):
        assert torch.corrcoef(torch.stack(pair))[0, 1] > 0.97


def test_amplitudes_fall_as_those_of_natural_images():
    power = torch.fft.fft2(drawn(700, 1, 32), norm="ortho").abs().square().mean(dim=(0, 1))
    octaves = [power[0, 2**octave].sqrt().log2() for octave in range(4)]
    falls = [(low - high).item() for low, high in pairwise(octaves)]
    assert falls[1:] == pytest.approx([1, 1], abs=0.35)


def test_surfaces_are_calm_and_edges_sharp():
    """Differences of neighbours have a kurtosis of 3 in noise, of far more in photographs."""
    steps = drawn(200, 1, 32).diff(dim=-1)
    assert steps.pow(4).mean() / steps.square().mean() ** 2 > 8
    assert steps.abs().lt(1e-9).double().mean() > 0.3


def test_a_scene_has_the_means_contrast_and_colour_of_its_look():
    random = torch.Generator().manual_seed(1)
    count, size = 400, 16
    own = amplitudes_of_each(count, 3, size, random)
    look = Look.of(own, places_of_each(count, size, random))
    noise = torch.randn(count, 3, size, size, generator=random, dtype=torch.float64)
    found = look.scenes(noise, drawn(count, 3, size))
    textures = look.images(torch.fft.rfft2(noise, norm="ortho"))
    torch.testing.assert_close(found.mean((-2, -1)), textures.mean((-2, -1)))
    opponents = torch.einsum("oc,bchw->bohw", torch.linalg.inv(colours(3)), found)
    own[..., 0, 0] = 0
    wanted = own.square().mean((-2, -1)).log() / 2
    error = opponents.var((-2, -1), correction=0).log() / 2 - wanted
    assert error.mean().abs() < 0.05
    assert error.std() < wanted.std() / 2
    assert 0 < TEXTURE < 1
    shapes = look.scenes(torch.zeros_like(noise), drawn(count, 3, size))
    alone = torch.einsum("oc,bchw->bohw", torch.linalg.inv(colours(3)), shapes)
    torch.testing.assert_close(
        alone.square().mean((-2, -1)).median(0).values
        / own.square().mean((-2, -1)).median(0).values,
        torch.full((3,), 1 - TEXTURE).double(),
        rtol=0.05,
        atol=0,
    )

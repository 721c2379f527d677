import math

import pytest
import torch
from toy_nets import MEAN, STD

from synth.canvas import MEAN_STEP, Canvas, Pixels, Spectrum
from synth.groups import Group
from synth.inversion import first_canvas
from synth.natural import Look, amplitudes
from synth.objective_settings import ObjectiveConfig
from synth.settings import SynthesisConfig

RED = ((0.5,), (0.5,))


def spectrum(start, mean, std) -> Canvas:
    """With what natural images have in common."""
    size = start.shape[-1]
    common = amplitudes(size).expand(*start.shape[:2], size, size)
    return Spectrum(start, mean, std, Look.of(common, torch.ones_like(common[:, :1])))


@pytest.fixture
def images():
    random = torch.Generator().manual_seed(3)
    return torch.randn(4, 3, 9, 9, dtype=torch.float64, generator=random).clamp(-0.5, 0.5)


@pytest.mark.parametrize("kind", [Pixels, spectrum])
def test_a_canvas_is_a_copy_within_the_range_of_pixels(kind):
    start = torch.full((1, 3, 8, 8), 50.0)
    canvas = kind(start, MEAN, STD)
    canvas.limit()
    top = (1 - torch.tensor(MEAN)) / torch.tensor(STD)
    torch.testing.assert_close(canvas.images().detach().amax(dim=(0, 2, 3)), top)
    assert start.eq(50).all()


@pytest.mark.parametrize("size", [8, 9])
def test_a_spectrum_stands_for_the_sum_of_its_waves(images, size):
    images = images[:1, :1, :size, :size]
    canvas = spectrum(images, *RED)
    torch.testing.assert_close(canvas.images(), images)
    scale, half = amplitudes(size), size // 2 + 1
    scale[0, 0] *= MEAN_STEP
    given = torch.view_as_complex(canvas.parameter.detach())[0, 0] * scale[:, :half]
    expected = torch.zeros(size, size, dtype=torch.float64)
    for row in range(size):
        for column in range(size):
            opposite = given[-row % size, (size - column) % half].conj()  # of a real image
            wave = given[row, column] if column < half else opposite
            for y in range(size):
                for x in range(size):
                    turn = 2 * math.pi * (row * y + column * x) / size
                    real = wave.real * math.cos(turn) - wave.imag * math.sin(turn)
                    expected[y, x] += real / size
    torch.testing.assert_close(canvas.images()[0, 0].detach(), expected)


def test_a_step_is_longer_in_light_than_in_colour():
    """Toward grey and blue against red at once, grey gains as many times as it is more spread."""
    start = torch.zeros(1, 3, 8, 8, dtype=torch.float64)
    canvas = spectrum(start, (0.5,) * 3, (0.5,) * 3)
    optimizer = torch.optim.Adam([canvas.parameter], lr=0.01)
    grey = torch.ones(3, dtype=torch.float64) / 3**0.5
    blue = torch.tensor([-1.0, 0.0, 1.0], dtype=torch.float64) / 2**0.5
    mean = canvas.images().mean(dim=(0, 2, 3))
    torch.autograd.backward(-(mean @ (grey + blue)))
    optimizer.step()
    moved = canvas.images().detach().mean(dim=(0, 2, 3))
    assert (moved @ grey / (moved @ blue)).item() == pytest.approx(1 / 0.3, rel=1e-3)


def test_what_is_within_the_range_is_left_alone_by_the_limit(images):
    canvas = spectrum(images, (0.5,) * 3, (0.5,) * 3)
    canvas.limit()
    torch.testing.assert_close(canvas.images(), images)


def test_a_step_is_longer_the_lower_the_frequency():
    """Toward a picture of two equal waves, the slow one gains as many times as it is slower."""
    size = 16
    rows = torch.arange(size, dtype=torch.float64)[:, None].expand(size, size)
    slow, fast = (torch.cos(2 * math.pi * waves * rows / size) for waves in (1, 4))
    canvas = spectrum(torch.zeros(1, 1, size, size, dtype=torch.float64), *RED)
    optimizer = torch.optim.Adam([canvas.parameter], lr=0.01)
    torch.autograd.backward(-(canvas.images() * (slow + fast)).sum())
    optimizer.step()
    moved = canvas.images().detach()[0, 0]
    gains = [(moved * wave).sum() / wave.square().sum() for wave in (slow, fast)]
    assert gains[0] / gains[1] == pytest.approx(4, rel=1e-3)


def test_a_step_is_longer_in_images_of_more_contrast():
    own = amplitudes(8) * torch.tensor([1.0, 3.0])[:, None, None, None]
    look = Look.of(own, torch.ones_like(own))
    canvas = Spectrum(torch.zeros(2, 1, 8, 8, dtype=torch.float64), *RED, look)
    optimizer = torch.optim.Adam([canvas.parameter], lr=0.01)
    pattern = torch.arange(64, dtype=torch.float64).sin()
    torch.autograd.backward((canvas.images().flatten(1) @ pattern).sum())
    optimizer.step()
    low, high = canvas.images().detach()
    torch.testing.assert_close(high, 3 * low, rtol=1e-3, atol=0)


def test_a_wave_is_larger_in_places_of_more_contrast():
    places = torch.ones(1, 1, 8, 8, dtype=torch.float64)
    places[..., 4:] = 3
    changes = []
    for contrast in (torch.ones_like(places), places):
        look = Look.of(amplitudes(8).expand(1, 1, 8, 8), contrast)
        canvas = Spectrum(torch.zeros(1, 1, 8, 8, dtype=torch.float64), *RED, look)
        with torch.no_grad():
            canvas.parameter[:, :, 1, 0] += 0.1  # a wave from above to below, of mean 0
        changes.append(canvas.images().detach())
    torch.testing.assert_close(changes[1], changes[0] * places)


def test_a_spectrum_is_the_same_in_every_normalisation():
    """Its first images, in [0, 1], and how far a step takes them."""
    group = Group(id=0, targets=(0, 1) * 4)
    settings = SynthesisConfig(resolutions=(16,), iterations=(1,), basis="spectrum")
    seen = []
    for mean, std in ((0.5, 0.5), (0.0, 1.0), (0.3, 0.125), (0.0, 1 / 255)):
        start = first_canvas((group,), settings, (mean,) * 3, (std,) * 3).double()
        canvas = spectrum(start, (mean,) * 3, (std,) * 3)
        with torch.no_grad():
            canvas.parameter += 0.1
        seen.append([images * std + mean for images in (start, canvas.images().detach())])
    for start, stepped in seen[1:]:
        torch.testing.assert_close(start, seen[0][0], atol=1e-5, rtol=0)
        torch.testing.assert_close(stepped, seen[0][1], atol=1e-5, rtol=0)
    assert seen[0][0].mean().item() == pytest.approx(0.5, abs=0.1)


def test_first_noise_has_natural_images_spectrum_and_spread():
    groups = tuple(Group(id=number, targets=(0,) * 40) for number in range(2))
    white, natural = (
        first_canvas(
            groups,
            SynthesisConfig(
                resolutions=(16,),
                iterations=(1,),
                basis=basis,
                objective=ObjectiveConfig(ep_weight=0, triplet_weight=0),
            ),
            (0.5, 0.5, 0.5),
            (0.5, 0.25, 0.25),
        )
        for basis in ("pixels", "spectrum")
    )
    assert white.std().item() == pytest.approx(1, abs=0.05)
    pixels = natural * torch.tensor([0.5, 0.25, 0.25])[:, None, None]
    assert pixels.std().item() == pytest.approx(0.25, abs=0.02)
    assert torch.corrcoef(pixels.transpose(0, 1).flatten(1))[0, 2].item() > 0.7
    assert pixels.mean((-2, -1)).std() > 0.35 * pixels.std()  # some are darker than others
    power = torch.fft.fft2(natural).abs().square().mean(dim=(0, 1)).sqrt()
    assert (power[0, 1] / power[0, 4]).item() == pytest.approx(4, rel=0.2)
    assert natural.dtype == torch.float32

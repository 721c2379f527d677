"""scripts/measure_natural.py finds in images what they were drawn with."""

import importlib.util
from pathlib import Path

import pytest
import torch

from synth.natural import MEAN, STD, Look, amplitudes_of_each

SCRIPT = Path(__file__).parents[2] / "scripts" / "measure_natural.py"
COUNT, SIZE = 1000, 32


@pytest.fixture(scope="module")
def measure():
    spec = importlib.util.spec_from_file_location("measure_natural", SCRIPT)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module.measure


def test_what_images_were_drawn_with_is_found(measure):
    random = torch.Generator().manual_seed(0)
    own = amplitudes_of_each(COUNT, 3, SIZE, random)
    look = Look.of(own, torch.ones(COUNT, 1, SIZE, SIZE, dtype=torch.float64))
    noise = torch.randn(COUNT, 3, SIZE, SIZE, generator=random, dtype=torch.float64)
    found = measure(0.5 + STD * look.images(torch.fft.rfft2(noise, norm="ortho")))
    assert found["std"] == pytest.approx(STD, rel=0.05)
    assert found["lowest"] == pytest.approx(MEAN, rel=0.1)
    # An image has few waves of low frequencies: it differs by chance besides, and their logarithms
    # lie lower, which takes 0.06 from the slope.
    assert found["slope"] == pytest.approx(-0.06, abs=0.02)
    assert found["slope between images"] == pytest.approx(0.2, rel=0.2)
    assert found["log contrast between images"] == pytest.approx(0.3, rel=0.2)
    assert found["log colour between images"] == pytest.approx(0.6, rel=0.2)


def test_calm_and_busy_places_are_told_from_places_that_are_alike(measure):
    noise = 0.5 + 0.1 * torch.rand(COUNT, 3, SIZE, SIZE, dtype=torch.float64)
    alike = measure(noise)["log contrast between places"]
    noise[..., : SIZE // 2] = 0.5 + (noise[..., : SIZE // 2] - 0.5) / 8
    differ = measure(noise)["log contrast between places"]
    assert alike < 0.15
    assert differ == pytest.approx(torch.log(torch.tensor(8.0)).item() / 2, rel=0.1)

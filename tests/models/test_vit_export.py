import os
import subprocess
import sys
from pathlib import Path

import pytest

EXPORT = """
import sys
sys.path.insert(0, sys.argv[1])
import torch
from test_vit import images, student
batch = torch.export.Dim("batch", min=1, max=64)
for kwargs in ({}, {"mhca_fusion": "gated"}, {"dynamic_img_size": True}):
    model = student(**kwargs)
    program = torch.export.export(model, (images(),), dynamic_shapes=({0: batch},))
    for size in (1, 5):
        x = images(batch=size)
        torch.testing.assert_close(program.module()(x), model(x), rtol=1e-4, atol=1e-5)
    fixed = torch.export.export(model, (images(),)).module()
    torch.testing.assert_close(fixed(images()), model(images()), rtol=1e-4, atol=1e-5)
    compiled = torch.compile(model, backend=sys.argv[2], fullgraph=True)
    compiled(images()).sum().backward()
    torch.testing.assert_close(compiled(images()), model(images()), rtol=1e-4, atol=1e-5)
    if "dynamic_img_size" in kwargs:
        x = images(24, 12)
        torch.testing.assert_close(compiled(x), model(x), rtol=1e-4, atol=1e-5)
with torch.autocast("cpu", torch.bfloat16):
    model = student()
    out = torch.compile(model, backend=sys.argv[2], fullgraph=True)(images())
    torch.testing.assert_close(out, model(images()), rtol=5e-2, atol=5e-2)

# A compiler that removes float32 -> bfloat16 -> float32 would leave nothing in the low half.
from dearkd.models.position import (
    initial_positions, patch_coordinates, position_channels, split_channels,
)

def halves(query, key):
    return [channels.bfloat16() for channels in split_channels(query, key)]

four = position_channels(*initial_positions(9), patch_coordinates((4, 4)), 2, 12**-0.5)
for got, expected in zip(torch.compile(halves, backend=sys.argv[2])(*four), halves(*four)):
    assert torch.equal(got, expected)
    assert expected[..., 1].any() and expected[..., -1].any()
"""


def run_without_shape_checks(backend: str) -> None:
    """In its own process: the checked shapes of the tests are not for the compiler to trace."""
    environment = {**os.environ, "DEARKD_NO_SHAPE_CHECKS": "1", "JAXTYPING_DISABLE": "1"}
    command = [sys.executable, "-c", EXPORT, str(Path(__file__).parent), backend]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-2000:]


def test_exports_and_compiles() -> None:
    run_without_shape_checks("eager")


@pytest.mark.slow
def test_compiles_with_inductor() -> None:
    run_without_shape_checks("inductor")

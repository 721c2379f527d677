"""Students exported by torch.export and compiled whole (run by ``tests/test_unchecked.py``)."""

from typing import Any

import pytest
import torch
from test_vit import images, student

from dearkd.models.position import (
    initial_positions,
    patch_coordinates,
    position_channels,
    split_channels,
)

BACKENDS = ["eager", pytest.param("inductor", marks=pytest.mark.slow)]
STUDENTS: list[dict[str, Any]] = [{}, {"mhca_fusion": "gated"}, {"dynamic_img_size": True}]


def shallow(**settings: Any) -> Any:
    """A block of either kind."""
    return student(depth=2, mhca_depth=1, **settings)


@pytest.mark.parametrize("settings", STUDENTS, ids=lambda settings: "".join(settings) or "plain")
def test_export_takes_any_batch(settings: dict[str, Any]) -> None:
    model, batch = shallow(**settings), torch.export.Dim("batch", min=1, max=64)
    program = torch.export.export(model, (images(),), dynamic_shapes=({0: batch},))
    for size in (1, 5):
        x = images(batch=size)
        torch.testing.assert_close(program.module()(x), model(x), rtol=1e-4, atol=1e-5)
    fixed = torch.export.export(model, (images(),)).module()
    torch.testing.assert_close(fixed(images()), model(images()), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("settings", STUDENTS, ids=lambda settings: "".join(settings) or "plain")
def test_one_graph_is_compiled(settings: dict[str, Any], backend: str) -> None:
    model = shallow(**settings)
    compiled = torch.compile(model, backend=backend, fullgraph=True)
    compiled(images()).sum().backward()
    torch.testing.assert_close(compiled(images()), model(images()), rtol=1e-4, atol=1e-5)
    if "dynamic_img_size" in settings:
        x = images(24, 12)
        torch.testing.assert_close(compiled(x), model(x), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("backend", BACKENDS)
def test_one_graph_is_compiled_under_autocast(backend: str) -> None:
    with torch.autocast("cpu", torch.bfloat16):
        model = shallow()
        out = torch.compile(model, backend=backend, fullgraph=True)(images())
        torch.testing.assert_close(out, model(images()), rtol=5e-2, atol=5e-2)


@pytest.mark.parametrize("backend", BACKENDS)
def test_a_compiler_keeps_what_rounding_leaves(backend: str) -> None:
    """One that removed float32 -> bfloat16 -> float32 would leave nothing in the low half."""

    def halves(query: torch.Tensor, key: torch.Tensor) -> list[torch.Tensor]:
        return [channels.bfloat16() for channels in split_channels(query, key)]

    four = position_channels(*initial_positions(9), patch_coordinates((4, 4)), 2, 12**-0.5)
    compiled = torch.compile(halves, backend=backend)(*four)
    for got, expected in zip(compiled, halves(*four), strict=True):
        assert torch.equal(got, expected)
        assert expected[..., 1].any()
        assert expected[..., -1].any()

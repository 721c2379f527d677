"""The aligner: its grid, its range, and its layers against plain sums."""

import pytest
import torch
import torch.nn.functional as F

from dearkd.errors import UserError
from dearkd.models.aligner import Aligner, AlignerForm, moments, resample

POINTWISE = AlignerForm(aligner="pointwise", aligner_norm=False, target_scale="none")


@pytest.mark.parametrize("size", [(4, 4), (7, 5), (2, 3), (8, 8)])
def test_gives_the_teachers_width_on_the_teachers_grid(size: tuple[int, int]) -> None:
    aligner = Aligner(6, 10, nonnegative=False)
    assert aligner(torch.randn(3, 6, 4, 4), size).shape == (3, 10, *size)


def test_shrinking_takes_the_mean_of_each_cell() -> None:
    maps = torch.arange(16.0).view(1, 1, 4, 4)
    expected = torch.tensor([[[[2.5, 4.5], [10.5, 12.5]]]])
    assert torch.equal(resample(maps, (2, 2)), expected)


def test_growing_keeps_a_linear_map_linear() -> None:
    maps = torch.arange(4.0).view(1, 1, 1, 4).expand(1, 1, 4, 4)
    grown = resample(maps, (8, 8))[0, 0]
    torch.testing.assert_close(grown[0, 1:-1], torch.arange(6) / 2 + 0.25)


def test_is_the_composition_that_its_docstring_names() -> None:
    torch.manual_seed(0)
    aligner = Aligner(3, 5, nonnegative=True).double()
    with torch.no_grad():
        aligner.norm.weight.uniform_(0.5, 2)
        aligner.norm.bias.uniform_(-1, 1)
    maps = torch.randn(2, 3, 4, 4, dtype=torch.float64)
    wide = torch.einsum("oi,bihw->bohw", aligner.proj.weight[:, :, 0, 0], maps)
    wide = F.pad(wide + aligner.proj.bias[:, None, None], (1, 1, 1, 1))
    # The border is zero, so that a padded pixel has no bias either.
    slow = torch.zeros(2, 5, 4, 4, dtype=torch.float64)
    for i in range(3):
        for j in range(3):
            kernel = aligner.depthwise.weight[:, 0, i, j, None, None]
            slow += kernel * wide[:, :, i : i + 4, j : j + 4]
    slow += aligner.depthwise.bias[:, None, None]
    centred = slow - slow.mean(1, keepdim=True)
    normal = centred / (centred.square().mean(1, keepdim=True) + aligner.norm.eps).sqrt()
    scaled = normal * aligner.norm.weight[:, None, None] + aligner.norm.bias[:, None, None]
    torch.testing.assert_close(aligner(maps, (4, 4)), scaled.clamp(min=0), rtol=0, atol=1e-12)


def test_range_follows_the_sign_of_the_stage() -> None:
    torch.manual_seed(0)
    maps = torch.randn(4, 6, 4, 4)
    assert Aligner(6, 8, nonnegative=True)(maps, (4, 4)).min() == 0
    assert Aligner(6, 8, nonnegative=False)(maps, (4, 4)).min() < -0.5


def test_an_image_does_not_depend_on_its_batch() -> None:
    aligner = Aligner(6, 8, nonnegative=True).double()
    maps = torch.randn(3, 6, 4, 4, dtype=torch.float64)
    alone = torch.cat([aligner(image[None], (2, 2)) for image in maps])
    torch.testing.assert_close(aligner(maps, (2, 2)), alone, rtol=0, atol=1e-12)


@pytest.mark.parametrize("widths", [(0, 4), (4, 0)])
def test_refuses_a_width_of_zero(widths: tuple[int, int]) -> None:
    with pytest.raises(ValueError, match="at least 1, got"):
        Aligner(*widths, nonnegative=True)


@pytest.mark.parametrize(("size", "grid"), [((8, 8), (8, 8)), ((2, 2), (4, 4)), ((2, 8), (4, 8))])
def test_a_pointwise_aligner_meets_on_the_larger_grid(
    size: tuple[int, int], grid: tuple[int, int]
) -> None:
    maps, teacher_map = torch.randn(2, 6, 4, 4), torch.randn(2, 10, *size)
    aligner = Aligner(6, 10, nonnegative=False, form=POINTWISE)
    assert aligner(maps, size).shape == (2, 10, *grid)
    expected = F.interpolate(teacher_map, grid, mode="bilinear")
    torch.testing.assert_close(aligner.target(teacher_map, maps), expected)
    assert [name for name, _ in aligner.named_parameters()] == ["proj.weight", "proj.bias"]


@pytest.mark.parametrize("nonnegative", [True, False])
def test_a_measured_stage_has_unit_mean_square(nonnegative: bool) -> None:
    torch.manual_seed(0)
    teacher_map = 7 * torch.randn(6, 5, 4, 4) * torch.rand(6, 1, 4, 4) + 3
    teacher_map = teacher_map.relu() if nonnegative else teacher_map
    aligner = Aligner(3, 5, nonnegative, AlignerForm(target_scale="stage"))
    aligner.measure(map(moments, teacher_map.split(2)))
    target = aligner.target(teacher_map, torch.zeros(6, 3, 4, 4))
    assert target.square().mean().item() == pytest.approx(1, rel=1e-5)
    centre = teacher_map.mean((0, 2, 3), keepdim=True)
    shifted = teacher_map if nonnegative else teacher_map - centre
    torch.testing.assert_close(target * shifted.square().mean().sqrt(), shifted)


def test_a_stage_that_says_nothing_is_refused() -> None:
    aligner = Aligner(3, 5, nonnegative=True, form=AlignerForm(target_scale="stage"))
    with pytest.raises(UserError, match="features are constant"):
        aligner.measure([moments(torch.zeros(2, 5, 4, 4))])


def test_norm_and_relu_can_be_left_out_or_forced() -> None:
    maps = torch.randn(4, 6, 4, 4)
    bare = Aligner(6, 8, True, AlignerForm(aligner_norm=False, aligner_relu=False))
    torch.testing.assert_close(bare(maps, (4, 4)), bare.depthwise(bare.proj(maps)))
    with pytest.raises(UserError, match="can't reach the negative features"):
        Aligner(6, 8, False, AlignerForm(aligner_relu=True))

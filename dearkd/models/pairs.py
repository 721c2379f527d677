"""Which student block learns from which teacher stage.

Source:
    Chen et al. 2022 (DearKD), https://arxiv.org/abs/2204.12997, early distillation; Li et al. 2022
    (Locality Guidance), https://arxiv.org/abs/2207.10026, several pairs.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal, Protocol, runtime_checkable

from torch import nn

from dearkd.errors import UserError
from dearkd.models.aligner import AlignerForm
from dearkd.models.attention import MultiHeadConvAttention
from dearkd.models.create import model_name
from dearkd.models.teacher import Teacher, default_stage
from dearkd.models.vit import patch_drop_rate

__all__ = [
    "PRESETS",
    "AlignedPair",
    "PairLike",
    "PairPreset",
    "Preset",
    "chosen_pairs",
    "default_pair",
    "spread_pairs",
]

PairPreset = Literal["last", "early-middle-late"]


@dataclass(frozen=True)
class Preset:
    """What goes with a choice of pairs where nothing else is said."""

    weight: float
    """Of the hidden loss."""
    form: AlignerForm


PRESETS: dict[PairPreset, Preset] = {
    "last": Preset(1.0, AlignerForm()),
    "early-middle-late": Preset(
        2.5,
        AlignerForm(
            aligner="pointwise", target_scale="none", aligner_norm=False, aligner_relu=False
        ),
    ),
}
"""DearKD's own, whose weight is ours, and Locality Guidance's."""


@runtime_checkable
class PairLike(Protocol):
    """A student block, a teacher stage, and whether the stage's features are non-negative."""

    @property
    def block(self) -> int: ...  # noqa: D102
    @property
    def stage(self) -> int: ...  # noqa: D102
    @property
    def nonnegative(self) -> bool | None: ...  # noqa: D102


@dataclass(frozen=True)
class AlignedPair:
    """The output of a student block must predict a teacher stage; both are counted from 0."""

    block: int
    stage: int
    nonnegative: bool | None = None
    """Whether the stage ends in a ReLU; None reads it from the network."""


def chosen_pairs(
    student: nn.Module, teacher: Teacher, pairs: Sequence[PairLike], preset: PairPreset | None
) -> tuple[AlignedPair, ...]:
    """The pairs that are named, or else those of the preset (``last`` where there is none).

    Raises:
        UserError: If both are given, a block or stage is not there, a pair is named twice, or the
            student drops patches.
    """
    if rate := patch_drop_rate(student):
        raise UserError(
            f"method dearkd needs the whole grid of patches, of which student_args.patch_drop_rate="
            f"{rate:g} drops some; leave it out, or choose --method deit-hard, deit-soft or deit"
        )
    if pairs and preset is not None:
        raise UserError(
            f"distill.pair_preset={preset} has no effect beside distill.pairs, which names the "
            "pairs itself; leave one of them out"
        )
    if preset == "early-middle-late":
        pairs = spread_pairs(student, teacher)
    found = [
        _resolved(pair, student, teacher) for pair in pairs or [default_pair(student, teacher)]
    ]
    places = [(pair.block, pair.stage) for pair in found]
    for block, stage in places:
        if places.count((block, stage)) > 1:
            raise UserError(
                f"distill.pairs has block {block} with stage {stage} twice, which only doubles its "
                "weight; leave one out"
            )
    return tuple(found)


def default_pair(student: nn.Module, teacher: Teacher) -> AlignedPair:
    """The last MHCA block and the teacher stage whose grid is nearest to the student's tokens.

    Departure:
        The paper names no layers. A student without MHCA is tapped where it would end, after two
        thirds of its blocks.

    Raises:
        UserError: If the student has no blocks on a patch grid, or the teacher no stages.
    """
    blocks, grid = _blocks_and_grid(student)
    layers = [getattr(block, "attn", None) for block in blocks]  # parallel blocks have several
    convolutional = [i for i, a in enumerate(layers) if isinstance(a, MultiHeadConvAttention)]
    block = convolutional[-1] if convolutional else max(0, 2 * len(blocks) // 3 - 1)
    return AlignedPair(block, default_stage(teacher, grid).index)


def spread_pairs(student: nn.Module, teacher: Teacher) -> tuple[AlignedPair, ...]:
    """The first, middle and last block with an early, a middle and the last stage of the teacher.

    Stages on one grid count once, by the deepest of them. The middle is the block, or the grid,
    after which half of the network is done.

    Source:
        Li et al. 2022 (Locality Guidance), https://arxiv.org/abs/2207.10026.

    Raises:
        UserError: If the student has fewer than three blocks, or the teacher fewer than three
            grids.
    """
    blocks, _ = _blocks_and_grid(student)
    by_grid = {stage.grid: stage.index for stage in teacher.stages}
    stages = list(by_grid.values())
    for what, count in (("teacher with three grids", len(stages)), ("student", len(blocks))):
        if count < 3:
            raise UserError(
                f"distill.pair_preset=early-middle-late needs a {what}"
                f"{' of three blocks' if what == 'student' else ''}, and this one has {count}; "
                "name the pairs by distill.pairs, or choose one: --set distill.pair_preset=last "
                "(after --recipe best, if that chose three)"
            )
    places = zip(_spread(len(blocks)), _spread(len(stages)), strict=True)
    return tuple(AlignedPair(block, stages[row]) for block, row in places)


def _spread(count: int) -> tuple[int, int, int]:
    """Positions of the first of so many, the middle one and the last."""
    return 0, (count - 1) // 2, count - 1


def _blocks_and_grid(student: nn.Module) -> tuple[Any, tuple[int, int]]:
    """The blocks of a vision transformer, and rows and columns of its patches."""
    blocks: Any = getattr(student, "blocks", None)
    grid: Any = getattr(getattr(student, "patch_embed", None), "grid_size", None)
    if blocks is None or grid is None:
        raise UserError(
            f"method dearkd needs a vision transformer with blocks on a patch grid, which "
            f"{model_name(student)} is not; choose a dearkd_* or deit_*_distilled student"
        )
    return blocks, (int(grid[0]), int(grid[1]))


def _resolved(pair: PairLike, student: nn.Module, teacher: Teacher) -> AlignedPair:
    """The pair with ``nonnegative`` known, after a check that block and stage exist.

    Raises:
        UserError: If the student has no such block or the teacher no such stage.
    """
    depth = len(student.blocks) if hasattr(student, "blocks") else 0  # type: ignore[arg-type]
    if not 0 <= pair.block < depth:
        raise UserError(
            f"pair block must be 0 to {depth - 1} for student {model_name(student)}, "
            f"got {pair.block}"
        )
    detected = teacher.stage(pair.stage).nonnegative
    return AlignedPair(
        pair.block, pair.stage, detected if pair.nonnegative is None else pair.nonnegative
    )

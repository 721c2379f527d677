"""Which student block learns from which teacher stage.

Source:
    Chen et al. 2022 (DearKD), https://arxiv.org/abs/2204.12997, early distillation.
"""

from dataclasses import dataclass
from typing import Any, Protocol, runtime_checkable

from torch import nn

from dearkd.errors import UserError
from dearkd.models.attention import MultiHeadConvAttention
from dearkd.models.teacher import Teacher, default_stage

__all__ = ["AlignedPair", "PairLike", "default_pair", "model_name", "resolved"]


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


def default_pair(student: nn.Module, teacher: Teacher) -> AlignedPair:
    """The last MHCA block and the teacher stage whose grid is nearest to the student's tokens.

    Departure:
        The paper names no layers. A student without MHCA is tapped where it would end, after two
        thirds of its blocks.

    Raises:
        UserError: If the student has no blocks on a patch grid, or the teacher no stages.
    """
    blocks: Any = getattr(student, "blocks", None)
    grid = getattr(getattr(student, "patch_embed", None), "grid_size", None)
    if blocks is None or grid is None:
        raise UserError(
            f"method dearkd needs a vision transformer with blocks on a patch grid, which "
            f"{model_name(student)} is not; choose a dearkd_* or deit_*_distilled student"
        )
    convolutional = [i for i, b in enumerate(blocks) if isinstance(b.attn, MultiHeadConvAttention)]
    block = convolutional[-1] if convolutional else max(0, 2 * len(blocks) // 3 - 1)
    return AlignedPair(block, default_stage(teacher, (int(grid[0]), int(grid[1]))).index)


def resolved(pair: PairLike, student: nn.Module, teacher: Teacher) -> AlignedPair:
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


def model_name(student: nn.Module) -> str:
    """The student's name in timm, or else the name of its class."""
    cfg: Any = getattr(student, "pretrained_cfg", None)
    architecture = cfg.get("architecture") if cfg else None
    return architecture or type(student).__name__

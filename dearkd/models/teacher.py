"""The frozen teacher gives logits and stage features of the student's own images in one forward.

Every classifier can give logits. One with timm's ``forward_intermediates`` and ``forward_head`` has
stages too, and ``with_named_taps`` gives both functions to any module that torch.fx can trace.
"""

import inspect
import math
from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from fractions import Fraction
from functools import cached_property
from typing import Any, Literal, NamedTuple, Protocol

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor, nn

from dearkd.errors import UserError
from dearkd.models.position import at_least_float32
from dearkd.models.precision import precision_context
from dearkd.models.taps import TeacherStage, describe_stages

__all__ = ["Form", "Memory", "Precision", "Teacher", "TeacherOutput", "default_stage"]

Precision = Literal["auto", "fp32", "bf16", "mixed"]
Form = Literal["labels", "logits"]
"""How much of an answer counts: the argmax of the logits, or all of them."""
EARLY = {"stop_early", "intermediates_only"}
"""Arguments of a ``forward_intermediates`` that may end at the deepest stage asked for."""


class Memory(Protocol):
    """What a teacher answered to views before, by their number in the run's order."""

    def recall(
        self, views: Int[Tensor, " batch"], device: torch.device
    ) -> Float[Tensor, "batch classes"] | None:
        """The logits of these views on the device; None where one of them is not known."""

    def record(
        self, views: Int[Tensor, " batch"], logits: Float[Tensor, "batch classes"]
    ) -> Float[Tensor, "batch classes"]:
        """Keeps the logits of views that have a number, and returns all as it will recall them."""


class TeacherOutput(NamedTuple):
    """What one forward pass of the teacher gives, in float32."""

    logits: Tensor
    features: tuple[Tensor, ...]
    """One (batch, channels, rows, columns) map for each stage asked for."""


class Teacher(nn.Module):
    """A classifier that is never trained, fed with images normalised for the student.

    ``mean`` and ``std`` default to those of ``model.pretrained_cfg``; pixels are taken from the
    student's normalisation to them by one multiply-add. A model with a fixed input size other than
    ``img_size`` has its input resized. ``precision``: "auto" follows the caller's context, the
    others override it. Parameters are frozen, and ``train()`` leaves everything in eval mode, for
    BatchNorm statistics would drift silently. Where ``memory`` is set, numbered views are asked of
    it first.

    Raises:
        UserError: If mean and std or the number of classes are neither given nor in the model.
    """

    scale: Tensor
    shift: Tensor

    def __init__(
        self,
        model: nn.Module,
        *,
        student_mean: Sequence[float],
        student_std: Sequence[float],
        mean: Sequence[float] | None = None,
        std: Sequence[float] | None = None,
        img_size: int | None = None,
        class_names: Sequence[str] | None = None,
        precision: Precision = "auto",
    ) -> None:
        super().__init__()
        cfg: dict[str, Any] = getattr(model, "pretrained_cfg", None) or {}
        own_mean, own_std = mean or cfg.get("mean"), std or cfg.get("std")
        if own_mean is None or own_std is None:
            raise UserError(f"teacher {type(model).__name__} has no pretrained_cfg: give mean, std")
        num_classes = getattr(model, "num_classes", None)
        if not isinstance(num_classes, int) or num_classes < 1:
            raise UserError(
                f"teacher {type(model).__name__} must have num_classes of at least 1, "
                f"got {num_classes}"
            )
        self.model = model.requires_grad_(False).eval()
        self.num_classes = num_classes
        self.class_names = tuple(class_names) if class_names is not None else None
        self.precision: Precision = precision
        self.memory_format = torch.contiguous_format
        self.memory: Memory | None = None
        taken = inspect.signature(getattr(model, "forward_intermediates", model.forward)).parameters
        self.stops_early = taken.keys() >= EARLY
        """Whether its later layers can be left out where features alone are wanted."""
        size = int(cfg["input_size"][-1]) if "input_size" in cfg else None
        self.img_size = img_size or size
        self.resize = size if cfg.get("fixed_input_size") and size != self.img_size else None
        self.mean, self.std = tuple(own_mean), tuple(own_std)
        self.student_mean, self.student_std = tuple(student_mean), tuple(student_std)
        scale, shift = _renormalisation(student_mean, student_std, own_mean, own_std)
        self.same_pixels = bool((scale == 1).all() and (shift == 0).all())
        self.register_buffer("scale", scale, persistent=False)
        self.register_buffer("shift", shift, persistent=False)

    def train(self, mode: bool = True) -> "Teacher":
        """Leaves everything in eval mode, whatever ``mode`` is."""
        super().train(False)
        return self

    @torch.no_grad()
    def forward(
        self,
        images: Float[Tensor, "batch channels height width"],
        stages: Sequence[int] = (),
        views: Int[Tensor, " batch"] | None = None,
    ) -> TeacherOutput:
        """Logits and the maps of ``stages``, in that order, of images as the student gets them.

        ``views`` are their numbers. Where the memory knows the logits of all of them, only what
        the maps need is computed, and nothing where no map is asked for.
        """
        memory = self.memory
        known = None
        if memory is not None and views is not None:
            known = memory.recall(views, images.device)
        wanted = sorted(set(stages))
        with self._precision(images.device):
            logits, maps = self._computed(images, wanted, known)
        logits = at_least_float32(logits)
        if memory is not None and views is not None and known is None:
            logits = memory.record(views, logits)
        features = tuple(at_least_float32(maps[wanted.index(stage)]) for stage in stages)
        return TeacherOutput(logits, features)

    def pixels(
        self, images: Float[Tensor, "batch channels height width"]
    ) -> Float[Tensor, "batch channels rows columns"]:
        """The images in the teacher's own normalisation, size and memory layout."""
        if not self.same_pixels:
            images = images * self.scale.to(images.dtype) + self.shift.to(images.dtype)
        if self.resize is not None and images.shape[-2:] != (self.resize, self.resize):
            images = F.interpolate(
                images, (self.resize, self.resize), mode="bicubic", antialias=True
            )
        return images.contiguous(memory_format=self.memory_format)

    def set_memory_format(self, memory_format: torch.memory_format) -> None:
        """Puts weights, and later images, into that memory format."""
        self.memory_format = memory_format
        self.model.to(memory_format=memory_format)

    @cached_property
    def stages(self) -> tuple[TeacherStage, ...]:
        """Every place to tap, found by a forward pass of one blank image of ``img_size``.

        Raises:
            UserError: If the model has no ``forward_intermediates`` that agrees with its forward.
        """
        if self.img_size is None:
            raise UserError(f"teacher {type(self.model).__name__} must be given its img_size")
        return describe_stages(self.model, self.resize or self.img_size)

    def stage(self, index: int) -> TeacherStage:
        """The stage of that index.

        Raises:
            UserError: If there is none.
        """
        if not 0 <= index < len(self.stages):
            raise UserError(
                f"pair stage must be 0 to {len(self.stages) - 1} for this teacher, got {index}"
            )
        return self.stages[index]

    def _computed(
        self, images: Tensor, wanted: list[int], known: Tensor | None
    ) -> tuple[Tensor, Sequence[Tensor]]:
        """The logits, computed unless they are ``known``, and the maps of the wanted stages."""
        model: Any = self.model
        if not wanted:
            return (model(self.pixels(images)) if known is None else known), ()
        pixels = self.pixels(images)
        if known is not None and self.stops_early:
            return known, model.forward_intermediates(
                pixels, indices=wanted, stop_early=True, intermediates_only=True
            )
        final, maps = model.forward_intermediates(pixels, indices=wanted)
        return (model.forward_head(final) if known is None else known), maps

    def _precision(self, device: torch.device) -> AbstractContextManager[Any]:
        if self.precision == "auto":
            return nullcontext()
        return precision_context(device, self.precision)


def default_stage(teacher: Teacher, token_grid: tuple[int, int]) -> TeacherStage:
    """The stage to tap: the one whose grid is nearest to the tokens', the deepest of several.

    Grids are compared by the ratios of their rows and of their columns.

    Departure:
        The paper does not name the stage. With 16-px patches this is the end of the last stage of
        stride 16: 14 x 14 at 224 px in ResNet-50 and RegNetY-16GF.
    """

    def distance(stage: TeacherStage) -> Fraction:
        sides = list(zip(stage.grid, token_grid, strict=True))
        return math.prod((Fraction(max(side), min(side)) for side in sides), start=Fraction(1))

    return min(reversed(teacher.stages), key=distance)


def _renormalisation(
    student_mean: Sequence[float],
    student_std: Sequence[float],
    mean: Sequence[float],
    std: Sequence[float],
) -> tuple[Float[Tensor, "channels 1 1"], Float[Tensor, "channels 1 1"]]:
    """The scale and shift that turn the student's pixels x into the teacher's x * scale + shift."""
    rows = [torch.tensor(v, dtype=torch.float64) for v in (student_mean, student_std, mean, std)]
    scale, shift = rows[1] / rows[3], (rows[0] - rows[2]) / rows[3]
    return scale.float()[:, None, None], shift.float()[:, None, None]

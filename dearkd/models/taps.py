"""The stages at which a network can be tapped, their sign, and stages named by the user."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torchvision.models.feature_extraction import create_feature_extractor, get_graph_node_names

from dearkd.errors import UserError, one_line

__all__ = ["TeacherStage", "describe_stages", "is_nonnegative", "with_named_taps"]

WRAPPER = "dearkd.models.taps.with_named_taps"
_POSITIVE = {"Relu", "Sigmoid", "Hardsigmoid", "Softplus", "Softmax", "Exp", "Abs"}
"""Operations (as autograd names them) whose output is never negative."""
_KEEP_SIGN = {
    *("Add", "Alias", "AdaptiveAvgPool2D", "AvgPool2D", "Cat", "Clone", "Expand", "MaxPool2D"),
    *("MaxPool2DWithIndices", "Mean", "Mul", "Permute", "ReshapeAlias", "Select", "Slice", "Split"),
    *("Squeeze", "Stack", "Sum", "ToCopy", "Transpose", "Unsqueeze", "UnsafeView"),
    *("UpsampleBilinear2D", "UpsampleNearest2D", "View"),
}
"""Operations whose output is never negative if no input is."""


@dataclass(frozen=True)
class TeacherStage:
    """A place where the teacher can be tapped."""

    index: int
    """Its index, as ``forward_intermediates`` counts."""
    channels: int
    grid: tuple[int, int]
    """Rows and columns of its map."""
    reduction: int
    """Pixels of the teacher's input along a side of one cell."""
    nonnegative: bool
    """Whether its features can't be negative, because they come from a ReLU or the like."""


def describe_stages(model: nn.Module, size: int) -> tuple[TeacherStage, ...]:
    """Every place to tap, found by a forward pass of one blank image of ``size`` pixels a side.

    Raises:
        UserError: If the model has no ``forward_intermediates`` that agrees with its forward.
    """
    network: Any = model
    if not hasattr(network, "forward_intermediates"):
        raise UserError(
            f"teacher {type(model).__name__} shows no stages (no forward_intermediates); choose "
            f"--method deit-hard or a timm CNN, or wrap it in {WRAPPER} when you register it"
        )
    weight = next(iter(model.parameters()))
    blank = torch.zeros(1, 3, size, size, device=weight.device, dtype=weight.dtype)
    with torch.enable_grad():
        final, maps = network.forward_intermediates(blank.requires_grad_())
        two_steps, one_step = network.forward_head(final), network(blank)
    if not torch.allclose(two_steps, one_step, rtol=1e-3, atol=1e-3):
        raise UserError(
            f"the forward_intermediates of teacher {type(model).__name__} does not end in what "
            f"its forward_head takes; wrap it in {WRAPPER}"
        )
    return tuple(_described(index, features, size) for index, features in enumerate(maps))


def is_nonnegative(features: Float[Tensor, "..."]) -> bool:
    """Whether a tensor can't be negative, judged by the operations that made it.

    This walks autograd's graph back through poolings, sums and reshapes. Every operation where the
    walk ends must be a ReLU or the like. An unknown operation counts as signed, because an aligner
    without a ReLU can reach non-negative targets, while one with a ReLU can't reach negative ones.
    """
    return _node_is_nonnegative(features.grad_fn)


def with_named_taps(model: nn.Module, taps: Sequence[str], num_classes: int) -> nn.Module:
    """The classifier as a teacher whose stages 0, 1, ... are the named nodes, in the given order.

    Names are those of ``torchvision.models.feature_extraction.get_graph_node_names``: submodules
    such as ``layer3``, or operations.

    Raises:
        UserError: If torch.fx can't trace the model, or it has no such node.
    """
    return _NamedTaps(model, tuple(taps), num_classes)


class _NamedTaps(nn.Module):
    """Gives a traced module timm's ``forward_intermediates`` and ``forward_head``."""

    def __init__(self, model: nn.Module, taps: tuple[str, ...], num_classes: int) -> None:
        super().__init__()
        name = type(model).__name__
        try:
            nodes = get_graph_node_names(model.eval())[1]
            self.taps, self.output, self.num_classes = taps, nodes[-1], num_classes
            self.extractor = create_feature_extractor(model, [*taps, self.output])
            self.early = create_feature_extractor(model, list(taps))  # without the layers behind
        except Exception as error:  # tracing runs the user's code
            reason = one_line(error)
            raise UserError(
                f"teacher {name} can't be tapped at {', '.join(taps)} ({reason}); give names from "
                "torchvision.models.feature_extraction.get_graph_node_names, or give the model a "
                "forward_intermediates as timm's have"
            ) from error

    def forward(self, images: Tensor) -> Tensor:
        return self.extractor(images)[self.output]

    def forward_intermediates(
        self,
        images: Tensor,
        indices: Sequence[int] | None = None,
        stop_early: bool = False,
        intermediates_only: bool = False,
    ) -> Any:
        nodes = (self.early if stop_early and intermediates_only else self.extractor)(images)
        wanted = range(len(self.taps)) if indices is None else indices
        maps = [nodes[self.taps[index]] for index in wanted]
        return maps if intermediates_only else (nodes[self.output], maps)

    def forward_head(self, final: Tensor) -> Tensor:
        return final


def _described(
    index: int, features: Float[Tensor, "1 channels rows columns"], size: int
) -> TeacherStage:
    channels, rows, columns = features.shape[1:]
    reduction = round(size / max(rows, 1))
    return TeacherStage(index, channels, (rows, columns), reduction, is_nonnegative(features))


def _node_is_nonnegative(node: Any) -> bool:
    name = type(node).__name__.rstrip("0123456789").removesuffix("Backward")
    if name in _POSITIVE:
        return True
    if name == "Hardtanh":  # ReLU6 is one
        return node._saved_min_val >= 0
    if name not in _KEEP_SIGN or getattr(node, "_saved_alpha", 1) < 0:
        return False
    return all(_node_is_nonnegative(source) for source, _ in node.next_functions)

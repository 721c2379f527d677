"""R_BN: how far a batch's statistics at every BatchNorm are from the stored ones, without hooks.

One autograd function a layer yields the layer's usual output *and* the batch statistics of its
input, so that autograd does not sum three gradients of that input: with n values a channel,

    grad_x = grad_y * scale + a * x + b,   a = 2 * grad_var / n,   b = grad_mean / n - a * mean
"""

import copy
from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Float
from timm.layers.norm_act import BatchNormAct2d
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from synth.refusal import SynthError
from synth.running_statistics import RunningStatistics

__all__ = [
    "BatchNormWithStatistics",
    "Recorder",
    "batch_norm_statistics",
    "frozen",
    "with_statistics",
]

NO_EPS = 1e-30
"""Lost in 1 + eps; torch 2.11 refuses 0."""


class _BatchNormStatistics(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, x: Tensor, scale: Tensor, shift: Tensor, groups: int
    ) -> tuple[Tensor, Tensor, Tensor]:
        grouped = x.view(groups, -1, *x.shape[1:]).to(scale.dtype)  # statistics never in bf16
        mean = grouped.mean(dim=(1, 3, 4))
        var = (grouped - mean[:, None, :, None, None]).square_().mean(dim=(1, 3, 4))
        ctx.save_for_backward(x, scale, mean)
        ctx.set_materialize_grads(False)
        return _affine(x, scale[None], shift[None]), mean, var

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *grads: Tensor | None) -> tuple[Tensor | None, None, None, None]:
        x, scale, mean = ctx.saved_tensors
        grad_y, grad_mean, grad_var = grads
        scale_4d = scale.to(x.dtype)[:, None, None]
        if grad_mean is None and grad_var is None:
            return (None if grad_y is None else grad_y * scale_4d), None, None, None
        n = x.numel() // mean.numel()
        a = torch.zeros_like(mean) if grad_var is None else 2 * grad_var / n
        b = (0 if grad_mean is None else grad_mean / n) - a * mean
        grad_x = _affine(x, a, b)
        if grad_y is not None:
            grad_x.addcmul_(grad_y, scale_4d)
        return grad_x, None, None, None


def batch_norm_statistics(
    x: Float[Tensor, "batch channels height width"],
    scale: Float[Tensor, "channels"],
    shift: Float[Tensor, "channels"],
    groups: int = 1,
) -> tuple[
    Float[Tensor, "batch channels height width"],
    Float[Tensor, "groups channels"],
    Float[Tensor, "groups channels"],
]:
    """``x * scale + shift`` in x's dtype, with mean and biased variance of x for each group.

    The batch is ``groups`` blocks of equal length. Statistics are computed and returned in the
    dtype of ``scale`` (float32 beside bf16 images). Differentiable once, with respect to x.
    """
    return _BatchNormStatistics.apply(x, scale, shift, groups)


class Recorder:
    """Collects the statistics of every BatchNorm's input during a forward of one network.

    ``seen`` has an entry for each layer, in the order of the forward: mean and variance of every
    group (groups, channels), stored mean and stored variance (channels).
    """

    def __init__(self) -> None:
        self.groups = 1
        self.seen: list[tuple[Tensor, Tensor, Tensor, Tensor]] = []
        self.running: RunningStatistics | None = None
        """Of the batches before; None: R_BN is that of the batch alone."""

    def start(self, groups: int) -> None:
        """Forget the last forward and expect a batch of ``groups`` equal blocks."""
        self.groups = groups
        self.seen = []

    def add(self, mean: Tensor, var: Tensor, stored_mean: Tensor, stored_var: Tensor) -> None:
        """Record one layer's statistics; called in the order of the forward."""
        self.seen.append((mean, var, stored_mean, stored_var))

    def loss(self, first_multiplier: float = 1.0, relative: bool = False) -> Tensor:
        """R_BN of each group: sum over layers of ||mean - stored||_2 + ||var - stored||_2.

        The first layer of the forward counts ``first_multiplier`` times. ``relative`` divides a
        layer's first norm by that of its stored standard deviations, its second by that of its
        stored variances.

        Source:
            Yin et al. 2020, https://arxiv.org/abs/1912.08795, equation 4.

        Departure:
            ``relative``: variances of a thousand beside variances of one (inverted bottlenecks
            without activation) leave all layers but the few largest without a say.
        """
        seen = self.seen if self.running is None else self.running.blended(self.seen)
        layers = [
            torch.linalg.vector_norm(mean - stored_mean, dim=1)
            / (torch.linalg.vector_norm(stored_var.sqrt()) if relative else 1.0)
            + torch.linalg.vector_norm(var - stored_var, dim=1)
            / (torch.linalg.vector_norm(stored_var) if relative else 1.0)
            for mean, var, stored_mean, stored_var in seen
        ]
        layers[0] = layers[0] * first_multiplier
        return torch.stack(layers).sum(dim=0)


class BatchNormWithStatistics(nn.Module):
    """An eval-mode BatchNorm2d (and its activation) that reports its input's statistics."""

    scale: Tensor
    shift: Tensor
    stored_mean: Tensor
    stored_var: Tensor

    def __init__(self, norm: nn.BatchNorm2d, recorder: Recorder) -> None:
        super().__init__()
        assert norm.running_mean is not None and norm.running_var is not None
        mean, var = norm.running_mean.detach().clone(), norm.running_var.detach().clone()
        weight = norm.weight.detach() if norm.affine else torch.ones_like(mean)
        bias = norm.bias.detach() if norm.affine else torch.zeros_like(mean)
        scale = weight * torch.rsqrt(var + norm.eps)
        self.register_buffer("scale", scale)
        self.register_buffer("shift", bias - mean * scale)
        self.register_buffer("stored_mean", mean)
        self.register_buffer("stored_var", var)
        self.act: Any = nn.Identity()
        if isinstance(norm, BatchNormAct2d):
            self.act = norm.act  # its drop is off in eval
        self.recorder = recorder

    def forward(self, x: Tensor) -> Tensor:
        """The original layer's output."""
        y, mean, var = batch_norm_statistics(x, self.scale, self.shift, self.recorder.groups)
        self.recorder.add(mean, var, self.stored_mean, self.stored_var)
        return self.act(y)


def with_statistics(network: nn.Module, dtype: torch.dtype) -> tuple[nn.Module, Recorder | None]:
    """A frozen eval copy of ``network`` in ``dtype`` whose BatchNorms report to the recorder.

    The network itself is left as it is. BatchNorm parameters and statistics stay in float32, or
    float64 with it. The recorder is None if there is no BatchNorm2d.

    Raises:
        SynthError: If a BatchNorm2d keeps no running statistics or has a forward of its own.
    """
    clone = frozen(network).to(dtype)
    stored = torch.float64 if dtype == torch.float64 else torch.float32
    recorder = Recorder()
    named = network.named_modules(remove_duplicate=False)
    norms = [(name, module) for name, module in named if isinstance(module, nn.BatchNorm2d)]
    for name, norm in norms:
        _check(name, norm)
        original = copy.deepcopy(norm).to(stored).eval()  # not by way of bf16
        clone.set_submodule(name, BatchNormWithStatistics(original, recorder))
    return clone, recorder if norms else None


def frozen(network: nn.Module) -> nn.Module:
    """A copy in eval mode without gradients; the network itself is left as it is."""
    return copy.deepcopy(network).eval().requires_grad_(False)


def _check(name: str, norm: nn.BatchNorm2d) -> None:
    if norm.running_mean is None or norm.running_var is None:
        raise SynthError(f"BatchNorm {name!r} keeps no running statistics; R_BN needs them")
    forward = type(norm).forward
    if forward not in (nn.BatchNorm2d.forward, BatchNormAct2d.forward):
        raise SynthError(
            f"BatchNorm {name!r} is a {type(norm).__name__} with its own forward; "
            "use nn.BatchNorm2d or timm's BatchNormAct2d"
        )


def _affine(x: Tensor, scale: Tensor, shift: Tensor) -> Tensor:
    """``x * scale + shift``, one row of ``scale`` and ``shift`` for each equal block of x.

    Through the eval-mode batch norm kernel: one pass, bf16 data with float32 factors.
    """
    zeros, ones = torch.zeros_like(scale[0]), torch.ones_like(scale[0])
    blocks = [
        F.batch_norm(block, zeros, ones, factor, offset, training=False, eps=NO_EPS)
        for block, factor, offset in zip(x.chunk(len(scale)), scale, shift, strict=True)
    ]
    return blocks[0] if len(blocks) == 1 else torch.cat(blocks)

"""timm's Muon as we run it: in float32 where that is the run's, and all at once on a GPU."""

import functools
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from jaxtyping import Float
from timm.optim import muon
from torch import Tensor, nn

__all__ = ["Muon"]

WARM_UP = 3
"""Steps that are launched before one is recorded. The first makes the moments and loads the
kernels, neither of which may happen while a graph is recorded."""


class Muon(muon.Muon):
    """timm's Muon, with three things that it has no setting for.

    It iterates in float32 where that is wanted: timm does in bfloat16, which takes ten times as
    long on a CPU without units for it. On a GPU all matrices of a shape are iterated together,
    since timm's launch of a kernel for each takes longer than the kernel. And there a step can be
    replayed as a CUDA graph (``replayed``). What is computed is the same, up to rounding.

    Args:
        groups: Parameter groups; those with ``use_fallback`` are NAdamW's.
        lr: Learning rate of both.
        momentum: Share of earlier gradients that a matrix's step keeps, in Nesterov's form.
        iterates: The numbers that Newton and Schulz's iteration works in.
        stacked: Whether matrices of a shape are iterated together, and everything stays on the
            device: for a GPU.
    """

    def __init__(
        self,
        groups: Iterable[dict[str, Any]],
        *,
        lr: float,
        momentum: float,
        iterates: torch.dtype = torch.bfloat16,
        stacked: bool = False,
    ) -> None:
        super().__init__(groups, lr=lr, momentum=momentum, nesterov=True, capturable=stacked)
        self.iterates = iterates
        self.stacked = stacked
        self.replayed = False
        """Whether steps are replayed; gradients may then lie elsewhere in each step."""
        self._recording: _Recording | None = None

    @torch.no_grad()
    def step(self, closure: Any = None) -> Any:
        """One step from the gradients that are there, which no closure makes anew."""
        assert closure is None
        if self.replayed:
            trained = [p for group in self.param_groups for p in group["params"]]
            trained = [parameter for parameter in trained if parameter.grad is not None]
            if self._recording is None or not self._recording.is_of(trained):
                self._recording = _Recording(self.param_groups, trained, self._launched)
            self._recording.step()
        else:
            self._launched()

    def __setstate__(self, state: dict[str, Any]) -> None:
        """Takes another state, whose tensors a recorded step would not know."""
        super().__setstate__(state)  # type: ignore[no-untyped-call]
        self._recording = None

    def _launched(self) -> None:
        usual = muon.zeropower_via_newtonschulz
        others = {
            "zeropower_via_newtonschulz": functools.partial(usual, dtype=self.iterates),
            **({"muon": _of_stacks} if self.stacked else {}),
        }
        with _instead(others):
            super().step()  # type: ignore[no-untyped-call]


class _Recording:
    """A step over the same parameters as a CUDA graph, launched until that is recorded.

    Whatever replaces the optimizer's state has to do so before.

    Args:
        groups: Those of the optimizer, whose learning rates may change.
        trained: The parameters that have gradients.
        launched: The step.
    """

    def __init__(
        self,
        groups: Sequence[dict[str, Any]],
        trained: Sequence[nn.Parameter],
        launched: Callable[[], None],
    ) -> None:
        self.groups = groups
        self.trained = list(trained)
        self.launched = launched
        self.made = 0
        self.graph: torch.cuda.CUDAGraph | None = None
        self.gradients = list[Tensor]()
        self.rates = list[Tensor]()
        """Where the graph reads gradients and learning rates."""

    def is_of(self, trained: Sequence[nn.Parameter]) -> bool:
        """Whether these are its parameters, in its order."""
        return list(map(id, trained)) == list(map(id, self.trained))

    def step(self) -> None:
        """Launches the step, or replays it; the gradients of the parameters stay as they are."""
        if self.made < WARM_UP:
            self.made += 1
            self.launched()
            return
        if self.graph is None:
            self.graph = self._recorded()
        given = [p.grad for p in self.trained if p.grad is not None]
        torch._foreach_copy_(self.gradients, given)
        for rate, group in zip(self.rates, self.groups, strict=True):
            rate.fill_(group["lr"])
        self.graph.replay()

    def _recorded(self) -> torch.cuda.CUDAGraph:
        """Records the step; nothing of it is carried out."""
        device = self.trained[0].device
        given = [parameter.grad for parameter in self.trained]
        rates = [group["lr"] for group in self.groups]
        self.gradients = [torch.empty_like(parameter) for parameter in self.trained]
        self.rates = [torch.zeros((), device=device) for _ in rates]
        graph = torch.cuda.CUDAGraph()
        try:
            for parameter, gradient in zip(self.trained, self.gradients, strict=True):
                parameter.grad = gradient
            for group, rate in zip(self.groups, self.rates, strict=True):
                group["lr"] = rate
            # What other threads do, as that which pins the loaders' memory, is not of the graph.
            with torch.cuda.graph(graph, capture_error_mode="thread_local"):
                self.launched()
        finally:
            for parameter, own in zip(self.trained, given, strict=True):
                parameter.grad = own
            for group, lr in zip(self.groups, rates, strict=True):
                group["lr"] = lr
        return graph


def _of_stacks(
    params: list[Tensor],
    grads: list[Tensor],
    momentum_bufs: list[Tensor],
    *,
    lr: float | Float[Tensor, ""],
    weight_decay: float,
    momentum: float,
    nesterov: bool,
    ns_steps: int,
    ns_coefficients: Any,
    eps: float,
    safety_factor: float,
    adjust_lr_fn: str,
    conv_mode: str,
    scale_eps: bool,
    **_unused: Any,
) -> None:
    """What timm's ``muon`` does, with one iteration for all matrices of a shape.

    The parameters are timm's own.
    """
    coefficients = muon.resolve_ns_coefficients(ns_coefficients, muon._COEFFICIENTS)
    torch._foreach_mul_(params, 1 - lr * weight_decay)
    torch._foreach_lerp_(momentum_bufs, grads, 1 - momentum)
    assert nesterov
    assert conv_mode == "flatten"
    updates = torch._foreach_lerp(grads, momentum_bufs, momentum)
    by_shape = defaultdict[torch.Size, list[int]](list)
    matrices = [update.flatten(1) for update in updates]
    for number, matrix in enumerate(matrices):
        by_shape[matrix.shape].append(number)
    for shape, numbers in by_shape.items():
        orthogonal = muon.zeropower_via_newtonschulz(
            torch.stack([matrices[number] for number in numbers]),
            ns_steps,
            coefficients,
            eps=eps,
            safety_factor=safety_factor,
            scale_eps=scale_eps,
        )
        moved = orthogonal.to(params[numbers[0]].dtype)
        moved = moved * (-lr * muon.get_lr_scale(shape, adjust_lr_fn))
        chosen = [params[number] for number in numbers]
        steps = [one.reshape(p.shape) for one, p in zip(moved, chosen, strict=True)]
        torch._foreach_add_(chosen, steps)


@contextmanager
def _instead(others: dict[str, Any]) -> Iterator[None]:
    """Functions that timm's step finds under its own names, for a while."""
    usual = {name: getattr(muon, name) for name in others}
    for name, other in others.items():
        setattr(muon, name, other)
    try:
        yield
    finally:
        for name, own in usual.items():
            setattr(muon, name, own)

"""How a training step is compiled."""

import torch
from torch import nn

from dearkd.training.muon import Muon

__all__ = ["compile_step"]

LAUNCHED = (
    "compiled, but not replayed as CUDA graphs: the run has two stages, or a step is not one pass "
    "of one process (data.micro_batch, several processes)"
)


def compile_step(
    objective: nn.Module,
    optimizer: torch.optim.Optimizer,
    device: torch.device,
    *,
    whole: bool = True,
) -> str | None:
    """Compiles the forward and backward pass of a step in place; says where it is not replayed.

    On a CUDA device both are replayed as CUDA graphs: a small student's step is a thousand short
    kernels, and to launch them takes longer than to run them (an H100, `dearkd_mini_patch4_32`,
    batch 64: 36 ms a step, compiled 27, replayed 6). So is the step of Muon; those of the other
    optimizers are few kernels.

    Args:
        objective: What takes a batch and returns the terms of its loss. Where it is replayed, the
            next step writes over these: what is kept of them has to be a copy.
        optimizer: What takes the step then.
        device: Where they are.
        whole: Whether a step is one pass of one process, in a run of one stage. Gradients that are
            added up over passes, or shared over processes while they are made, can't lie in a
            graph's own memory; and the second stage of four runs went wrong when it was replayed
            (RESULTS.md).

    Returns:
        A line for the user of a CUDA device whose steps are launched; else None.
    """
    graphs = device.type == "cuda" and whole
    objective.compile(mode="reduce-overhead" if graphs else None)
    if isinstance(optimizer, Muon):
        optimizer.replayed = graphs
    return LAUNCHED if device.type == "cuda" and not graphs else None

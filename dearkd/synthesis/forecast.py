"""The dry run of a synthesis: what would be made, and the time and memory it would take."""

import dataclasses
from collections.abc import Callable

import torch
from rich.console import Console

from dearkd.config_file import to_yaml
from dearkd.models.cost import activation_bytes, seconds_per_call
from dearkd.synthesis.live import clock
from dearkd.synthesis.setup import Setup
from synth.groups import Group, batches_of
from synth.kernels import build_objective, measure_kernels
from synth.objective import targets_of

__all__ = ["describe"]


def describe(setup: Setup, device: torch.device, console: Console) -> None:
    """Shows configuration, groups, work, and what time and memory it will take."""
    config = setup.synthesis
    console.print(to_yaml(setup.config), markup=False)
    batches = batches_of(setup.groups, config.groups_per_batch)
    largest = max(batches, key=lambda batch: sum(len(group.targets) for group in batch))
    images = sum(len(group.targets) for group in setup.groups)
    width = sum(len(group.targets) for group in largest)
    classes = len({target for group in setup.groups for target in group.targets})
    console.print(
        f"{images} images of {classes} class{'es' * (classes != 1)} in "
        f"{len(setup.groups)} group{'s' * (len(setup.groups) != 1)}, "
        f"{len(batches)} batch{'es' * (len(batches) != 1)} of at most {width} images, "
        f"{sum(config.iterations)} iterations each"
    )
    seconds, memory = _costs(setup, largest, device, console)
    console.print(
        f"about {clock(seconds * images / width)} (h:mm:ss) and {memory / 2**30:.2f} GiB on "
        f"{device}, from 2 timed iterations of one batch at each size, uncompiled "
        "(a long run tries the compiler)"
    )


def _costs(
    setup: Setup, batch: tuple[Group, ...], device: torch.device, console: Console
) -> tuple[float, float]:
    """(seconds of one batch through all its stages, bytes), the kernels chosen as for a run."""
    config, teacher = dataclasses.replace(setup.synthesis, compile="never"), setup.teacher
    for network in (teacher, setup.student):
        if network is not None:
            network.network.to(device)
    kernels = measure_kernels(config, teacher, batch, device, setup.student)
    objective = build_objective(config, teacher, kernels, setup.student)
    targets = targets_of(batch, config.objective, device)
    width = sum(len(group.targets) for group in batch)
    total, memory = 0.0, 0
    for size, iterations in config.stages:
        canvas = torch.randn(width, len(teacher.mean), size, size, device=device)
        canvas.requires_grad_()

        def step(canvas: torch.Tensor = canvas) -> torch.Tensor:
            return objective(canvas, targets)["objective"].sum()

        def both(step: Callable[[], torch.Tensor] = step) -> None:
            torch.autograd.backward(step())

        seconds = seconds_per_call(both, device, repeats=2)
        console.print(f"{size} px: {1 / seconds:.2f} iterations/s in {kernels.precision}")
        total += seconds * iterations
        memory = max(memory, activation_bytes(step))
    weights = sum(p.numel() * p.element_size() for p in teacher.network.parameters())
    return total, memory + 2 * weights

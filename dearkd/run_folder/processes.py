"""The processes of one run: what they form together, and who goes first."""

import os
import sys
from collections.abc import Callable
from typing import Any, TypeVar

import torch
from accelerate import Accelerator, PartialState
from accelerate.utils import parse_flag_from_env

__all__ = [
    "in_turn",
    "local_processes",
    "process_accelerator",
    "process_state",
    "usable_cores",
]

Result = TypeVar("Result")


def process_state() -> PartialState:
    """This process's rank and device; on machines without an accelerator CPUs form the world."""
    return PartialState(cpu=_on_cpu())


def process_accelerator(**kwargs: Any) -> Accelerator:
    """Accelerate's view of the processes and the device.

    It is left out of the arithmetic, whatever ``ACCELERATE_MIXED_PRECISION`` says: accelerate keeps
    one precision a process, and a notebook trains one run after another.
    """
    return Accelerator(cpu=_on_cpu(), mixed_precision="no", **kwargs)


def in_turn(state: PartialState, call: Callable[[], Result]) -> Result:
    """The result of ``call``, made on the main process before the others.

    What the main process downloads, the others find. If it fails there, they come to fail too
    instead of waiting for it.
    """
    if not state.is_main_process:
        state.wait_for_everyone()
    try:
        return call()
    finally:
        if state.is_main_process:
            state.wait_for_everyone()


def local_processes(processes: int) -> int:
    """How many of the run's processes share this machine."""
    return int(os.environ.get("LOCAL_WORLD_SIZE", processes))


def usable_cores() -> int:
    """Cores that this process may run on; ``taskset`` or a batch system may keep it from some."""
    if sys.version_info >= (3, 13):
        return os.process_cpu_count() or 1
    if hasattr(os, "sched_getaffinity"):  # neither macOS nor Windows has it
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def _on_cpu() -> bool:
    # Without cpu=True accelerate leaves each process of a CPU launch on its own.
    return parse_flag_from_env("ACCELERATE_USE_CPU") or not torch.accelerator.is_available()

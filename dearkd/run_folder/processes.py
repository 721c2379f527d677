"""The processes of one run: their ranks and devices, the order in which they act."""

import os
import sys
from collections.abc import Callable
from typing import Any, TypeVar

import torch
from accelerate import Accelerator, PartialState
from accelerate.utils import (
    DistributedDataParallelKwargs,
    GradientAccumulationPlugin,
    broadcast_object_list,
    parse_flag_from_env,
)
from rich.console import Console

from dearkd.errors import UserError, one_line

__all__ = [
    "Say",
    "device_name",
    "from_main",
    "in_turn",
    "local_processes",
    "peak_memory",
    "process_accelerator",
    "process_state",
    "said_by_main",
]

Result = TypeVar("Result")
Say = Callable[..., None]
"""Prints a line, as a console does; the processes beside the main one say nothing."""
UNTRIED = {
    "ACCELERATE_USE_FSDP": "FSDP",
    "ACCELERATE_USE_DEEPSPEED": "DeepSpeed",
    "ACCELERATE_USE_MEGATRON_LM": "Megatron-LM",
}
"""What accelerate's launcher sets for engines that shard a model; dearkd copies it (DDP)."""


def process_state() -> PartialState:
    """This process's rank and device; on machines without an accelerator CPUs form the world.

    Raises:
        UserError: If accelerate is set to an engine that dearkd was never tried with.
    """
    for flag, engine in UNTRIED.items():
        if parse_flag_from_env(flag):
            raise UserError(
                f"accelerate is set to {engine}, which dearkd was never tried with; launch it "
                "with torchrun, or with accelerate launch --multi_gpu: the largest student here, "
                "87 M parameters, fits on every device"
            )
    return PartialState(cpu=_on_cpu())


def device_name(device: torch.device) -> str:
    """What a device is called where a run is recorded: a GPU's model, or the kind of device."""
    return torch.cuda.get_device_name(device) if device.type == "cuda" else device.type


def said_by_main(console: Console, state: PartialState) -> Say:
    """What prints on the main process, and nothing on the others."""
    return console.print if state.is_main_process else _silent


def _silent(*_: object, **__: object) -> None:
    pass


def process_accelerator(**kwargs: Any) -> Accelerator:
    """Accelerate's view of the processes and the device.

    Accelerate's own mixed precision, compiler and gradient accumulation stay off, whatever its
    launcher or the environment says (``ACCELERATE_MIXED_PRECISION``, ``ACCELERATE_DYNAMO_BACKEND``,
    ``ACCELERATE_GRADIENT_ACCUMULATION_STEPS``): they hold for a whole process, and a run has them
    by its configuration. Buffers are not broadcast in every step: a teacher's never change, and
    running statistics are shared when they are read (`dearkd.training.batch_norm`).
    """
    quiet = DistributedDataParallelKwargs(broadcast_buffers=False)
    return Accelerator(
        cpu=_on_cpu(),
        mixed_precision="no",
        dynamo_backend="no",
        gradient_accumulation_plugin=GradientAccumulationPlugin(num_steps=1),
        kwargs_handlers=[quiet],
        **kwargs,
    )


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


def from_main(state: PartialState, call: Callable[[], Result]) -> Result:
    """The result of ``call`` on every process, though the main process alone calls it.

    Raises:
        ValueError, OSError: Whatever the call raised, on every process, so that none waits.
        Exception: Anything else that it raised, on the main process.
        UserError: In its place, which another process may be unable to read, on the others.
    """
    if state.num_processes == 1:
        return call()
    answer: list[Any] = [None, None]
    try:
        if state.is_main_process:
            answer[0] = call()
    except Exception as error:
        told = f"the main process failed ({type(error).__name__}: {one_line(error)})"
        answer[1] = error if isinstance(error, ValueError | OSError) else UserError(told)
        broadcast_object_list(answer)
        raise
    broadcast_object_list(answer)
    if answer[1] is not None:
        raise answer[1]
    return answer[0]


def local_processes(processes: int) -> int:
    """How many of the run's processes share this machine."""
    return int(os.environ.get("LOCAL_WORLD_SIZE", processes))


def peak_memory(device: torch.device) -> int | None:
    """The most bytes this process has held: of the GPU's memory on one, else resident.

    None on systems that do not count it.
    """
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    try:
        import resource
    except ImportError:  # on Windows
        return None
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit


def _on_cpu() -> bool:
    # Without cpu=True accelerate leaves each process of a CPU launch on its own.
    return parse_flag_from_env("ACCELERATE_USE_CPU") or not torch.accelerator.is_available()

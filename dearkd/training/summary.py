"""What is said of a run before and after it, and ``summary.json``."""

import sys
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator

from dearkd.config import TrainConfig
from dearkd.models import cost
from dearkd.run_folder.processes import peak_memory
from dearkd.run_folder.provenance import versions
from dearkd.training.build import Parts
from dearkd.training.loop import Trainer

__all__ = ["closing_line", "summary", "title_line"]


def title_line(config: TrainConfig) -> str:
    """Method, student, teacher, data, epochs and precision."""
    teacher = f" from {config.teacher.name}" if config.teacher.name else ""
    return (
        f"{config.method}: {config.student}{teacher} on {config.data.train}, "
        f"{config.epochs} epoch{'s' * (config.epochs != 1)}, {config.precision}"
    )


def closing_line(folder: Path, heads: dict[str, dict[str, float]]) -> str:
    """The top-1 of both heads' mean, if any, and where the run lies."""
    if not heads:
        return f"done (no evaluation data, so no top-1): {folder}"
    return f"done: top-1 {heads['logits']['top1']:.2f} %: {folder}"


def summary(
    parts: Parts,
    trainer: Trainer,
    heads: dict[str, dict[str, float]],
    accelerator: Accelerator,
    revision: str | None,
) -> dict[str, Any]:
    """Result, cost and origin of a finished run; ``heads`` as :func:`evaluate` returns them."""
    config, position = parts.config, trainer.position
    final = heads.get("logits", {"top1": None, "top5": None})
    return {
        "method": config.method,
        "student": config.student,
        "teacher": config.teacher.name,
        "data": config.data.train,
        "train_images": len(parts.train),
        "eval_images": heads["images"]["count"] if heads else None,
        "epochs": config.epochs,
        "top1": final["top1"],
        "top5": final["top5"],
        "heads": {name: value for name, value in heads.items() if name != "images"},
        "best_top1": position.best_top1,
        "best_epoch": position.best_epoch,
        "parameters": cost.parameter_count(parts.student),
        "seconds": round(position.seconds, 1),
        "device": _device_name(accelerator.device),
        "peak_memory_bytes": _peak_memory(accelerator.device),
        "threads": torch.get_num_threads(),
        "processes": accelerator.num_processes,
        "precision": config.precision,
        "seed": config.seed,
        "versions": versions(),
        "python": sys.version.split()[0],
        "commit": revision,
    }


def _device_name(device: torch.device) -> str:
    return torch.cuda.get_device_name(device) if device.type == "cuda" else device.type


def _peak_memory(device: torch.device) -> int | None:
    """Bytes that the main process held at most: of the GPU's memory on one, else resident."""
    return torch.cuda.max_memory_allocated(device) if device.type == "cuda" else peak_memory()

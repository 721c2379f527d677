"""The lines that are printed when a run begins and ends, and the content of ``summary.json``."""

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator

from dearkd.config import TrainConfig
from dearkd.models import cost
from dearkd.run_folder.processes import device_name, peak_memory
from dearkd.run_folder.provenance import commit, machine, versions
from dearkd.said import counted
from dearkd.training.build import Parts
from dearkd.training.label_cache import LabelCache
from dearkd.training.loop import Trainer
from dearkd.training.settings import TeacherConfig

__all__ = ["arithmetic_line", "closing_line", "session", "summary", "title_line"]


def title_line(config: TrainConfig) -> str:
    """Method, student, teacher, data, epochs and precision."""
    teacher = f" from {config.teacher.name}" if config.teacher.name else ""
    return (
        f"{config.method}: {config.student}{teacher} on {config.data.train}"
        f"{' without labels' if config.data.labels == 'none' else ''}, "
        f"{counted(config.epochs, 'epoch')}, {config.precision}"
    )


def closing_line(
    folder: Path, heads: dict[str, dict[str, float]], teacher: float | None = None
) -> str:
    """The top-1 of both heads' mean, if any, beside the ``teacher``'s, and where the run lies."""
    if not heads:
        return f"done (no evaluation data, so no top-1): {folder}"
    beside = "" if teacher is None else f", its teacher {teacher:.2f} %"
    return f"done: top-1 {heads['logits']['top1']:.2f} %{beside}: {folder}"


def summary(
    parts: Parts,
    trainer: Trainer,
    heads: dict[str, dict[str, float]],
    accelerator: Accelerator,
    sessions: Sequence[dict[str, Any]],
    labels: dict[str, Any] | None = None,
) -> dict[str, Any]:
    """Result, cost and origin of a finished run; ``heads`` as :func:`evaluate` returns them.

    ``sessions`` has an entry for the start and for every resume: commit, versions and device are
    those that the run began with. ``labels``: the folder of the teacher's labels, and how many the
    last session read there and how many it computed.
    """
    config, position, first = parts.config, trainer.position, sessions[0]
    assert config.data.batch_size is not None
    final = heads.get("logits", {"top1": None, "top5": None})
    return {
        "method": config.method,
        "student": config.student,
        "teacher": config.teacher.name,
        "data": config.data.train,
        "validation": config.data.validation,
        "train_images": len(parts.train),
        "eval_images": heads["images"]["count"] if heads else None,
        "epochs": config.epochs,
        "epoch_views": trainer.steps * config.data.batch_size,
        "stages": trainer.lengths,
        "top1": final["top1"],
        "top5": final["top5"],
        "heads": {name: value for name, value in heads.items() if name != "images"},
        "trained_heads": position.heads or None,
        "head_scales": position.head_scales or None,
        "best_top1": position.best_top1,
        "best_epoch": position.best_epoch,
        **_teacher_top1(sessions),
        "parameters": cost.parameter_count(parts.student),
        "seconds": round(position.seconds, 1),
        "device": first["device"],
        "peak_memory_bytes": peak_memory(accelerator.device),
        "threads": first["threads"],
        "processes": first["processes"],
        "precision": config.precision,
        "memory_format": config.memory_format,
        "compile": config.compile,
        **_of_teacher(config),
        **({} if labels is None else {"teacher_labels": labels}),
        "arithmetic": first["arithmetic"],
        "seed": config.seed,
        "versions": first["versions"],
        "python": first["python"],
        "commit": first["commit"],
        "sessions": list(sessions),
    }


def session(
    accelerator: Accelerator,
    reasons: dict[str, str],
    saved: dict[str, Any],
    prints: dict[str, str | None],
    labels: LabelCache | None = None,
    reading: dict[str, float] | None = None,
) -> dict[str, Any]:
    """A line of ``sessions.jsonl``: machine, versions and commit of a run's start or resumption.

    ``prints``: fingerprints of its images and teacher. ``reading``: the teacher's top-1 and top-5
    on the evaluation images, and their count.
    """
    return {
        "from_epoch": saved["position"]["epoch"] if saved else 0,
        "device": device_name(accelerator.device),
        "cpu": machine()["cpu"],
        "processes": accelerator.num_processes,
        "threads": torch.get_num_threads(),
        "arithmetic": reasons or None,
        "versions": versions(),
        "python": sys.version.split()[0],
        "commit": commit(),
        "fingerprints": prints,
        **({} if labels is None else {"teacher_labels_known": labels.known}),
        **({} if reading is None else {"teacher_reading": reading}),
    }


def arithmetic_line(config: TrainConfig, reasons: dict[str, str]) -> str:
    """Precision and layout of student and teacher, where views are made, and why so."""
    of: dict[str, TrainConfig | TeacherConfig] = {"student": config, "teacher": config.teacher}
    chosen = {role: f"{own.precision}, {own.memory_format}" for role, own in of.items()}
    chosen["views"] = f"on the {config.data.views}"
    parts = [f"{role} {chosen[role]} ({reason})" for role, reason in reasons.items()]
    return f"arithmetic: {'; '.join(parts)}"


def _of_teacher(config: TrainConfig) -> dict[str, str]:
    """The teacher's arithmetic, if the run had one."""
    teacher = config.teacher
    if teacher.precision == "auto":  # never chosen: there was no teacher
        return {}
    return {"teacher_precision": teacher.precision, "teacher_memory_format": teacher.memory_format}


def _teacher_top1(sessions: Sequence[dict[str, Any]]) -> dict[str, float]:
    """The teacher's top-1 on the evaluation images, as the run read it when it began."""
    found = [one["teacher_reading"]["top1"] for one in sessions if "teacher_reading" in one]
    return {"teacher_top1": found[0]} if found else {}

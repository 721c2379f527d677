"""What a report is about: runs, synthetic sets, and which numbers may be compared."""

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from dearkd.pages.plots import stage_switches
from dearkd.said import counted

__all__ = ["ARITHMETIC", "Group", "Report", "Run", "SyntheticSet"]

LEARNED_BY = {
    "dearkd": "DearKD, two stages",
    "deit-hard": "DeiT, hard distillation",
    "deit-soft": "DeiT, soft distillation",
    "ce": "labels alone",
}
ARITHMETIC = ("precision", "memory_format", "teacher.precision", "teacher.memory_format")
"""Settings that the machine chooses where the user leaves them open."""


@dataclass(frozen=True)
class Run:
    """A run folder; what it lacks is empty, and ``notes`` say so."""

    path: Path
    name: str
    config: dict[str, Any]
    metrics: list[dict[str, Any]]
    summary: dict[str, Any]
    """Empty while the run is unfinished."""
    analysis: dict[str, Any]
    """What ``dearkd analyze`` found."""
    notes: tuple[str, ...] = ()

    @property
    def finished(self) -> bool:
        """Whether it came to its end."""
        return bool(self.summary)

    @property
    def planned(self) -> int | None:
        """Epochs it was meant to have."""
        if self.config:
            return self.config.get("stage1", 0) + self.config.get("stage2", 0)
        return self.summary.get("epochs")

    @property
    def method(self) -> str | None:
        """Its method as it is typed."""
        return self.setting("method") or self.summary.get("method")

    @property
    def learned_by(self) -> str:
        """The method in words."""
        method = self.method
        if method == "dearkd" and not self.setting("stage2"):
            return "DearKD, stage 1 alone"
        return LEARNED_BY.get(str(method), str(method or "not known"))

    @property
    def arithmetic(self) -> dict[str, str]:
        """Precision and memory layout of student and teacher, by setting, as far as known.

        What the summary says was used goes before what the configuration asked for.
        """
        keys = ARITHMETIC if self.method != "ce" else ARITHMETIC[:2]
        found = {key: self.summary.get(key.replace(".", "_")) or self.setting(key) for key in keys}
        return {key: str(value) for key, value in found.items() if value}

    @property
    def status(self) -> str:
        """``finished``, or how far it is."""
        if self.finished:
            return "finished"
        total = "?" if self.planned is None else self.planned
        return f"unfinished: epoch {len(self.metrics)} of {total}"

    @property
    def top1(self) -> float | None:
        """Top-1 in percent: of the end, or the last that was measured."""
        if self.finished:
            return self.summary.get("top1")
        return next(
            (line["top1"] for line in reversed(self.metrics) if line.get("top1") is not None), None
        )

    @property
    def seed(self) -> int:
        """Its seed; 0, the default, where none is known."""
        return self.setting("seed") or self.summary.get("seed") or 0

    @property
    def evaluation(self) -> str | None:
        """The evaluation data: the folder where there is one, else its name."""
        name = self.setting("data.evaluation") or self.setting("data.train")
        name = name or self.summary.get("data")
        if name is None or not os.path.exists(str(name)):  # noqa: PTH110 - may hold no path at all
            return name
        return str(Path(name).resolve())

    @property
    def images_per_second(self) -> float | None:
        """Training throughput: the median over epochs."""
        rates = [line["images_per_second"] for line in self.metrics if "images_per_second" in line]
        return float(np.median(rates)) if rates else None

    @property
    def data_wait(self) -> float | None:
        """Share of an epoch spent waiting for data: the median over epochs."""
        shares = [line["data_wait"] for line in self.metrics if "data_wait" in line]
        return float(np.median(shares)) if shares else None

    @property
    def switches(self) -> dict[float, str]:
        """The epochs, counted from 1, between which a further stage begins, and its name."""
        return stage_switches(self.metrics)

    def setting(self, key: str) -> Any:
        """A field of the configuration by its dotted name; None where there is none."""
        value: Any = self.config
        for part in key.split("."):
            value = value.get(part) if isinstance(value, dict) else None
        return value

    def taught(self, other: "Run") -> bool:
        """Whether it was the teacher of another run, wherever both were moved to."""
        teacher = other.setting("teacher.name")
        return teacher is not None and Path(teacher).name == self.path.name


@dataclass(frozen=True)
class SyntheticSet:
    """A folder of ``dearkd synthesize``; ``manifest`` is empty while it is unfinished."""

    path: Path
    name: str
    manifest: dict[str, Any]
    curves: dict[str, list[dict[str, Any]]]
    """By group: the losses over the iterations."""
    diversity: dict[str, Any]
    """What ``dearkd eval --lpips`` found."""
    notes: tuple[str, ...] = ()

    def is_at(self, data: str) -> bool:
        """Whether a run's data setting names this set."""
        return Path(data).resolve() == self.path.resolve()


@dataclass(frozen=True)
class Group:
    """Runs that were judged on the same images, so that their numbers may be compared."""

    evaluation: str | None
    images: int | None
    runs: tuple[Run, ...]
    baseline: Run | None
    """What the others are compared with; None where no run has finished with a top-1."""

    def is_teacher(self, run: Run) -> bool:
        """Whether it taught another run of the group."""
        return any(run.taught(other) for other in self.runs)

    @property
    def students(self) -> list[Run]:
        """The finished runs to compare: those that taught none of the others, if there are any."""
        able = [run for run in self.runs if run.finished and run.top1 is not None]
        return [run for run in able if not self.is_teacher(run)] or able

    def delta(self, run: Run) -> tuple[float, float] | None:
        """Points of top-1 over the baseline and their standard error; None if not comparable.

        The error is that of two independent draws of the test images: two runs on the same images
        differ by less, two seeds by more.
        """
        base = self.baseline
        if base is None or run is base or not run.finished or run.top1 is None or not self.images:
            return None
        assert base.top1 is not None
        shares = np.array([run.top1, base.top1]) / 100
        error = 100 * float(np.sqrt((shares * (1 - shares)).sum() / self.images))
        return run.top1 - base.top1, error


@dataclass(frozen=True)
class Report:
    """All that was asked about."""

    runs: tuple[Run, ...]
    sets: tuple[SyntheticSet, ...]
    groups: tuple[Group, ...]

    @property
    def items(self) -> tuple[Run | SyntheticSet, ...]:
        """Runs, then sets."""
        return (*self.runs, *self.sets)

    @property
    def title(self) -> str:
        """What it is about, in a line."""
        data = dict.fromkeys(Path(group.evaluation or "unknown data").name for group in self.groups)
        parts = [f"{counted(len(self.runs), 'run')} on {', '.join(data)}"] if self.runs else []
        parts += [counted(len(self.sets), "synthetic set")] if self.sets else []
        return " and ".join(parts)

    def style_of(self, run: Run) -> int:
        """The number of a run's colour and dash, the same all over a page."""
        return self.runs.index(run)

    def group_of(self, run: Run) -> Group:
        """The group that a run is compared in."""
        return next(group for group in self.groups if run in group.runs)

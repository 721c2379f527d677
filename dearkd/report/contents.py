"""The content of a report: runs, synthetic sets, and which of their numbers may be compared."""

import os
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from dearkd.config import STAGE2
from dearkd.data import synthetic_set
from dearkd.pages.plots import stage_switches
from dearkd.run_folder.moved import noted_fingerprints
from dearkd.run_folder.record import Record
from dearkd.said import counted
from dearkd.training.method_names import label_of

__all__ = ["ARITHMETIC", "VALIDATION", "Group", "Report", "Run", "SyntheticSet", "teachers_of"]

ARITHMETIC = ("precision", "memory_format", "teacher.precision", "teacher.memory_format")
"""Settings that the machine chooses where the user leaves them open."""
USUAL_LOGITS = {"dearkd": "hard", "deit-hard": "hard", "deit-soft": "soft"}
"""What of its logits the teacher says, where the method's name tells."""
VALIDATION = " (validation split)"
"""What follows the data's name where a run was judged on a part of its own training set."""


@dataclass(frozen=True)
class Run:
    """A run folder, finished or not; files that it lacks are empty here."""

    path: Path
    name: str
    """What the report calls it."""
    config: dict[str, Any]
    """The content of ``config.yaml``."""
    metrics: list[dict[str, Any]]
    """The lines of ``metrics.jsonl``, one for each epoch."""
    summary: dict[str, Any]
    """The content of ``summary.json``; empty while the run is unfinished."""
    analysis: dict[str, Any]
    """The result of ``dearkd analyze``; empty if it was not run."""
    notes: tuple[str, ...] = ()
    """What is missing or damaged."""

    @property
    def finished(self) -> bool:
        """Whether the run has ended and left a summary."""
        return bool(self.summary)

    @property
    def fingerprints(self) -> dict[str, str | None]:
        """Those of its images and teacher, by setting; empty of an older or an unfinished run."""
        return noted_fingerprints(self.summary.get("sessions", ()))

    @property
    def planned(self) -> int | None:
        """The number of epochs that were asked for."""
        if self.config:
            if self.is_switched_by_rule:
                return self.setting("switch.epochs")
            stage2 = self.config.get("stage2", 0)
            return self.config.get("stage1", 0) + (STAGE2 if stage2 is None else stage2)
        return self.summary.get("epochs")

    @property
    def is_switched_by_rule(self) -> bool:
        """Whether stage 1 ended by the rule of ``stage1: auto`` and not by a number of epochs."""
        return self.setting("stage1") == "auto"

    @property
    def method(self) -> str | None:
        """The method's name as it is typed: ``dearkd``."""
        return self.setting("method") or self.summary.get("method")

    @property
    def learned_by(self) -> str:
        """The label of the method, as tables show it."""
        method = self.method
        if method == "dearkd" and not self.setting("stage2") and not self.is_switched_by_rule:
            return ", ".join(["DearKD, stage 1 alone", *self._taught_otherwise])
        return ", ".join([label_of(str(method or "not known")), *self._taught_otherwise])

    @property
    def _taught_otherwise(self) -> list[str]:
        """What the method's name does not say of the teacher's labels."""
        logits, said = self.setting("distill.logits"), []
        if logits is not None and logits != USUAL_LOGITS.get(str(self.method), ""):
            said.append(f"{logits} labels")
        if not self.has_labels:
            said.append("images without labels")
        elif self.setting("distill.class_weight") == 0:
            said.append("of the teacher alone")
        return said

    @property
    def has_labels(self) -> bool:
        """Whether its training images have labels."""
        return self.setting("data.labels") != "none"

    @property
    def arithmetic(self) -> dict[str, str]:
        """Precision and memory layout of student and teacher by setting, as far as they are known.

        What was used, by the summary, goes before what the configuration asked for.
        """
        keys = ARITHMETIC if self.method != "ce" else ARITHMETIC[:2]
        found = {key: self.summary.get(key.replace(".", "_")) or self.setting(key) for key in keys}
        return {key: str(value) for key, value in found.items() if value}

    @property
    def status(self) -> str:
        """``finished``, or the epoch that an unfinished run has reached."""
        if self.finished:
            return "finished"
        total = "?" if self.planned is None else self.planned
        return f"unfinished: epoch {len(self.metrics)} of {total}"

    @property
    def top1(self) -> float | None:
        """Top-1 in percent: the final one, or of an unfinished run the last that was measured."""
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
        """The evaluation data: an absolute path where it is on disk, else its name."""
        name = self.setting("data.evaluation") or self.setting("data.train")
        name = name or self.summary.get("data")
        if name is not None and os.path.exists(str(name)):  # noqa: PTH110 - may hold no path at all
            name = str(Path(name).resolve())
        return f"{name}{VALIDATION}" if self.setting("data.validation") else name

    @property
    def images_per_second(self) -> float | None:
        """Training throughput in images a second, the median over epochs."""
        return self._median("images_per_second")

    @property
    def data_wait(self) -> float | None:
        """Share of an epoch spent waiting for data: the median over epochs."""
        return self._median("data_wait")

    def _median(self, key: str) -> float | None:
        """The median over epochs; None where no epoch has the value."""
        values = [line[key] for line in self.metrics if line.get(key) is not None]
        return float(np.median(values)) if values else None

    @property
    def rounds(self) -> list[dict[str, Any]]:
        """An entry for each round of a run of `dearkd distill`; empty for other runs."""
        found = self.summary.get("rounds")
        return [one for one in found if isinstance(one, dict)] if isinstance(found, list) else []

    @property
    def switches(self) -> dict[float, str]:
        """The epochs, counted from 1, between which a further stage begins, and its name."""
        return stage_switches(self.metrics)

    def setting(self, key: str) -> Any:
        """A field of the configuration by its dotted name; None where it has none."""
        value: Any = self.config
        for part in key.split("."):
            value = value.get(part) if isinstance(value, dict) else None
        return value

    @cached_property
    def place(self) -> Path:
        """Its folder from the root, links followed."""
        return self.path.resolve()


@dataclass(frozen=True)
class SyntheticSet:
    """A folder of ``dearkd synthesize``, finished or not."""

    stored: synthetic_set.SyntheticSet
    """Its files as they are, of any shape."""
    name: str
    """What the report calls it."""
    manifest: dict[str, Any]
    """The manifest; empty where there is none, or none of the shape that a chapter needs."""
    settings: dict[str, Any]
    """How it was made: the manifest of a finished set, else what its processes agreed on."""
    curves: dict[str, list[dict[str, Any]]]
    """The steps of each group's loss curve, by the group's number as text."""
    diversity: dict[str, Any]
    """The result of ``dearkd eval --lpips`` on it; empty if it was not measured."""
    notes: tuple[str, ...] = ()
    """What is missing or damaged."""

    @property
    def path(self) -> Path:
        """Its folder."""
        return self.stored.root

    @property
    def images(self) -> tuple[synthetic_set.ListedImage, ...]:
        """The images that the manifest lists within the folder, whether they are there or not."""
        return self.stored.images if self.manifest else ()

    @property
    def config(self) -> dict[str, Any]:
        """The settings of the synthesis; empty where they are not known."""
        return self.part("config")

    @property
    def engine(self) -> str:
        """The way its images were made; empty where no settings are known.

        Settings that name none are of a time when there was inversion alone.
        """
        return str(self.config.get("engine", "inversion")) if self.config else ""

    def part(self, key: str) -> dict[str, Any]:
        """A mapping within ``settings``; empty if there is none of that name."""
        found = self.settings.get(key)
        return found if isinstance(found, dict) else {}

    def is_at(self, data: str) -> bool:
        """Whether a run's data setting names this set, alone or among others."""
        named = synthetic_set.named_paths(data)
        return self.path.resolve() in [path.resolve() for path in named]


@dataclass(frozen=True)
class Group:
    """Runs that were judged on the same images, so that their numbers may be compared."""

    evaluation: str | None
    """Path or name of the evaluation data; None where it is not known."""
    images: int | None
    """How many evaluation images there are; None where it is not known."""
    runs: tuple[Run, ...]
    baseline: Run | None
    """The run that the others are compared with; None where none has finished with a top-1."""

    def is_teacher(self, run: Run) -> bool:
        """Whether the run taught another one of the group."""
        return run in self._teachers

    @cached_property
    def _teachers(self) -> list[Run]:
        """The runs that taught others of the group."""
        return teachers_of(self.runs, self.runs)

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
    """All runs and synthetic sets that a report is about."""

    runs: tuple[Run, ...]
    sets: tuple[SyntheticSet, ...]
    groups: tuple[Group, ...]
    studies: tuple[Record, ...] = ()
    """Records of `dearkd sweep`."""

    @property
    def items(self) -> tuple[Run | SyntheticSet, ...]:
        """Runs, then sets."""
        return (*self.runs, *self.sets)

    @property
    def title(self) -> str:
        """The number of runs and sets, and the data, in a line."""
        data = dict.fromkeys(Path(group.evaluation or "unknown data").name for group in self.groups)
        parts = [f"{counted(len(self.runs), 'run')} on {', '.join(data)}"] if self.runs else []
        parts += [counted(len(self.sets), "synthetic set")] if self.sets else []
        parts += [f"study {record.study.name}" for record in self.studies]
        return " and ".join(parts)

    def style_of(self, run: Run) -> int:
        """The number of a run's colour and dash, the same in all figures of a page."""
        return self.runs.index(run)

    def group_of(self, run: Run) -> Group:
        """The group that a run is compared in."""
        return next(group for group in self.groups if run in group.runs)


def teachers_of(students: Iterable[Run], runs: Sequence[Run]) -> list[Run]:
    """Those of ``runs`` that taught one of the students.

    That is the run in the folder that a student's configuration names; where that is gone, as runs
    may have moved, those whose folder has its name.
    """
    found = list[Run]()
    for student in students:
        teacher = Path(student.setting("teacher.name") or "")
        if len(teacher.parts) > 1:  # else a model of timm's, or the embedded one
            place = teacher.resolve()
            there = [run for run in runs if run.place == place]
            others = [run for run in runs if run is not student]
            namesakes = [run for run in others if run.path.name == teacher.name]
            found += there or ([] if place.exists() else namesakes)
    return [run for run in runs if run in found]

"""What a report is about: runs and synthetic sets as they lie on disk, finished or not."""

import json
import os
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import yaml  # type: ignore[import-untyped, unused-ignore]

from dearkd.runs import RunFolder
from dearkd.sources import natural_order

__all__ = ["Group", "Report", "Run", "SyntheticSet", "collect"]

LEARNED_BY = {
    "dearkd": "DearKD, two stages",
    "deit-hard": "DeiT, hard distillation",
    "deit-soft": "DeiT, soft distillation",
    "ce": "labels alone",
}
RUN_FILES = ("config.yaml", "metrics.jsonl", "summary.json")
SET_FILES = ("manifest.json", "synthesize.yaml")


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
    def learned_by(self) -> str:
        """The method in words."""
        method = self.setting("method") or self.summary.get("method")
        if method == "dearkd" and not self.setting("stage2"):
            return "DearKD, stage 1 alone"
        return LEARNED_BY.get(str(method), str(method or "not known"))

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
    def switches(self) -> dict[float, str]:
        """The epochs, counted from 1, between which a further stage begins, and its name."""
        pairs = zip(self.metrics, self.metrics[1:], strict=False)
        return {
            before["epoch"] + 1.5: str(after["stage"]).replace("stage", "stage ")
            for before, after in pairs
            if before.get("stage") != after.get("stage")
        }

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
        parts = [f"{_count(self.runs, 'run')} on {', '.join(data)}"] if self.runs else []
        parts += [_count(self.sets, "synthetic set")] if self.sets else []
        return " and ".join(parts)

    def group_of(self, run: Run) -> Group:
        """The group that a run is compared in."""
        return next(group for group in self.groups if run in group.runs)


def collect(targets: Sequence[Path], baseline: str | None = None) -> Report:
    """Reads run folders, synthetic sets, and folders of both.

    A synthetic set that a run was trained on is taken along. ``baseline`` is a run's name or
    folder; by default the first finished run of each group that taught no other.

    Raises:
        FileNotFoundError: If a target does not exist.
        ValueError: If it is neither of these, or the baseline is none of the runs.
    """
    folders = _distinct(folder for target in targets for folder in _expanded(Path(target)))
    run_folders = [folder for folder in folders if _is_run(folder)]
    names = _short_names(folders)
    runs = tuple(_read_run(folder, names[folder]) for folder in run_folders)
    sets = [folder for folder in folders if not _is_run(folder)]
    sets = _distinct([*sets, *filter(_is_set, (_trained_on(run) for run in runs))])
    set_names = _short_names(sets)
    return Report(
        runs=runs,
        sets=tuple(_read_set(folder, set_names[folder]) for folder in sets),
        groups=_groups(runs, _wanted(runs, baseline)),
    )


def _expanded(target: Path) -> list[Path]:
    if not target.exists():
        raise FileNotFoundError(
            f"{target} does not exist; pass a run folder, a synthetic set or a folder of them"
        )
    if not target.is_dir():
        raise ValueError(f"{target} is a file; pass the run folder it lies in")
    if _is_run(target) or _is_set(target):
        return [target]
    inside = natural_order(
        [entry for entry in target.iterdir() if _is_run(entry) or _is_set(entry)]
    )
    if not inside:
        raise ValueError(
            f"{target} holds no run ({', '.join(RUN_FILES)}) and no synthetic set "
            f"({SET_FILES[0]}); pass the folder of one, or a folder of such folders"
        )
    return inside


def _count(items: Sequence[object], word: str) -> str:
    return f"{len(items)} {word}{'' if len(items) == 1 else 's'}"


def _is_run(folder: Path) -> bool:
    return any((folder / name).is_file() for name in RUN_FILES)


def _is_set(folder: Path) -> bool:
    return any((folder / name).is_file() for name in SET_FILES)


def _distinct(folders: Iterable[Path]) -> list[Path]:
    first: dict[Path, Path] = {}
    for folder in folders:
        first.setdefault(folder.resolve(), folder)
    return list(first.values())


def _short_names(folders: Sequence[Path]) -> dict[Path, str]:
    """Each folder's last name, with as many parents as tell it from the others."""
    names = {}
    for folder in folders:
        parts, depth = folder.resolve().parts, 1
        others = [other.resolve().parts for other in folders if other != folder]
        while any(other[-depth:] == parts[-depth:] for other in others):
            depth += 1
        names[folder] = "/".join(parts[-depth:])
    return names


def _trained_on(run: Run) -> Path:
    return Path(str(run.setting("data.train") or "digits"))


def _read_run(path: Path, name: str) -> Run:
    folder, notes = RunFolder(path), list[str]()
    config = _read(folder.config_file, yaml.safe_load, notes)
    summary = _read(folder.summary_file, json.loads, notes)
    metrics = [line for line in folder.read_metrics() if isinstance(line, dict) and "epoch" in line]
    run = Run(
        path=path,
        name=name,
        config=config,
        metrics=metrics,
        summary=summary,
        analysis=_read(path / "analysis.json", json.loads, notes),
    )
    if not config:
        notes.append("it has no readable config.yaml: its settings are not known")
    if not summary:
        notes.append(f"{run.status}; its numbers are those so far and are not compared")
    elif summary.get("top1") is None:
        notes.append("it had no evaluation data, so there is no top-1")
    return Run(**{**vars(run), "notes": tuple(notes)})


def _read_set(path: Path, name: str) -> SyntheticSet:
    notes: list[str] = []
    manifest = _read(path / "manifest.json", json.loads, notes)
    if manifest and not manifest.get("images"):
        notes.append("its manifest.json lists no images; was it written by dearkd synthesize?")
        manifest = {}
    if not manifest:
        done = len(list((path / ".parts").glob("group_*.json")))
        notes.append(f"unfinished: {done} groups of images are done and there is no manifest yet")
    curves = _read(path / "loss_curves.json", json.loads, notes).get("groups", {})
    diversity = _read(path / "diversity.json", json.loads, notes)
    return SyntheticSet(path, name, manifest, curves, diversity, tuple(notes))


def _read(file: Path, parse: Callable[[str], Any], notes: list[str]) -> dict[str, Any]:
    """The content of a file that should hold a mapping; empty, with a note, if it does not."""
    if not file.is_file():
        return {}
    try:
        content = parse(file.read_text(encoding="utf-8"))
    except (ValueError, yaml.YAMLError):
        content = None
    if isinstance(content, dict):
        return content
    notes.append(f"{file.name} is damaged and was left out")
    return {}


def _wanted(runs: Sequence[Run], baseline: str | None) -> Run | None:
    if baseline is None:
        return None
    path = Path(baseline).resolve()
    found = [run for run in runs if baseline == run.name or path == run.path.resolve()]
    names = ", ".join(run.name for run in runs)
    if not found:
        raise ValueError(f"--baseline {baseline} is none of the runs: {names}")
    if not found[0].finished or found[0].top1 is None:
        raise ValueError(f"--baseline {baseline} has no final top-1; choose another of {names}")
    return found[0]


def _groups(runs: Sequence[Run], wanted: Run | None) -> tuple[Group, ...]:
    """Runs by evaluation data, told apart further by how many images that had, where known."""
    parts: dict[tuple[str | None, int | None], list[Run]] = {}
    for run in runs:
        parts.setdefault((run.evaluation, run.summary.get("eval_images")), []).append(run)
    for key in [key for key in parts if key[1] is None]:
        counted = next((other for other in parts if other[0] == key[0] and other[1]), None)
        if counted is not None and key[0] is not None:  # unfinished: the count is not known yet
            parts[counted] += parts.pop(key)
    groups = []
    for (evaluation, images), members in parts.items():
        ordered = tuple(run for run in runs if run in members)
        groups.append(Group(evaluation, images, ordered, _baseline(ordered, wanted)))
    return tuple(groups)


def _baseline(runs: Sequence[Run], wanted: Run | None) -> Run | None:
    if wanted is not None and wanted in runs:
        return wanted
    able = [run for run in runs if run.finished and run.top1 is not None]
    students = [run for run in able if not any(run.taught(other) for other in runs)]
    return next(iter([*students, *able]), None)

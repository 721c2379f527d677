"""Runs and synthetic sets as they lie on disk, finished or not, gathered into a report."""

import dataclasses
import json
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

import yaml  # type: ignore[import-untyped, unused-ignore]

from dearkd.data.sources import natural_order
from dearkd.report.contents import Group, Report, Run, SyntheticSet
from dearkd.run_folder.folder import RunFolder

__all__ = ["collect"]

RUN_FILES = ("config.yaml", "metrics.jsonl", "summary.json")
SET_FILES = ("manifest.json", "synthesize.yaml")
NAMED_CLASSES = 6
"""Classes with missing images that are named."""
MANIFEST_KEYS = {"classes", "config", "groups", "images", "quality", "teacher"}


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
    metrics = [line for line in folder.read_metrics() if _is_epoch(line)]
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
    return dataclasses.replace(run, notes=tuple(notes))


def _is_epoch(line: Any) -> bool:
    return isinstance(line, dict) and {"epoch", "stage"} <= line.keys()


def _read_set(path: Path, name: str) -> SyntheticSet:
    notes: list[str] = []
    manifest = _read(path / "manifest.json", json.loads, notes)
    if manifest and not (manifest.keys() >= MANIFEST_KEYS and manifest["images"]):
        notes.append("its manifest.json is not one that dearkd synthesize writes and was left out")
        manifest = {}
    elif not manifest:
        done = len(list((path / ".parts").glob("group_*.json")))
        notes.append(f"unfinished: {done} groups of images are done and there is no manifest yet")
    if manifest and (missing := _missing(path, manifest)):
        notes.append(missing)
    curves = _read(path / "loss_curves.json", json.loads, notes).get("groups", {})
    diversity = _read(path / "diversity.json", json.loads, notes)
    return SyntheticSet(path, name, manifest, curves, diversity, tuple(notes))


def _missing(path: Path, manifest: dict[str, Any]) -> str:
    """Which of the listed images are no longer there; empty if all are, or none."""
    images, names = manifest["images"], manifest.get("class_names")
    listed = Counter(image["target"] for image in images)
    there = {file: (path / file).is_file() for file in map(_file_of, images)}
    gone = Counter(image["target"] for image in images if not there[_file_of(image)])
    if gone.total() in (0, len(images)):
        return ""
    classes = [
        f"{names[target] if names else target} ({count} of {listed[target]})"
        for target, count in sorted(gone.items())
    ]
    more = len(classes) - NAMED_CLASSES
    text = ", ".join(classes[:NAMED_CLASSES]) + (f" and {more} more" if more > 0 else "")
    return (
        f"{gone.total():,} of {len(images):,} images are missing, of class {text}; "
        "the numbers are of all that were made"
    )


def _file_of(image: dict[str, Any]) -> str:
    return image.get("shard") or image["file"]


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

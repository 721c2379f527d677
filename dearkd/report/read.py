"""A run folder and a synthetic set as they lie on disk: finished or not, whole or damaged."""

import dataclasses
import json
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import yaml  # type: ignore[import-untyped, unused-ignore]

from dearkd.report.contents import Run, SyntheticSet
from dearkd.run_folder.folder import RunFolder
from dearkd.said import counted, listed

__all__ = ["read_run", "read_set"]

NAMED_CLASSES = 6
"""Classes with missing images that are named."""
MANIFEST_KINDS = {
    "classes": dict,
    "config": dict,
    "groups": list,
    "images": list,
    "quality": dict,
    "teacher": dict,
}


def read_run(path: Path, name: str) -> Run:
    """A run folder, whatever there is of it; notes say what is missing or damaged."""
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


def read_set(path: Path, name: str) -> SyntheticSet:
    """A folder of ``dearkd synthesize``, whatever there is of it; notes say what is missing."""
    notes: list[str] = []
    manifest = _read(path / "manifest.json", json.loads, notes)
    if not manifest:
        done = len(list((path / ".parts").glob("group_*.json")))
        groups = counted(done, "group")
        notes.append(f"unfinished: {groups} of images done and there is no manifest yet")
    elif fault := _fault(manifest):
        notes.append(
            f"its manifest.json is not one that dearkd synthesize writes ({fault}) and was left out"
        )
        manifest = {}
    elif missing := _missing(path, manifest):
        notes.append(missing)
    curves = _read(path / "loss_curves.json", json.loads, notes).get("groups", {})
    diversity = _read(path / "diversity.json", json.loads, notes)
    return SyntheticSet(path, name, manifest, curves, diversity, tuple(notes))


def _fault(manifest: dict[str, Any]) -> str:
    """What of a manifest is not as a chapter on it needs it; empty if nothing."""
    if lacking := sorted(MANIFEST_KINDS.keys() - manifest.keys()):
        return f"it lacks {listed(lacking)}"
    for key, kind in MANIFEST_KINDS.items():
        if not isinstance(manifest[key], kind):
            return f"its {key} is no {'mapping' if kind is dict else 'list'}"
    if not manifest["images"]:
        return "it lists no images"
    if not all(map(_is_record, manifest["images"])):
        return "an image has no file or no target"
    targets = {str(image["target"]) for image in manifest["images"]}
    for role, verdicts in manifest["quality"].items():
        if not _covers(verdicts, targets):
            return f"the verdicts of its {role} do not cover all classes"
    return ""


def _is_record(image: Any) -> bool:
    return (
        isinstance(image, dict)
        and isinstance(image.get("file"), str)
        and isinstance(image.get("target"), int)
    )


def _covers(verdicts: Any, targets: set[str]) -> bool:
    """Whether a network's verdicts on a set have a share for each of these classes."""
    recognition = verdicts.get("recognition") if isinstance(verdicts, dict) else None
    if not isinstance(recognition, dict) or "confidence_histogram" not in verdicts:
        return False
    return "overall" in recognition and targets <= recognition.get("per_class", {}).keys()


def _missing(path: Path, manifest: dict[str, Any]) -> str:
    """Which of the listed images are no longer there; empty if all are, or none."""
    images, names = manifest["images"], manifest.get("class_names")
    whole = Counter(image["target"] for image in images)
    there = {file: (path / file).is_file() for file in map(_file_of, images)}
    gone = Counter(image["target"] for image in images if not there[_file_of(image)])
    if gone.total() in (0, len(images)):
        return ""
    classes = [
        f"{names[target] if names else target} ({count} of {whole[target]})"
        for target, count in sorted(gone.items())
    ]
    more = len(classes) - NAMED_CLASSES
    text = ", ".join(classes[:NAMED_CLASSES]) + (f" and {more} more" if more > 0 else "")
    return (
        f"{gone.total():,} of {counted(len(images), 'image')} are missing, of class {text}; "
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

"""Reads run folders and synthetic sets for a report, whether finished or not, whole or damaged."""

import dataclasses
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import yaml  # type: ignore[import-untyped, unused-ignore]
from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException

from dearkd.config import train_config
from dearkd.data import synthetic_set
from dearkd.errors import UserError, one_line
from dearkd.json_text import parsed
from dearkd.misfit import misfit
from dearkd.models.heads import heads_note
from dearkd.report.contents import Run, SyntheticSet
from dearkd.run_folder.epochs import sound_epochs
from dearkd.run_folder.files import file_hash
from dearkd.run_folder.folder import RunFolder
from dearkd.said import command, counted
from dearkd.shapes import ANALYSIS, DIVERSITY, LOSS_CURVES, MANIFEST, SUMMARY

__all__ = ["read_run", "read_set"]

NAMED_CLASSES = 6
"""Classes with missing images that are named at most."""


def read_run(path: Path, name: str) -> Run:
    """A run folder, as far as it can be read; its notes say what is missing or damaged."""
    folder, notes = RunFolder(path), list[str]()
    config = _read(folder.config_file, yaml.safe_load, notes, _config_fault)
    summary = _read(folder.summary_file, parsed, notes, lambda it: misfit(it, SUMMARY))
    metrics, odd = sound_epochs(folder)
    notes += filter(None, [odd])
    analysis = _read(path / "analysis.json", parsed, notes, _analysis_fault)
    if analysis and not _is_of(folder, analysis):
        again = command("dearkd", "analyze", path)
        notes.append(f"its analysis.json is of earlier weights and was left out; again: {again}")
        analysis = {}
    run = Run(
        path=path,
        name=name,
        config=config,
        metrics=metrics,
        summary=summary,
        analysis=analysis,
    )
    if not config:
        notes.append("it has no readable config.yaml: its settings are not known")
    if not summary:
        notes.append(f"{run.status}; its numbers are those so far and are not compared")
    elif summary.get("top1") is None:
        notes.append("it had no evaluation data, so there is no top-1")
    if (note := heads_note(summary.get("trained_heads") or ())) is not None:
        notes.append(f"it {note}")
    return dataclasses.replace(run, notes=tuple(notes))


def _config_fault(tree: Any) -> str | None:
    """What of a configuration is not as `dearkd train` writes it; an older one has other keys."""
    given = {key: value for key, value in tree.items() if value is not None}
    try:
        train_config(OmegaConf.create(given))
    except (UserError, OmegaConfBaseException) as error:
        return None if "unknown config key" in str(error) else one_line(error)
    return None


def _is_of(folder: RunFolder, analysis: dict[str, Any]) -> bool:
    """Whether an analysis is of the weights that are there now; True where that is not known."""
    files = {"best": folder.best_file, "raw": folder.last_file}
    file = files.get(analysis.get("weights") or "final", folder.model_file)
    stored = analysis.get("weights_sha256")
    return stored is None or not file.is_file() or stored == file_hash(file)


def _analysis_fault(record: dict[str, Any]) -> str | None:
    """Why the attention chapter can't show an analysis; None if it can."""
    if (fault := misfit(record, ANALYSIS)) is not None:
        return fault
    blocks = record.get("position", [])
    if blocks and not record.get("grid"):
        return "it has a position and no grid"
    for place, block in enumerate(blocks):
        heads = len(block["alpha"])
        if len(block["sigma"]) != heads or np.shape(block["centres"]) != (heads, 2):
            return f"position[{place}] is not of one number of heads"
    bins = (np.shape(head["reliability"])[1] for head in record.get("heads", {}).values())
    return "a head's reliability has no three columns" if set(bins) - {3} else None


def read_set(path: Path, name: str) -> SyntheticSet:
    """A synthetic set, as far as it can be read; its notes say what is missing or damaged."""
    stored, notes = synthetic_set.read_set(path), list[str]()
    assert stored is not None
    manifest, settings = stored.manifest, stored.settings
    if not stored.finished:
        done = len(list((path / ".parts").glob("group_*.json")))
        groups = counted(done, "group")
        notes.append(f"unfinished: {groups} of images done and there is no manifest yet")
    elif fault := stored.damage if stored.damage and not manifest else _fault(manifest):
        notes.append(
            f"its manifest.json is not one that dearkd synthesize writes ({fault}) and was left out"
        )
        manifest = settings = {}
    else:
        notes += filter(None, (stored.damage, _missing(stored)))
    return SyntheticSet(
        stored=stored,
        name=name,
        manifest=manifest,
        settings=settings,
        curves=_read(
            path / "loss_curves.json", parsed, notes, lambda it: misfit(it, LOSS_CURVES)
        ).get("groups", {}),
        diversity=_read(path / "diversity.json", parsed, notes, lambda it: misfit(it, DIVERSITY)),
        notes=tuple(notes),
    )


def _fault(manifest: dict[str, Any]) -> str:
    """Why the chapters can't show a manifest; empty if they can."""
    if (fault := misfit(manifest, MANIFEST)) is not None:
        return fault
    if not manifest["images"]:
        return "it lists no images"
    targets = {image["target"] for image in manifest["images"]}
    names = manifest.get("class_names")
    if names is not None and not all(0 <= target < len(names) for target in targets):
        return "an image has a class that has no name"
    for role, verdicts in manifest["quality"].items():
        if not _covers(verdicts, set(map(str, targets))):
            return f"the verdicts of its {role} do not cover all classes"
    return ""


def _covers(verdicts: Any, targets: set[str]) -> bool:
    """Whether a network's verdicts on a set have a share for each of these classes."""
    per_class: dict[str, float] = verdicts["recognition"]["per_class"]
    return targets <= per_class.keys()


def _missing(stored: synthetic_set.SyntheticSet) -> str:
    """How many images of which classes are gone; empty if all are there, or none is."""
    names = stored.manifest.get("class_names")
    whole = Counter(image.record["target"] for image in stored.images)
    gone = Counter(image.record["target"] for image in stored.missing)
    if gone.total() in (0, whole.total()):
        return ""
    classes = [
        f"{names[target] if names else target} ({count} of {whole[target]})"
        for target, count in sorted(gone.items())
    ]
    more = len(classes) - NAMED_CLASSES
    text = ", ".join(classes[:NAMED_CLASSES]) + (f" and {more} more" if more > 0 else "")
    return (
        f"{gone.total():,} of {counted(whole.total(), 'image')} are missing, of class {text}; "
        "the numbers are of all that were made"
    )


def _read(
    file: Path,
    parse: Callable[[str], Any],
    notes: list[str],
    fault: Callable[[Any], str | None] = lambda content: None,
) -> dict[str, Any]:
    """The mapping in a file, parsed by ``parse``; empty, with a note, if it holds none.

    ``fault`` says what of it is not as dearkd writes it.
    """
    if not file.is_file():
        return {}
    try:
        content = parse(file.read_text(encoding="utf-8"))
    except (RecursionError, ValueError, yaml.YAMLError):
        content = None
    found = fault(content) if isinstance(content, dict) else ""
    if found is None:
        return dict(content)
    notes.append(f"{file.name} is damaged{f' ({found})' if found else ''} and was left out")
    return {}

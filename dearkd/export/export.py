"""What `dearkd export` does: writes a run's model in a form that other programs load.

A form is written under a temporary name, read back and compared with the model, and renamed only
then, so that nothing half-written is left.
"""

import os
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, get_args

from rich.console import Console
from rich.text import Text

from dearkd.errors import MissingFileError, UserError, one_line
from dearkd.export.difference import CHECK_BATCHES, difference
from dearkd.export.formats import Readout, write_onnx, write_timm, write_torch_export
from dearkd.export.model_card import Weights, model_card
from dearkd.json_text import parsed
from dearkd.misfit import misfit
from dearkd.models.cost import parameter_count
from dearkd.models.fused import fused
from dearkd.run_folder.files import new_file_mode, sync, write_atomically
from dearkd.run_folder.folder import RunFolder
from dearkd.run_folder.output import unwritable
from dearkd.said import command
from dearkd.shapes import SUMMARY
from dearkd.trained.exported import (
    open_onnx,
    open_timm,
    open_torch_export,
)
from dearkd.trained.imports import imported_file
from dearkd.trained.open import open_trained
from dearkd.trained.resolve import refuse_idle_trust, resolve
from dearkd.trained.trained import Trained

__all__ = ["Form", "export_run"]

SHOWN = (
    *("method", "data", "teacher", "epochs", "train_images", "eval_images", "top1", "heads"),
    *("best_top1", "best_epoch", "seed", "precision", "device", "versions"),
)
"""What a model card shows of a run's summary."""
Form = Literal["onnx", "torch-export", "timm", "hf-folder"]


@dataclass(frozen=True)
class _Writer:
    """How a form is written and read back."""

    write: Callable[[Path, Readout, dict[str, Any]], None]
    read: Callable[[Path], Trained]
    reader: str
    """The library that runs the form in the check."""
    ending: str | None = None
    """Suffix of the file; None: the form is a folder."""


_FOLDER = _Writer(lambda to, readout, said: write_timm(to, readout.model, said), open_timm, "timm")
_WRITERS: dict[str, _Writer] = {
    "onnx": _Writer(write_onnx, open_onnx, "onnxruntime", ".onnx"),
    "torch-export": _Writer(write_torch_export, open_torch_export, "torch", ".pt2"),
    "timm": _FOLDER,
    "hf-folder": _FOLDER,
}


def export_run(
    run: Path,
    *,
    console: Console,
    to: str = "onnx",
    out: Path | None = None,
    which: str = "final",
    fuse: bool = False,
    heads: bool = False,
    check: bool = True,
    licence: str | None = None,
    trust: bool = False,
) -> Path:
    """Writes the model of a run in the form ``to``, in float32, and returns the file or folder.

    Each step is printed when it begins, because some take a minute on a busy machine.

    Raises:
        UserError: If an option does not fit the form or the model, the place is taken, the run has
            no such weights, or what was written does not compute what the model does.
        MissingFileError: If there is no such folder.
        ImportError: If the form takes packages that are not installed.
        OSError: If there is no room or no permission to write.
    """
    _check_options(to, fuse, heads, licence)
    if not run.is_dir():
        raise MissingFileError(f"{run} is not a run folder; pass one that `dearkd train` wrote")
    writer = _WRITERS[to]
    place = out or run / _name(to, which, fuse, writer.ending)
    _check_place(place, to, writer.ending)
    console.print(f"exporting {run} ({which} weights) to {to}")
    resolved = resolve(str(run), "run", which=which, trust=trust)
    refuse_idle_trust(trust, resolved)
    trained = open_trained(resolved)
    model, description = trained.network, trained.metadata
    plain = Readout(model, heads)
    exported = Readout(fused(model), heads) if fuse else plain
    summary = _summary(run) if to == "hf-folder" else {}
    gap = None

    def write(target: Path) -> None:
        nonlocal gap
        writer.write(target, exported, description)
        if to == "hf-folder":
            weights = Weights(run.resolve().name, which, parameter_count(model), licence)
            (target / "README.md").write_text(
                model_card(description, weights, summary), encoding="utf-8"
            )
        if check:
            console.print(f"checking it in {writer.reader} on {sum(CHECK_BATCHES)} images of noise")
            gap = difference(plain, writer.read(target))

    in_place = _write_folder if writer.ending is None else write_atomically
    with console.status(Text(f"writing {place}")):
        try:
            place.parent.mkdir(parents=True, exist_ok=True)
            in_place(place, write)
        except OSError as error:
            raise unwritable(place, error) from error
    _tell(console, place, plain, description, gap)
    if trained.heads_note is not None:
        console.print(f"note: it {trained.heads_note}")
    return place


def _check_place(place: Path, to: str, ending: str | None) -> None:
    if ending is not None and place.suffix != ending:
        raise UserError(
            f"--out {place} must end in {ending}, by which dearkd predict and others know --to "
            f"{to}; use {command('--out', f'{place}{ending}')}"
        )
    if ending is None and place.suffix in {writer.ending for writer in _WRITERS.values()}:
        raise UserError(
            f"--out {place} ends in {place.suffix}, by which dearkd predict knows a graph, and "
            f"--to {to} makes a folder; use {command('--out', place.with_suffix(''))}"
        )
    if place.exists():
        raise UserError(f"{place} exists already; remove it or choose another --out")


def _check_options(to: str, fuse: bool, heads: bool, licence: str | None) -> None:
    if to not in get_args(Form):
        raise UserError(f"--to must be one of {', '.join(get_args(Form))}, got {to!r}")
    for option, given in (("--fuse", fuse), ("--heads", heads)):
        if given and _WRITERS[to].ending is None:
            raise UserError(
                f"{option} shapes a graph, and --to {to} keeps the model itself; "
                "leave it out or choose --to onnx or torch-export"
            )
    if licence is not None and to != "hf-folder":
        raise UserError(f"--license goes into a model card, and --to {to} has none; leave it out")


def _name(to: str, which: str, fuse: bool, ending: str | None) -> str:
    marks = ([which] if which != "final" else []) + (["fused"] if fuse else [])
    return "-".join(["model" if ending else to, *marks]) + (ending or "")


def _summary(run: Path) -> dict[str, Any]:
    """The run's numbers; empty for one that has left none.

    Raises:
        UserError: If their file is damaged.
    """
    file = RunFolder(run).summary_file
    if not file.is_file():
        return {}
    try:
        summary = parsed(file.read_text(encoding="utf-8"))
        fault = misfit(summary, SUMMARY) or misfit(summary, dict.fromkeys((*SHOWN, ...), object))
        if fault is not None:
            raise ValueError(fault)
    except ValueError as error:
        raise UserError(
            f"{file} is damaged ({one_line(error)}), and the model card shows it; remove it"
        ) from error
    return summary


def _write_folder(place: Path, write: Callable[[Path], None]) -> None:
    """Writes a folder under a temporary name beside ``place``, then renames it."""
    temporary = place.with_name(f".{place.name}.tmp{os.getpid()}")
    try:
        write(temporary)
        probe = temporary / ".mode"
        mode = new_file_mode(probe)
        probe.unlink()
        for file in temporary.iterdir():
            sync(file, mode)
        temporary.replace(place)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def _tell(
    console: Console,
    place: Path,
    readout: Readout,
    description: dict[str, Any],
    gap: float | None,
) -> None:
    files = [place] if place.is_file() else list(place.iterdir())
    size, classes = description["img_size"], description["num_classes"]
    console.print(
        f"wrote {place}: {sum(file.stat().st_size for file in files) / 1e6:.1f} MB; images "
        f"(batch, 3, {size}, {size}) to {', '.join(readout.names)} (batch, {classes})"
    )
    if gap is None:
        console.print("not checked against the model")
    else:
        console.print(f"it answers as the model does: largest difference of logits {gap:.1g}")
    needed = ["--trust"] if place.suffix == ".pt2" else []
    if place.is_dir() and (file := imported_file(description["arch"])) is not None:
        needed = ["--import", file]
    console.print(f"try it: {command('dearkd', 'predict', place, 'IMAGE', *needed)}")

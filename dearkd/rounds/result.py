"""The end of a run in rounds: its folder becomes an ordinary run folder, of the last student."""

import dataclasses
import json
import shutil
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

from dearkd.data.synthetic_set import MANIFEST_FILE, read_set
from dearkd.errors import UserError
from dearkd.misfit import NONE, Shape, number, whole
from dearkd.rounds.folder import Round
from dearkd.run_folder.epochs import sound_epochs
from dearkd.run_folder.files import write_atomically
from dearkd.run_folder.folder import RunFolder
from dearkd.run_folder.output import write_text
from dearkd.shapes import SUMMARY

__all__ = ["round_entry", "write_result"]

TRAINED: Shape = {
    **SUMMARY,
    **{"train_images": whole, "seconds": number},
    **dict.fromkeys(("top1", "best_top1", "best_epoch"), (number, NONE)),
}
"""The summary of a round's student."""


def write_result(rounds: Sequence[Round]) -> dict[str, Any]:
    """Writes weights, curve, configuration and, last, summary of the whole; returns the summary.

    The curve has the epochs of all rounds, one after the other; a round is a stage of it. The
    summary is the last student's, with the time and the best epoch of all and an entry for each
    round.
    """
    last, folder = rounds[-1].student, RunFolder(rounds[-1].run)
    _copy(last.model_file, folder.model_file)
    _write_lines(folder.metrics_file, _curve(rounds))
    _write_lines(folder.sessions_file, [s for part in rounds for s in part.student.sessions()])
    folder.write_config(dataclasses.replace(last.read_config(), out=str(folder.path)))
    entries = [round_entry(part) for part in rounds]
    summary = {
        **last.read_summary(),
        **_best(rounds, folder),
        "epochs": sum(entry["epochs"] for entry in entries),
        "stages": {f"round {entry['round']}": entry["epochs"] for entry in entries},
        "seconds": round(sum(entry["seconds"] + entry["set_seconds"] for entry in entries), 1),
        "rounds": entries,
        "files": folder.hashes(),
    }
    folder.write_summary(summary)
    return summary


def round_entry(part: Round) -> dict[str, Any]:
    """What a finished round added and reached; what is not known is None.

    Raises:
        UserError: If what its set or its student says of itself is damaged.
    """
    if (fault := part.manifest_fault) is not None:
        raise UserError(
            f"{part.set / MANIFEST_FILE} is not one that dearkd writes ({fault}); restore it from "
            "a copy, or delete it, which leaves out what it says of the images"
        )
    summary, metrics = part.student.sound_summary(TRAINED), sound_epochs(part.student)[0]
    found, end = read_set(part.set), metrics[-1] if metrics else {}
    manifest = {} if found is None else found.manifest
    quality = manifest.get("quality", {}).get("teacher", {})
    return {
        "round": part.number,
        "new_images": len(manifest.get("images", ())),
        "recognition": quality.get("recognition", {}).get("overall"),
        "train_images": summary["train_images"],
        "epochs": len(metrics),
        "epoch_views": summary.get("epoch_views"),
        "top1": summary["top1"],
        "teacher_agreement": end.get("teacher_agreement"),
        "loss": end.get("loss"),
        "set_seconds": sum(group.get("seconds") or 0.0 for group in manifest.get("groups", ())),
        "seconds": summary["seconds"],
    }


def _best(rounds: Sequence[Round], folder: RunFolder) -> dict[str, Any]:
    """Top-1 and number of the best epoch of all, whose weights are kept; None without top-1."""
    best: dict[str, Any] = {"best_top1": None, "best_epoch": None}
    epochs = 0
    for part in rounds:
        own = part.student.read_summary()
        better = own["best_top1"] is not None and own["best_top1"] > (best["best_top1"] or -1.0)
        if better and part.student.best_file.is_file():
            best = {"best_top1": own["best_top1"], "best_epoch": epochs + own["best_epoch"]}
            folder.best_file.parent.mkdir(exist_ok=True)
            _copy(part.student.best_file, folder.best_file)
        epochs += len(sound_epochs(part.student)[0])
    return best


def _curve(rounds: Sequence[Round]) -> Iterator[dict[str, Any]]:
    """The epochs of all rounds, counted on; their seconds are those of training alone."""
    epochs, seconds = 0, 0.0
    for part in rounds:
        metrics, _ = sound_epochs(part.student)
        for line in metrics:
            place = {"epoch": epochs + line["epoch"], "stage": f"round {part.number}"}
            yield {**line, **place, "seconds": seconds + (line.get("seconds") or 0.0)}
        epochs += len(metrics)
        seconds += (metrics[-1].get("seconds") or 0.0) if metrics else 0.0


def _write_lines(file: Path, lines: Iterable[dict[str, Any]]) -> None:
    write_text(file, "".join(json.dumps(line) + "\n" for line in lines))


def _copy(source: Path, target: Path) -> None:
    def write(file: Path) -> None:
        shutil.copyfile(source, file)

    write_atomically(target, write)

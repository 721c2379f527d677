"""What is verified of a run: its files, their agreement, its weights, and that it repeats."""

from collections.abc import Iterator
from math import isfinite
from typing import Any

import torch
from rich.console import Console

from dearkd.errors import MissingFileError, UserError
from dearkd.judging.eval import evaluate_target
from dearkd.run_folder.files import file_hash, load_weights
from dearkd.run_folder.folder import RunFolder
from dearkd.run_folder.processes import device_name, process_state
from dearkd.run_folder.provenance import machine, versions
from dearkd.said import counted
from dearkd.trained.resolve import refuse_idle_trust, resolve
from dearkd.verify.checks import Check, found, gathered

__all__ = ["run_checks"]

Summary = dict[str, Any]
SAME = ("method", "student", "seed", "precision", "memory_format")
"""What configuration and summary both say, by one name."""
OF_A_SESSION = ("threads", "device", "processes", "versions")
"""What a summary says of the session that the run began with; each session says it too."""
ROUNDING = 1e-6
"""Two percentages that differ by less are one number."""


def run_checks(folder: RunFolder, evaluates: bool, trust: bool = False) -> Iterator[Check]:
    """The checks of a finished run, one after another; ``evaluates``: it is judged once more.

    Raises:
        UserError: If its summary cannot be read, or ``trust`` would have no effect.
    """
    summary: Summary = folder.sound_summary()
    if trust:
        _check_trust(folder)
    yield from gathered("files", lambda: _files(folder, summary))
    yield from gathered("configuration", lambda: _configuration(folder, summary))
    yield from gathered("epochs", lambda: _epochs(folder, summary))
    yield from gathered("weights", lambda: _weights(folder))
    if not evaluates:
        yield Check("evaluation", "open", "left out by --no-evaluation")
    elif summary.get("top1") is None:
        yield Check("evaluation", "open", "the run had no images to be judged on")
    else:
        yield from gathered("evaluation", lambda: _evaluation(folder, summary, trust))
    yield from gathered("here", lambda: _here(summary))


def _check_trust(folder: RunFolder) -> None:
    """Refuses ``--trust`` where the run's network brings no code along."""
    try:
        network = resolve(str(folder.path), "model", trust=True)
    except UserError:  # which the checks tell
        return
    refuse_idle_trust(True, network)


def _files(folder: RunFolder, summary: Summary) -> Check:
    """Whether the files are, byte for byte, those that the run left."""
    stored = summary.get("files")
    if stored is None:
        return Check("files", "open", "the run is of a version that kept no hashes")
    faults = []
    for name, digest in stored.items():
        file = folder.path / name
        if not file.resolve().is_relative_to(folder.path.resolve()):
            faults.append(f"{name} is outside of the run")
        elif not file.is_file():
            faults.append(f"{name} is gone")
        elif file_hash(file) != digest:
            faults.append(f"{name} is not the file that the run left")
    return found("files", faults, f"{counted(len(stored), 'file')}, as the run left them")


def _configuration(folder: RunFolder, summary: Summary) -> Check:
    """Whether the configuration can be read and is that of the summary."""
    config = folder.read_config()
    pairs = {name: (getattr(config, name), summary[name]) for name in SAME if name in summary}
    rounds = summary.get("rounds")  # of which config.yaml has the last
    pairs |= {"epochs": (config.epochs, rounds[-1]["epochs"] if rounds else summary["epochs"])}
    faults = [
        f"{name} is {own} in config.yaml and {other} in summary.json"
        for name, (own, other) in pairs.items()
        if own != other
    ]
    return found("configuration", faults, "config.yaml and summary.json agree")


def _epochs(folder: RunFolder, summary: Summary) -> Check:
    """Whether every epoch has its line, with finite numbers that lead to the summary's."""
    lines = folder.read_metrics()
    wanted = sum(summary["stages"].values())
    faults = []
    if [line["epoch"] for line in lines] != list(range(wanted)):
        faults.append(f"metrics.jsonl has {counted(len(lines), 'line')}, not those of {wanted}")
    for line in lines:
        odd = [k for k, v in line.items() if isinstance(v, float) and not isfinite(v)]
        faults += [f"{key} of epoch {line['epoch'] + 1} is {line[key]}" for key in odd]
    stages = [line["stage"] for line in lines]
    spent = {name: stages.count(name) for name in summary["stages"] if summary["stages"][name]}
    if stages != [name for name, epochs in spent.items() for _ in range(epochs)]:
        faults.append("the stages in metrics.jsonl do not follow one another as in summary.json")
    faults += _tops(lines, summary)
    return found("epochs", faults, f"{counted(wanted, 'epoch')}, each with its line")


def _tops(lines: list[dict[str, Any]], summary: Summary) -> Iterator[str]:
    """What of the accuracies in the summary is not that of the epochs."""
    tops = [line["top1"] for line in lines if line["top1"] is not None]
    if not tops or summary["top1"] is None:
        return
    pairs = [(tops[-1], summary["top1"], "top1"), (max(tops), summary["best_top1"], "best_top1")]
    for own, other, name in pairs:
        if other is None or abs(own - other) > ROUNDING:
            yield f"{name} is {other} in summary.json and {own} by metrics.jsonl"


def _weights(folder: RunFolder) -> Check:
    """Whether every weight is a number."""
    faults = []
    state = load_weights(folder.model_file)
    for name, tensor in state.items():
        count = int((~torch.isfinite(tensor)).sum()) if tensor.is_floating_point() else 0
        if count:
            faults.append(f"{name} has {counted(count, 'number')} that are not finite")
    return found("weights", faults, f"{counted(len(state), 'tensor')}, all finite")


def _evaluation(folder: RunFolder, summary: Summary, trust: bool) -> Check:
    """Whether the saved weights read the same images rightly, to the last one."""
    try:
        again = evaluate_target(str(folder.path), console=Console(quiet=True), trust=trust)
    except MissingFileError as error:
        if not folder.model_file.is_file():
            raise
        return Check("evaluation", "open", f"it cannot be judged here: {error}")
    images = summary["eval_images"]
    if again["images"]["count"] != images:
        told = f"{again['images']['count']} images can be read, and the run was judged on {images}"
        return Check("evaluation", "fails", told)
    off = {
        f"{metric} of {head}": abs(value - again[head][metric]) * images / 100
        for head, values in summary["heads"].items()
        for metric, value in values.items()
    }
    name, most = max(off.items(), key=lambda pair: pair[1])
    if round(most) == 0:
        told = f"top-1 {summary['top1']:.2f} % of {images:,} images again, to the last image"
        return Check("evaluation", "holds", told)
    told = f"{name} differs by {counted(round(most), 'image')} of {images:,}"
    if unlike := _unlike(summary):
        return Check("evaluation", "open", f"{told}; {'; '.join(unlike)}")
    return Check("evaluation", "fails", told)


def _here(summary: Summary) -> Check:
    """Whether the same command would give the same bits here."""
    unlike = _unlike(summary)
    if not unlike:
        told = "the same command gives the same bits here: same processor, packages and threads"
        return Check("here", "holds", told)
    return Check("here", "open", f"the same command agrees to rounding here: {'; '.join(unlike)}")


def _unlike(summary: Summary) -> list[str]:
    """What of that which the bits of a run depend on was not as here in one of its sessions."""
    here: dict[str, Any] = {
        "threads": torch.get_num_threads(),
        "cpu": machine()["cpu"],
        "device": device_name(process_state().device),
    }
    packages, sessions = versions(), summary.get("sessions") or [{}]
    begun = {"cpu": sessions[0].get("cpu")} | {name: summary.get(name) for name in OF_A_SESSION}
    unlike = list[str]()
    for session in (begun, *sessions):
        pairs = {
            name: (version, packages.get(name))
            for name, version in (session.get("versions") or {}).items()
        }
        pairs |= {name: (session[name], own) for name, own in here.items() if name in session}
        unlike += [
            f"{name} {'not known' if old is None else old} there, {new} here"
            for name, (old, new) in pairs.items()
            if old != new
        ]
        if (session.get("processes") or 1) > 1:
            unlike.append("it ran in several processes")
    return list(dict.fromkeys(unlike))  # each once

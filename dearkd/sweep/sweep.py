"""What `dearkd sweep` does: a study's file in, a record of its runs and their table out."""

import difflib
import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from dearkd.config_file import to_yaml
from dearkd.errors import MissingFileError, UserError
from dearkd.report.study_chapter import study_page
from dearkd.report.study_tables import notes, study_markdown, study_tables
from dearkd.run_folder.folder import RunFolder
from dearkd.run_folder.lock import held
from dearkd.run_folder.output import write_text
from dearkd.run_folder.record import Record, entry_of, read_record
from dearkd.run_folder.stop import Interrupted
from dearkd.said import command, counted, seconds_text
from dearkd.sweep.children import Child, run_all
from dearkd.sweep.plan import PlannedRun, difference, plan, settings_of
from dearkd.sweep.study import StudyFile, read_study

__all__ = ["Request", "print_table", "sweep"]

RECORD, TABLE, CURVES = "record.json", "table.md", "curves.html"
"""What a study's folder holds beside its runs."""


@dataclass(frozen=True, kw_only=True)
class Request:
    """What was typed."""

    study: Path
    options: dict[str, Any] = field(default_factory=dict)
    """Settings by dotted name, for every arm."""
    settings: Sequence[str] = ()
    """``a.b=c``, over the options."""
    out: Path | None = None
    record: Path | None = None
    jobs: int = 1
    only: Sequence[str] = ()
    test: str | None = None
    trust: bool = False
    again: str = ""
    """The command that goes on after an interruption."""

    @property
    def root(self) -> Path:
        """The folder that the runs' folders are in."""
        return self.out or Path("runs") / self.study.stem

    @property
    def record_file(self) -> Path:
        """Where the record is kept: beside the study's folder unless it is named."""
        return self.record or self.root.with_name(f"{self.root.name}.json")


def sweep(request: Request, *, console: Console, dry_run: bool = False) -> bool:
    """Trains what is missing of a study, and shows its table; True if no run has failed.

    A dry run shows the plan and what each run takes, and writes nothing.

    Raises:
        UserError: Anything wrong with the study, or with what is there of it, before any training.
        Interrupted: After Ctrl-C or SIGTERM, with every run's state saved.
    """
    study = read_study(request.study, request.settings, request.options)
    _check_only(study, request.only)
    record = _record(request.record_file, study)
    runs = plan(study, trust=request.trust, costs=dry_run)
    for run in runs:
        _check_known(run, record, _folder(request, run))
    if dry_run:
        _print_plan(runs, record, request, console)
        return True
    with held(request.root, "lock"):
        record.write()
        failed = _train(runs, record, request, console)
        failed += _test(runs, record, request, console)
        _write(record, request.root)
    _print_tables(record, console)
    console.print(f"record: {record.path}; table and curves: {request.root}")
    for line in failed:
        console.print(f"failed: {line}")
    return not failed


def print_table(request: Request, *, console: Console) -> None:
    """Prints the table of a study's record as Markdown, whether its runs are there or not.

    Raises:
        MissingFileError: If there is no record.
        UserError: If the record is another study's.
    """
    file = request.record_file
    if not file.is_file():
        raise MissingFileError(f"no record {file}; run the study, or name its file by --record")
    record = _record(file, read_study(request.study, request.settings, request.options))
    console.file.write(study_markdown(record))


def _check_only(study: StudyFile, only: Sequence[str]) -> None:
    for name in only:
        if name not in study.config.arms:
            near = difflib.get_close_matches(name, study.config.arms, n=1)
            hint = (
                f"did you mean {near[0]!r}?" if near else f"it has {', '.join(study.config.arms)}"
            )
            raise UserError(f"--only {name!r} is no arm of {study.path}; {hint}")


def _record(file: Path, study: StudyFile) -> Record:
    """What is known of the study already, with the arms that it has now."""
    if not file.is_file():
        return Record(file, study.described())
    record = read_record(file)
    if record.study.name != study.name:
        raise UserError(
            f"record {file} is of study {record.study.name}, not {study.name}; name another file "
            "by --record"
        )
    return Record(file, study.described(), record.entries)


def _folder(request: Request, run: PlannedRun) -> RunFolder:
    return RunFolder(request.root / run.name)


def _check_known(run: PlannedRun, record: Record, folder: RunFolder) -> None:
    """Refuses a record or a folder of a run that has other settings than the study says.

    Raises:
        UserError: Naming the arm, the setting and both values.
    """
    entry = record.find(*run.key)
    if entry is not None:
        found, where = difference(entry["settings"], run.settings), f"record {record.path}"
        remedy = "take the study's change back, or name another --record"
    elif folder.config_file.is_file():
        stored, wanted = settings_of(folder.read_config()), settings_of(run.resolved)
        found, where = difference(stored, wanted), f"{folder.path}"
        remedy = "take the study's change back, remove that folder, or choose another --out"
    else:
        return
    if found is not None:
        key, old, new = found
        raise UserError(
            f"arm {run.arm!r}, seed {run.seed}: {where} has {key}={old}, and the study "
            f"says {new}; {remedy}"
        )


def _train(
    runs: Sequence[PlannedRun], record: Record, request: Request, console: Console
) -> list[str]:
    """Trains the runs that are not finished, and says why those fail that do."""
    for run in runs:
        if record.find(*run.key) is None and _folder(request, run).summary_file.is_file():
            _take(run, record, request)
    known = sum(record.find(*run.key) is not None for run in runs)
    left = [
        run
        for run in runs
        if record.find(*run.key) is None and (not request.only or run.arm in request.only)
    ]
    console.print(
        f"{request.study.stem}: {counted(len(runs), 'run')}, {known} finished, {len(left)} to train"
        f"{f', {request.jobs} at a time' if request.jobs > 1 else ''} -> {request.root}"
    )
    by_child = {_child(run, request): run for run in left}
    failed: list[str] = []

    def begun(child: Child) -> None:
        console.print(f"  {child.name} begins ({child.log})")

    def ended(child: Child, code: int) -> None:
        run = by_child[child]
        if code == 0:
            entry = _take(run, record, request)
            took = seconds_text(entry["summary"]["seconds"])
            console.print(f"  {child.name}: top-1 {entry['summary']['top1']:.2f} %, {took}")
            return
        console.print(f"  {child.name} ended with exit code {code}")
        failed.append(f"{child.name}: {child.last_words()} (exit code {code}, {child.log})")

    _run_all(list(by_child), request, console, begun, ended)
    return failed


def _child(run: PlannedRun, request: Request) -> Child:
    """The command that trains a run, or goes on with it."""
    folder = _folder(request, run)
    words = ["train", "--out", str(folder.path)]
    if folder.config_file.is_file():
        words.append("--resume")
    else:
        file = request.root / "configs" / f"{run.name}.yaml"
        file.parent.mkdir(parents=True, exist_ok=True)
        write_text(file, to_yaml(run.config))
        words.append(str(file))
    if request.trust and run.resolved.teacher.name is not None:
        words.append("--trust")
    return Child(run.name, tuple(words), request.root / "logs" / f"{run.name}.log")


def _take(run: PlannedRun, record: Record, request: Request) -> dict[str, Any]:
    """Puts a finished run into the record, if it is what was planned."""
    folder = _folder(request, run)
    _check_known(run, record, folder)
    entry = entry_of(folder, run.key, run.settings)
    record.add(entry)
    return entry


def _test(
    runs: Sequence[PlannedRun], record: Record, request: Request, console: Console
) -> list[str]:
    """Reads the test images with every finished run that has not read them, once."""
    if request.test is None:
        return []
    failed, waiting = [], dict[Child, PlannedRun]()
    for run in runs:
        entry, folder = record.find(*run.key), _folder(request, run)
        if entry is None or entry.get("test"):
            continue
        if not folder.model_file.is_file():
            failed.append(f"{run.name}: its weights are gone, so the test images were not read")
            continue
        words = ("eval", str(folder.path), "--data", request.test, "--json")
        waiting[Child(run.name, words, request.root / "logs" / f"{run.name}-test.log")] = run

    def ended(child: Child, code: int) -> None:
        if code:
            failed.append(f"{child.name} on {request.test}: {child.last_words()}")
            return
        entry = record.find(*waiting[child].key)
        assert entry is not None
        record.add(entry | {"test": _read_result(child.log)})

    _run_all(list(waiting), request, console, lambda child: None, ended)
    return failed


def _read_result(log: Path) -> dict[str, Any]:
    """Top-1 of each head and the number of images, as `dearkd eval --json` printed them."""
    text = log.read_text(encoding="utf-8")
    result = json.loads(text[text.index("{") : text.rindex("}") + 1])
    images = int(result.pop("images")["count"])
    heads = {head: values["top1"] for head, values in result.items()}
    return {"top1": heads["logits"], "heads": heads, "images": images}


def _run_all(
    children: list[Child], request: Request, console: Console, begun: Any, ended: Any
) -> None:
    try:
        run_all(children, request.jobs, begun, ended)
    except Interrupted:
        console.print(f"stopped and saved; go on with: {request.again}")
        raise


def _write(record: Record, root: Path) -> None:
    """Writes the table, the curves and a copy of the record into the study's folder."""
    record.write(root / RECORD)
    write_text(root / TABLE, study_markdown(record))
    write_text(root / CURVES, study_page(record))


def _print_tables(record: Record, console: Console) -> None:
    for table in study_tables(record):
        shown = Table(*table.titles)
        for row in table.rows:
            shown.add_row(*row)
        console.print(shown)
    for note in notes(record):
        console.print(note)


def _print_plan(
    runs: Sequence[PlannedRun], record: Record, request: Request, console: Console
) -> None:
    """Every run with what is there of it and what it takes; the time of all that are left."""
    table, left = Table("run", "state", "training images", "steps", "takes about"), 0.0
    for run in runs:
        state = _state(run, record, request)
        wanted = state != "finished" and (not request.only or run.arm in request.only)
        assert run.seconds is not None
        left += run.seconds if wanted else 0.0
        steps = run.settings["steps"] * run.settings["epochs"]
        images = f"{run.settings['train_images']:,}"
        takes = seconds_text(run.seconds) if wanted else ""
        table.add_row(run.name, state, images, f"{steps:,}", takes)
    console.print(table)
    console.print(
        f"about {seconds_text(left)} in all, one run after the other (measured on a few steps of "
        f"each arm with this process's threads; {command('--jobs', request.jobs)} was asked for)"
    )


def _state(run: PlannedRun, record: Record, request: Request) -> str:
    folder = _folder(request, run)
    if record.find(*run.key) is not None or folder.summary_file.is_file():
        return "finished"
    if not folder.config_file.is_file():
        return "to train"
    return f"begun, {counted(len(folder.read_metrics()), 'epoch')}"

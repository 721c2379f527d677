"""What `dearkd sweep` does: a study's file in, a record of its runs and their table out."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Column, Table

from dearkd.errors import MissingFileError, UserError
from dearkd.report.study_chapter import study_page
from dearkd.report.study_tables import notes, study_markdown, study_tables
from dearkd.run_folder.lock import held
from dearkd.run_folder.output import write_text
from dearkd.run_folder.record import COPY, Key, Record, key_of
from dearkd.run_folder.stop import Interrupted
from dearkd.said import counted, listed, seconds_text
from dearkd.sweep.plan import PlannedRun, plan
from dearkd.sweep.runs import Runs
from dearkd.sweep.study import StudyFile, name_hint, read_study

__all__ = ["Request", "print_table", "sweep"]

TABLE, CURVES = "table.md", "curves.html"
"""What a study's folder holds beside its runs and a copy of its record."""


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
    """Arms to train now; none named: all."""
    seeds: Sequence[int] = ()
    """Seeds to train now; none named: all."""
    fractions: Sequence[float] = ()
    """Shares of the images to train on now; none named: all."""
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
        root = self.root if self.root.name not in ("", "..") else self.root.resolve()
        return self.record or root.parent / f"{root.name}.json"


def sweep(request: Request, *, console: Console, dry_run: bool = False) -> bool:
    """Trains what is missing of a study, and shows its table; True if no run has failed.

    A dry run shows the plan and what each run takes, and writes nothing.

    Raises:
        UserError: Anything wrong with the study, or with what is there of it, before any training.
        Interrupted: After Ctrl-C, SIGTERM or SIGUSR1, with every run's state saved.
    """
    study = read_study(request.study, request.settings, request.options)
    only = _chosen(study, request)
    record = _record(request.record_file, study)
    others = [entry for entry in record.of_study() if only and key_of(entry) not in only]
    planned = plan(study, only=only, recorded=others, trust=request.trust, costs=dry_run)
    runs = Runs(planned, record, request.root, request.jobs, request.trust, request.test)
    runs.check()
    if dry_run:
        _print_plan(runs, console)
        return True
    with held(request.root, "lock"):
        record.save()
        runs.check()  # again: another command may have trained some of them meanwhile
        try:
            failed = _run(runs, request, console)
        finally:
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


def _chosen(study: StudyFile, request: Request) -> set[Key] | None:
    """The runs to train now; None where none were named: all."""
    described, arms = study.described(), study.config.arms
    for name in request.only:
        if name not in arms:
            raise UserError(f"--only {name!r} is no arm of {study.path}; {name_hint(name, arms)}")
    for option, named, known in (
        ("seed", request.seeds, described.seeds),
        ("fraction", request.fractions, described.fractions),
    ):
        for value in named:
            if value not in known:
                there, remedy = listed([str(one) for one in known]), "name one of them"
                if known == (None,):
                    there, remedy = "none", f"leave --{option} out"
                raise UserError(
                    f"--{option} {value} is no {option} of {study.path}, which has {there}; "
                    f"{remedy}, or add it to its {option}s"
                )
    wanted = (request.only, request.fractions, request.seeds)
    if not any(wanted):
        return None
    return {
        key
        for key in described.keys
        if all(not named or part in named for part, named in zip(key, wanted, strict=True))
    }


def _record(file: Path, study: StudyFile) -> Record:
    """What is known of the study already, with the arms that it has now."""
    record = Record(file, study.described())
    record.read_again()
    return record


def _run(runs: Runs, request: Request, console: Console) -> list[str]:
    """Trains and tests what is left; returns a line for each run that fails."""
    runs.gather()
    finished = sum(map(runs.is_finished, runs.planned))
    console.print(
        f"{request.study.stem}: {counted(len(runs.planned), 'run')}, {finished} finished, "
        f"{len(runs.left)} to train{f', {runs.jobs} at a time' if runs.jobs > 1 else ''} -> "
        f"{runs.root}"
    )
    try:
        failed = runs.train(console)
        return failed + runs.read_test()
    except Interrupted:
        console.print(f"stopped and saved; go on with: {request.again}")
        raise


def _write(record: Record, root: Path) -> None:
    """Writes the table, the curves and a copy of the record into the study's folder."""
    record.write(root / COPY)
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


def _print_plan(runs: Runs, console: Console) -> None:
    """Every run with what is there of it and what it takes; the time of all that are left."""
    name = Column("run", overflow="fold")
    table = Table(name, "state", "training images", "steps", "takes about")
    left = runs.left
    for run in runs.planned:
        steps = run.settings["steps"] * run.settings["epochs"]
        takes = seconds_text(run.seconds) if run in left else ""
        images = f"{run.settings['train_images']:,}"
        table.add_row(run.name, _state(run, runs), images, f"{steps:,}", takes)
    console.print(table)
    total = seconds_text(sum(run.seconds or 0.0 for run in left))
    console.print(
        f"about {total} in all, one run after the other (a few steps of each arm were measured, "
        "with this process's threads)"
    )


def _state(run: PlannedRun, runs: Runs) -> str:
    if runs.is_finished(run):
        return "finished"
    folder = runs.folder(run)
    if not folder.config_file.is_file():
        return "to train"
    return f"begun, {counted(len(folder.read_metrics()), 'epoch')}"

"""Collects the runs and synthetic sets that a report is about, and groups the runs."""

from collections.abc import Iterable, Sequence
from contextlib import suppress
from pathlib import Path

from dearkd.data.settings import DIGITS
from dearkd.data.sources import natural_order
from dearkd.data.synthetic_set import MANIFEST_FILE, is_set, named_paths
from dearkd.errors import UserError, missing_file
from dearkd.report.contents import Group, Report, Run, teachers_of
from dearkd.report.read import read_run, read_set
from dearkd.run_folder.folder import RUN_FILES, is_run
from dearkd.run_folder.record import COPY, NoRecordError, Record, read_record

__all__ = ["collect"]


def collect(targets: Sequence[Path], baseline: str | None = None) -> Report:
    """Reads run folders, synthetic sets, folders of both, and studies: their folder or record.

    The synthetic sets that the runs were trained on are added. ``baseline`` is a run's name or
    folder; by default it is, in each group, the first finished run that taught no other.

    Raises:
        MissingFileError: If a target does not exist.
        UserError: If a target is neither run nor set nor a folder of them, or the baseline is none
            of the runs.
    """
    studies = [_study_of(Path(target)) for target in targets]
    folders = _distinct(
        folder
        for target, study in zip(targets, studies, strict=True)
        for folder in _expanded(Path(target), study)
    )
    run_folders = [folder for folder in folders if is_run(folder)]
    names = _short_names(folders)
    runs = tuple(read_run(folder, names[folder]) for folder in run_folders)
    sets = [folder for folder in folders if not is_run(folder)]
    sets = _distinct([*sets, *(data for run in runs for data in _trained_on(run) if is_set(data))])
    set_names = _short_names(sets)
    return Report(
        runs=runs,
        sets=tuple(read_set(folder, set_names[folder]) for folder in sets),
        groups=_groups(runs, _wanted(runs, baseline)),
        studies=_distinct_studies(studies),
    )


def _study_of(target: Path) -> Record | None:
    """The record that a target is, or that lies in it as in a study's folder; None: it is no study.

    Raises:
        UserError: If the record is damaged.
    """
    if (target / COPY).is_file():
        return read_record(target / COPY)
    if target.is_file() and target.suffix == ".json":
        with suppress(NoRecordError):
            return read_record(target)
    return None


def _distinct_studies(found: Iterable[Record | None]) -> tuple[Record, ...]:
    """Each study once, of its folder's copy and its record."""
    distinct = list[Record]()
    for record in found:
        content = None if record is None else (record.study, record.entries)
        if record is not None and all(content != (o.study, o.entries) for o in distinct):
            distinct.append(record)
    return tuple(distinct)


def _expanded(target: Path, study: Record | None) -> list[Path]:
    """The run or set that a target is, or all runs and sets that lie in it.

    The runs of a study may be gone, or never have been here.
    """
    if not target.exists():
        remedy = "pass a run folder, a synthetic set or a folder of them"
        raise missing_file(str(target), target, remedy)
    if study is not None and target.is_file():
        return []
    if not target.is_dir():
        raise UserError(
            f"{target} is a file; pass the run folder it lies in, or a record of dearkd sweep"
        )
    if is_run(target) or is_set(target):
        return [target]
    inside = natural_order([entry for entry in target.iterdir() if is_run(entry) or is_set(entry)])
    if not inside and study is None:
        raise UserError(
            f"{target} holds no run ({', '.join(RUN_FILES)}) and no synthetic set "
            f"({MANIFEST_FILE}); pass the folder of one, or a folder of such folders"
        )
    return inside


def _distinct(folders: Iterable[Path]) -> list[Path]:
    """Each folder once, by the first path that names it."""
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


def _trained_on(run: Run) -> list[Path]:
    """The training data of a run, as paths that may not exist."""
    return named_paths(str(run.setting("data.train") or DIGITS))


def _wanted(runs: Sequence[Run], baseline: str | None) -> Run | None:
    """The run that ``--baseline`` names.

    Raises:
        UserError: If it is none of the runs, or has no final top-1.
    """
    if baseline is None:
        return None
    path = Path(baseline).resolve()
    found = [run for run in runs if baseline == run.name or path == run.path.resolve()]
    names = ", ".join(run.name for run in runs)
    if not found:
        raise UserError(f"--baseline {baseline} is none of the runs: {names}")
    if not found[0].finished or found[0].top1 is None:
        raise UserError(f"--baseline {baseline} has no final top-1; choose another of {names}")
    return found[0]


def _groups(runs: Sequence[Run], wanted: Run | None) -> tuple[Group, ...]:
    """The runs grouped by evaluation data and, where it is known, by its number of images.

    The data is that of a path or, where all runs noted one, of a fingerprint.
    """
    all_noted = all(run.fingerprints for run in runs)
    parts: dict[tuple[str | None, int | None], list[Run]] = {}
    for run in runs:
        data = run.fingerprints.get("data.evaluation") if all_noted else run.evaluation
        parts.setdefault((data, run.summary.get("eval_images")), []).append(run)
    for key in [key for key in parts if key[1] is None]:
        whole = next((other for other in parts if other[0] == key[0] and other[1]), None)
        if whole is not None and key[0] is not None:  # unfinished: the number is not known yet
            parts[whole] += parts.pop(key)
    groups = []
    for (_, images), members in parts.items():
        ordered = tuple(run for run in runs if run in members)
        groups.append(Group(ordered[0].evaluation, images, ordered, _baseline(ordered, wanted)))
    return tuple(groups)


def _baseline(runs: Sequence[Run], wanted: Run | None) -> Run | None:
    """The baseline of a group: the wanted run if it is in it, else the first that can be one."""
    if wanted is not None and wanted in runs:
        return wanted
    able = [run for run in runs if run.finished and run.top1 is not None]
    teachers = teachers_of(runs, runs)
    students = [run for run in able if run not in teachers]
    return next(iter([*students, *able]), None)

"""The record of a study: a JSON file with the results of its runs, which outlives their folders.

Each run has a line: its settings (paths replaced by what lies there), summary, curve, machine. The
study's arms and comparisons are in it too, so that a table needs no other file.
"""

import hashlib
import json
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from math import floor, isfinite, log10
from pathlib import Path
from statistics import fmean
from typing import Any

from dearkd.errors import UserError, WriteError, one_line
from dearkd.json_text import parsed
from dearkd.misfit import misfit
from dearkd.run_folder.files import replace_text
from dearkd.run_folder.folder import RunFolder
from dearkd.run_folder.lock import one_at_a_time
from dearkd.run_folder.provenance import machine
from dearkd.said import listed
from dearkd.shapes import RECORDED_RUN, STUDY

__all__ = [
    *("COPY", "Entry", "Key", "NoRecordError", "Record", "Study"),
    *("entry_of", "is_record", "key_of", "read_record"),
]

Entry = dict[str, Any]
"""A finished run: arm, fraction, seed, hash, settings, summary, curve, machine, perhaps test."""
Key = tuple[str, float | None, int]
"""Arm, fraction and seed of a run."""
DIGITS = 5
"""Significant digits of the numbers of a curve."""
NOT_OF_A_RUN = ("sessions", "teacher_labels", "files")
"""Parts of a summary that a record leaves out: they are of its folder, or repeat what it has."""
KEYS = {"study", "runs"}
"""What the file holds."""
COPY = "record.json"
"""Name of the copy that lies among the runs, for `dearkd report`."""


class NoRecordError(UserError):
    """A file of JSON that is something else than a record."""


@dataclass(frozen=True)
class Study:
    """What a record says of its study."""

    name: str
    arms: tuple[str, ...]
    seeds: tuple[int, ...]
    fractions: tuple[float | None, ...]
    """Shares of the training images; None stands for the base's own."""
    compare: dict[str, tuple[str, ...]]
    """For an arm, those that it is held against."""

    @property
    def keys(self) -> list[Key]:
        """Those of its runs, seed after seed."""
        return [(a, f, seed) for seed in self.seeds for f in self.fractions for a in self.arms]


@dataclass
class Record:
    """The results of a study, in the order of its fractions, arms and seeds."""

    path: Path
    study: Study
    entries: list[Entry] = field(default_factory=list)

    def find(self, arm: str, fraction: float | None, seed: int) -> Entry | None:
        """The entry of a run; None where it is not finished."""
        wanted = (arm, fraction, seed)
        return next((entry for entry in self.entries if key_of(entry) == wanted), None)

    def of_study(self) -> list[Entry]:
        """The entries of arms, fractions and seeds that the study has (now)."""
        study = self.study
        return [
            entry
            for fraction in study.fractions
            for arm in study.arms
            for seed in study.seeds
            if (entry := self.find(arm, fraction, seed)) is not None
        ]

    def save(self, *new: Entry) -> None:
        """Writes the file, with the ``new`` entries and with what other commands have put into it.

        Raises:
            UserError: If it has become another study's, or is damaged.
            WriteError: If it cannot be written.
        """
        with _told_as_ours(self.path), one_at_a_time(self.path):
            self.read_again()
            for entry in new:
                self._put(entry)
            self.write()

    def read_again(self) -> None:
        """Takes what other commands have put into the file since it was read.

        Raises:
            UserError: If it has become another study's, or is damaged.
        """
        if not self.path.exists():
            return
        stored = read_record(self.path)
        if stored.study.name != self.study.name:
            raise UserError(
                f"record {self.path} is of study {stored.study.name}, not {self.study.name}; name "
                "another file by --record"
            )
        for entry in stored.entries:
            self._put(entry)

    def write(self, path: Path | None = None) -> None:
        """Writes the file as a whole: one line a run, those of the study first and in its order.

        What other commands have put into it since it was read is lost: ``save`` keeps it.

        Raises:
            WriteError: If it cannot be written.
        """
        own = self.of_study()
        lines = [*own, *(entry for entry in self.entries if entry not in own)]
        runs = ",\n".join(json.dumps(entry) for entry in lines)
        text = f'{{"study": {json.dumps(vars(self.study))},\n"runs": [\n{runs}\n]}}\n'
        target = path or self.path
        with _told_as_ours(target):
            target.parent.mkdir(parents=True, exist_ok=True)
            replace_text(target, text)

    def _put(self, entry: Entry) -> None:
        """Puts an entry in the place of the run's earlier one, unless that alone has a test.

        Two commands may train one run, each in its folder; test images are read once.
        """
        earlier = self.find(*key_of(entry))
        if earlier is None or entry.get("test") or not earlier.get("test"):
            others = [other for other in self.entries if key_of(other) != key_of(entry)]
            self.entries = [*others, entry]


def read_record(path: Path) -> Record:
    """The record in a file.

    Raises:
        UserError: If it is damaged, no record or a folder.
        FileNotFoundError: If there is none.
    """
    try:
        content = parsed(path.read_text(encoding="utf-8"))
    except IsADirectoryError as error:
        raise UserError(f"record {path} is a folder; name a file by --record") from error
    except ValueError as error:
        raise UserError(
            f"record {path} is no JSON ({error}); restore it, or name another file by --record"
        ) from error
    if not _has_keys(content):
        raise NoRecordError(f"{path} is no record of dearkd sweep; name another file by --record")
    try:
        if (fault := misfit(content["study"], STUDY, "study")) is not None:
            raise TypeError(fault)
        study = _study(content["study"])
        known = dict[Key, int]()
        for number, entry in enumerate(content["runs"], start=1):
            _check_entry(entry, number)
            if (first := known.setdefault(key_of(entry), number)) != number:
                raise TypeError(f"runs {first} and {number} are one: their arm and seed are equal")
    except (AttributeError, KeyError, TypeError) as error:
        reason = f"no {error}" if isinstance(error, KeyError) else str(error)
        raise UserError(f"record {path} is damaged ({reason}); restore it or remove it") from error
    return Record(path, study, content["runs"])


def is_record(path: Path) -> bool:
    """Whether a file is a record, sound or damaged."""
    try:
        return _has_keys(parsed(path.read_text(encoding="utf-8")))
    except (OSError, ValueError):
        return False


def entry_of(folder: RunFolder, key: Key, settings: Entry) -> Entry:
    """The entry of a finished run; ``key`` is its arm, fraction and seed.

    Raises:
        UserError: If its summary or its metrics are damaged: the record would be, too.
    """
    try:
        entry = _read_entry(folder, key, settings)
        if (fault := _fault(entry)) is not None:
            raise ValueError(fault)
    except (AttributeError, TypeError, ValueError) as error:
        raise UserError(
            f"{folder.path} has a damaged summary.json or metrics.jsonl ({one_line(error)}); "
            "restore them, or remove that folder to train it again"
        ) from error
    return entry


def _read_entry(folder: RunFolder, key: Key, settings: Entry) -> Entry:
    summary = folder.read_summary()
    arm, fraction, seed = key
    return {
        "arm": arm,
        "fraction": fraction,
        "seed": seed,
        "hash": hashlib.sha256(json.dumps(settings, sort_keys=True).encode()).hexdigest()[:16],
        "settings": settings,
        "summary": {name: _named(v) for name, v in summary.items() if name not in NOT_OF_A_RUN},
        "machine": machine(),
        "curve": _columns(folder.read_metrics()),
    }


def key_of(entry: Mapping[str, Any]) -> Key:
    """The arm, fraction and seed of a run's entry."""
    return entry["arm"], entry["fraction"], entry["seed"]


@contextmanager
def _told_as_ours(target: Path) -> Iterator[None]:
    """The operating system's errors as one that names the record and the remedy."""
    try:
        yield
    except UserError:
        raise
    except OSError as error:
        raise WriteError(
            f"cannot write the record {target} ({error.strerror or error}); choose another --record"
        ) from error


def _has_keys(content: Any) -> bool:
    """Whether the content of a JSON file is that of a record."""
    return isinstance(content, dict) and content.keys() >= KEYS


def _study(stored: dict[str, Any]) -> Study:
    return Study(
        name=stored["name"],
        arms=tuple(stored["arms"]),
        seeds=tuple(stored["seeds"]),
        fractions=tuple(stored["fractions"]),
        compare={arm: tuple(others) for arm, others in stored["compare"].items()},
    )


def _check_entry(entry: Any, number: int) -> None:
    """Refuses a run that lacks a part, or whose parts are something else than they were."""
    if (fault := _fault(entry)) is not None:
        raise TypeError(f"run {number}: {fault}")


def _fault(entry: Any) -> str | None:
    """What an entry lacks, or has otherwise than a finished run; None where it is sound."""
    if (fault := misfit(entry, RECORDED_RUN)) is not None:
        return fault
    lengths = {len(values) for values in entry["curve"].values()}
    if len(lengths) > 1 or 0 in lengths:
        return f"its curves have {listed(sorted(map(str, lengths)))} epochs"
    return None


def _named(value: Any) -> Any:
    """A path from the root by its last name: where it lay says nothing elsewhere."""
    return Path(value).name if isinstance(value, str) and Path(value).is_absolute() else value


def _columns(lines: Iterable[Mapping[str, Any]]) -> dict[str, list[Any]]:
    """Each logged number over the epochs, None in an epoch without it; heads give their mean."""
    rows = list(lines)
    keys = dict.fromkeys(key for row in rows for key in row)
    return {key: [_short(row.get(key)) for row in rows] for key in keys}


def _short(value: Any) -> Any:
    """A number to ``DIGITS`` significant digits; a list by block, where blocks may have heads."""
    if isinstance(value, list):
        return [_short(fmean(part) if isinstance(part, list) else part) for part in value]
    if not isinstance(value, float) or value == 0 or not isfinite(value):
        return value
    return round(value, DIGITS - 1 - floor(log10(abs(value))))

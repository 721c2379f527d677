"""Configurations: runs that differ by their seed alone, and comparisons over the seeds."""

import json
import re
from collections.abc import Iterable
from dataclasses import dataclass
from statistics import fmean
from typing import Any

from dearkd.config import WITHOUT_EFFECT
from dearkd.config_file import flattened
from dearkd.report.contents import ARITHMETIC, Group, Run
from dearkd.report.seeds import Difference, Spread, paired_difference, spread
from dearkd.run_folder.moved import OPTIONS
from dearkd.said import number

__all__ = ["Configuration", "alike", "configurations", "over_seeds", "seed_cells", "seed_titles"]

SEED_ENDING = re.compile(r"[-_. ]*(seed|s)?[-_. ]*\d+$")


@dataclass(frozen=True)
class Configuration:
    """Finished runs of one group with a top-1 that differ by their seed alone."""

    name: str
    """The common part of its runs' names, else the method, else all their names."""
    runs: tuple[Run, ...]
    is_teacher: bool
    """Whether a run of it taught another run of the group."""

    @property
    def learned_by(self) -> str:
        """The label of its method."""
        return self.runs[0].learned_by

    @property
    def by_seed(self) -> dict[int, float]:
        """Top-1 in percent by seed; the mean for a seed that was run twice."""
        values: dict[int, list[float]] = {}
        for run in self.runs:
            assert run.top1 is not None
            values.setdefault(run.seed, []).append(run.top1)
        return {seed: fmean(found) for seed, found in values.items()}

    @property
    def top1(self) -> Spread:
        """Mean and spread of the top-1 in percent over the seeds."""
        return spread(list(self.by_seed.values()))

    def over(self, other: "Configuration") -> Difference | None:
        """Top-1 minus that of another configuration, in points, paired by seed.

        None if they have no seed in common.
        """
        return paired_difference(self.by_seed, other.by_seed)

    @property
    def note(self) -> str:
        """A sentence on runs of different precision or memory layout; empty if all are alike."""
        unlike = []
        for key in ARITHMETIC:
            values = [run.arithmetic.get(key, "not known") for run in self.runs]
            if len(set(values)) > 1:
                unlike.append(f"{key} ({', '.join(values)})")
        if not unlike:
            return ""
        names = ", ".join(run.name for run in self.runs)
        return (
            f"{names} differ beside their seed in {', '.join(unlike)}: their spread has that in it."
        )


def configurations(group: Group) -> list[Configuration]:
    """The group's finished runs that have a top-1; those that differ by their seed alone are one.

    Runs of different precision or memory layout count as one configuration too, because the machine
    may have chosen these; but not if one seed was run in two of them.
    """
    able = [run for run in group.runs if run.finished and run.top1 is not None]
    found: list[list[Run]] = []
    for runs in alike(able, (*WITHOUT_EFFECT, *ARITHMETIC)):
        is_study = len({run.seed for run in runs}) < len(runs)
        found += alike(runs, WITHOUT_EFFECT) if is_study else [runs]
    return [
        Configuration(_name(runs, found), tuple(runs), any(map(group.is_teacher, runs)))
        for runs in found
    ]


def alike(runs: Iterable[Run], ignored: tuple[str, ...]) -> list[list[Run]]:
    """The runs in groups of equal settings, ``ignored`` ones aside; a run without any is alone.

    Where all runs noted fingerprints of their images and teacher, these count and not the paths.
    """
    runs = list(runs)
    all_noted = all(run.fingerprints for run in runs)
    parts: dict[str, list[Run]] = {}
    for run in runs:
        settings = {
            key: value
            for key, value in _settings(run, all_noted).items()
            if key not in ignored and value is not None
        }
        key = json.dumps(settings, default=str, sort_keys=True) if settings else run.name
        parts.setdefault(key, []).append(run)
    return list(parts.values())


def _settings(run: Run, by_fingerprint: bool) -> dict[str, Any]:
    """Its settings by dotted name, maybe with fingerprints in place of paths."""
    flat = flattened(run.config)
    return flat | dict.fromkeys(OPTIONS) | run.fingerprints if by_fingerprint else flat


def over_seeds(group: Group) -> list[dict[str, Any]]:
    """A row for each configuration: top-1 over the seeds, and the difference to the baseline's.

    Empty if no configuration has several seeds.
    """
    found = configurations(group)
    if all(one.top1.seeds == 1 for one in found):
        return []
    base = next(one for one in found if group.baseline in one.runs)
    return [_row(one, base) for one in found]


def seed_titles(rows: list[dict[str, Any]]) -> list[str]:
    """The titles of a table of these rows."""
    against = next((f"against {row['against']}" for row in rows if row["against"]), "difference")
    titles = ["mean over seeds", "learned by", "mean top-1 %", against, "95 % interval"]
    return [*titles, "standard deviation", "seeds", "runs"]


def seed_cells(row: dict[str, Any]) -> list[str]:
    """The cells of a row as text, in the order of ``seed_titles``."""
    is_base = row["against"] is None
    interval = "" if row["low"] is None else f"{row['low']:+.2f} to {row['high']:+.2f}"
    return [
        row["name"],
        row["learned_by"],
        number(row["mean_top1"], ".2f"),
        "baseline" if is_base else number(row["difference"], "+.2f"),
        interval or row["verdict"] or "",
        number(row["standard_deviation"], ".2f"),
        str(row["seeds"]),
        ", ".join(row["runs"]),
    ]


def _row(one: Configuration, base: Configuration) -> dict[str, Any]:
    difference = None if one is base else one.over(base)
    low, high = (difference.interval if difference else None) or (None, None)
    verdict = "no seed in common" if difference is None else difference.verdict
    return {
        "name": one.name,
        "learned_by": one.learned_by,
        "seeds": one.top1.seeds,
        "mean_top1": one.top1.mean,
        "standard_deviation": one.top1.deviation,
        "against": None if one is base else base.name,
        "difference": difference and difference.mean,
        "low": low,
        "high": high,
        "verdict": None if one is base else verdict,
        "runs": [run.name for run in one.runs],
    }


def _name(runs: list[Run], found: list[list[Run]]) -> str:
    """A name for a configuration that tells it from the others in ``found``."""
    if all(len(each) == 1 for each in found):
        return runs[0].name
    others = [run for each in found if each is not runs for run in each]
    stems = {_stem(run) for run in runs}
    if len(stems) == 1 and not stems & {_stem(run) for run in others}:
        return runs[0].name if len(runs) == 1 else stems.pop()
    if runs[0].learned_by not in {run.learned_by for run in others}:
        return runs[0].learned_by
    return ", ".join(run.name for run in runs)


def _stem(run: Run) -> str:
    """The run's name without the seed at its end."""
    return SEED_ENDING.sub("", run.name) or run.name

"""Synthetic sets beside what students learned from them: which measure ranks the sets as they do?

A measure of images predicts a student if it puts the sets in the order of the students' top-1. The
top-1 is that of probe students (``dearkd eval SET --probe``) of one budget, or of runs of the
report that were trained on the sets and differ by the set, the seed and the epochs alone.
"""

import json
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from statistics import fmean
from typing import Any

from scipy.stats import spearmanr

from dearkd.config import WITHOUT_EFFECT
from dearkd.data.synthetic_set import named_paths
from dearkd.measures.cells import probe_name
from dearkd.report.configurations import alike
from dearkd.report.contents import ARITHMETIC, Report, Run, SyntheticSet
from dearkd.report.epoch_views import epoch_views
from dearkd.report.set_numbers import set_numbers
from dearkd.said import counted

__all__ = ["Ranking", "rank_correlation", "rankings"]

LEAST_SETS = 3
"""Sets that a rank correlation needs: of two it is 1 or -1, whatever the measure."""
OF_LENGTH = ("stage1", "stage2", "switch.epochs", "optim.warmup_epochs", "eval_every")
"""Settings by which runs of equal steps on sets of unequal size differ."""
SAME_STEPS = 1.05
"""Ratio of steps up to which two runs count as equally long: epochs are whole."""
SIZED = "frechet"
"""Part of the name of measures that depend on the number of images."""


@dataclass(frozen=True)
class Ranking:
    """Sets with their measures and one kind of student's top-1, the best first."""

    judged_by: str
    """What the top-1 is of."""
    sets: tuple[str, ...]
    top1: tuple[float, ...]
    """In percent."""
    measures: dict[str, tuple[float | None, ...]]
    """By name; None for a set that was not measured so."""

    @property
    def correlations(self) -> dict[str, float | None]:
        """Spearman's rank correlation of each measure with the top-1, over the sets that have it.

        None where they are fewer than three, or all alike.
        """
        found = {}
        for name, values in self.measures.items():
            pairs = [
                (value, top1)
                for value, top1 in zip(values, self.top1, strict=True)
                if value is not None
            ]
            found[name] = _correlation(pairs)
        return found

    @property
    def titles(self) -> list[str]:
        """The titles of a table with a row for each set."""
        return ["set", *self.measures, "top-1 %"]

    @property
    def rows(self) -> list[list[str]]:
        """Its rows; the last has the rank correlations."""
        known = self.correlations
        rows = [
            [name, *(_cell(values[place]) for values in self.measures.values()), f"{top1:.2f}"]
            for place, (name, top1) in enumerate(zip(self.sets, self.top1, strict=True))
        ]
        last = [
            "-" if (found := known[name]) is None else f"{found:+.2f}{self._of(name)}"
            for name in self.measures
        ]
        return [*rows, ["rank correlation with top-1", *last, ""]]

    @property
    def note(self) -> str:
        """How to read the correlations, in sentences."""
        count = len(self.sets)
        told = f"Top-1: {self.judged_by}. "
        if count < LEAST_SETS:
            return f"{told}A rank correlation needs {LEAST_SETS} sets, and {count} are here."
        chance = (count - 1) ** -0.5
        told += (
            f"Spearman's rank correlation over {counted(count, 'set')}: 1, the measure ranks them "
            f"as the students do; -1, the other way round; by chance 0 \u00b1 {chance:.2f}."
        )
        images = self.measures["images"]
        if len(set(images)) > 1 and any(SIZED in name for name in self.measures):
            told += " The Frechet distance depends on the number of images, which differs here."
        return told

    def as_dict(self) -> dict[str, Any]:
        """All of it as plain values, for JSON."""
        return {
            "judged_by": self.judged_by,
            "sets": list(self.sets),
            "top1": list(self.top1),
            "measures": {name: list(values) for name, values in self.measures.items()},
            "rank_correlations": self.correlations,
        }

    def _of(self, name: str) -> str:
        """How many sets a correlation is over, where these are not all."""
        known = sum(value is not None for value in self.measures[name])
        return "" if known == len(self.sets) else f" ({known} sets)"


def rankings(report: Report) -> list[Ranking]:
    """A ranking for each kind of student that learned from two or more of the report's sets.

    Probe students are of one kind if they had the same budget, teacher and real images.
    """
    finished = [item for item in report.sets if item.manifest]
    judged = [*_probed(finished), *_trained_on(finished, report)]
    return [_ranking(name, found) for name, found in judged if len(found) > 1]


def rank_correlation(first: Sequence[float], second: Sequence[float]) -> float | None:
    """Spearman's rank correlation of paired values, in [-1, 1]; equal values share their mean rank.

    None where the pairs are fewer than three, or one side's values are all equal.

    Source:
        Spearman 1904, https://doi.org/10.2307/1412159: the correlation coefficient of the ranks.
    """
    if len(first) < LEAST_SETS or min(len(set(first)), len(set(second))) == 1:
        return None
    return float(spearmanr(first, second).statistic)


def _correlation(pairs: Sequence[tuple[float, float]]) -> float | None:
    return rank_correlation([one for one, _ in pairs], [other for _, other in pairs])


def _ranking(name: str, found: Sequence[tuple[SyntheticSet, float]]) -> Ranking:
    ordered = sorted(found, key=lambda pair: -pair[1])
    by_set = [set_numbers(item) for item, _ in ordered]
    names = dict.fromkeys(key for numbers in by_set for key in numbers)
    return Ranking(
        judged_by=name,
        sets=tuple(item.name for item, _ in ordered),
        top1=tuple(top1 for _, top1 in ordered),
        measures={
            key: tuple(numbers.get(key) for numbers in by_set) for key in names if key != name
        },
    )


def _probed(sets: Iterable[SyntheticSet]) -> list[tuple[str, list[tuple[SyntheticSet, float]]]]:
    """The sets whose probe students may be compared, with their top-1, by what these are called."""
    parts: dict[str, tuple[str, list[tuple[SyntheticSet, float]]]] = {}
    for item in sets:
        if (name := probe_name(item.diversity)) is None:
            continue
        probe = item.diversity["probe"]
        facts = [probe.get(key) for key in ("budget", "teacher", "against", "eval_images")]
        key = json.dumps(facts, sort_keys=True)
        parts.setdefault(key, (name, []))[1].append((item, float(item.diversity["probe_top1"])))
    return list(parts.values())


def _trained_on(
    sets: Sequence[SyntheticSet], report: Report
) -> list[tuple[str, list[tuple[SyntheticSet, float]]]]:
    """The sets that runs of one kind were trained on, with the mean top-1 of these."""
    found = []
    ignored = (*WITHOUT_EFFECT, *ARITHMETIC, *OF_LENGTH, "data.train")
    for group in report.groups:
        runs = [run for run in group.students if any(map(_of(run), sets))]
        for kind in alike(runs, ignored):
            for same in _of_one_length(kind):
                by_set = [(item, [r.top1 for r in same if _of(r)(item)]) for item in sets]
                means = [
                    (item, fmean(value for value in values if value is not None))
                    for item, values in by_set
                    if values
                ]
                found.append((_called(same), means))
    return found


def _of(run: Run) -> Callable[[SyntheticSet], bool]:
    """Whether a set is the only one that the run was trained on."""
    named = named_paths(str(run.setting("data.train")))
    return lambda item: len(named) == 1 and item.is_at(str(named[0]))


def _of_one_length(runs: Sequence[Run]) -> list[list[Run]]:
    """The runs in groups of about equal steps."""
    groups: list[list[Run]] = []
    for run in sorted(runs, key=_steps):
        if groups and _steps(run) <= SAME_STEPS * _steps(groups[-1][0]):
            groups[-1].append(run)
        else:
            groups.append([run])
    return groups


def _steps(run: Run) -> int:
    """Optimizer steps of a finished run, as far as its files tell them."""
    return sum(epoch_views(run)) // (run.setting("data.batch_size") or 1)


def _called(runs: Sequence[Run]) -> str:
    """What the top-1 of these runs is of."""
    steps = sorted({_steps(run) for run in runs})
    length = f"{steps[0]:,}" if len(steps) == 1 else f"{steps[0]:,} to {steps[-1]:,}"
    student = runs[0].setting("student") or "not known"
    return f"{student} ({runs[0].learned_by}), {length} steps, {counted(len(runs), 'run')}"


def _cell(value: float | None) -> str:
    if value is None:
        return ""
    return f"{value:,.0f}" if value.is_integer() and value >= 1000 else f"{value:.4g}"

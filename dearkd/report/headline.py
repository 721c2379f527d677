"""The headline of a report: what was run and what came out, in sentences."""

from collections.abc import Sequence

from dearkd.report.configurations import Configuration, configurations
from dearkd.report.contents import VALIDATION, Group, Report, SyntheticSet
from dearkd.report.rows import set_row
from dearkd.report.study_tables import study_sentence
from dearkd.said import counted, data_name, listed

__all__ = ["group_name", "headline", "image_kind"]

SHOWN = 3
"""Most configurations that the best one is compared with, and runs that a sentence names."""


def headline(report: Report) -> list[str]:
    """A sentence for each study, each group of runs and each synthetic set."""
    lines = [study_sentence(record) for record in report.studies]
    lines += [_group_sentence(group) for group in report.groups]
    lines += [_set_sentence(synthetic) for synthetic in report.sets]
    return [*lines, *_apart(report.groups)]


def group_name(group: Group) -> str:
    """The name of the evaluation data and, where it is known, the number of its images."""
    name = data_name(group.evaluation)
    if group.images is None:
        return name
    what = image_kind(group).removeprefix("validation ")  # which the name says
    return f"{name}, {counted(group.images, what)}"


def image_kind(group: Group) -> str:
    """What an evaluation image of the group is: ``validation image`` or ``test image``."""
    of_validation = (group.evaluation or "").endswith(VALIDATION)
    return "validation image" if of_validation else "test image"


def _apart(groups: Sequence[Group]) -> list[str]:
    """Why the runs of a report are not all compared."""
    if len(groups) < 2:
        return []
    within = "numbers are compared only within a table."
    lost = [run.name for group in groups if group.evaluation is None for run in group.runs]
    which = listed(lost) if len(lost) <= SHOWN else counted(len(lost), "run")
    were = "was" if len(lost) == 1 else "were"
    lines = [f"On which data {which} {were} judged is not known: {within}"] if lost else []
    if sum(group.evaluation is not None for group in groups) > 1:
        lines.append(
            f"{'Others' if lost else 'These runs'} were judged on different data: {within}"
        )
    return lines


def _group_sentence(group: Group) -> str:
    """The best configuration of a group and how far it is above the others."""
    count = f"{counted(len(group.runs), 'run')} on {group_name(group)}"
    found = configurations(group)
    if not found:
        return f"{count}: none has a final top-1 yet."
    students = [one for one in found if not one.is_teacher] or found
    best, *others = sorted(students, key=lambda one: -one.top1.mean)
    mean = f", mean of {counted(best.top1.seeds, 'seed')}" if best.top1.seeds > 1 else ""
    text = f"{count}. {best.name} ({best.learned_by}) reaches {best.top1.mean:.2f} % top-1{mean}"
    text += f", {_comparison(best, others[:SHOWN])}." if others else "."
    teachers = [f"{one.name} ({one.top1.mean:.2f} %)" for one in found if one not in students]
    if teachers:
        return f"{text} Taught by {listed(teachers)}."
    read = [run.summary.get("teacher_top1") for run in best.runs]  # of one that is no run here
    known = next((top1 for top1 in read if top1 is not None), None)
    return text if known is None else f"{text} Its teacher has {known:.2f} %."


def _comparison(best: Configuration, others: Sequence[Configuration]) -> str:
    """How far the best is above the others, in points, and whether the seeds decide it."""
    if all(one.top1.seeds == 1 for one in (best, *others)):
        gaps = listed([_gap(best.top1.mean - other.top1.mean, other) for other in others])
        return f"{_with_unit(gaps)} (one seed each: differences are not decided)"
    gaps = listed([_decided_gap(best, other) for other in others])
    decided = any(difference and difference.interval for difference in map(best.over, others))
    how = ". Intervals are Student's, of differences paired by seed" if decided else ""
    return _with_unit(gaps) + how


def _decided_gap(best: Configuration, other: Configuration) -> str:
    """How far the best is above another one, with the interval or the reason why there is none."""
    difference = best.over(other)
    if difference is None:
        gap = _gap(best.top1.mean - other.top1.mean, other)
        return f"{gap} (no seed in common)"
    gap = _gap(difference.mean, other)
    if difference.interval is None:
        return f"{gap} ({difference.verdict})"
    low, high = difference.interval
    return f"{gap} (95 % interval {low:+.2f} to {high:+.2f}: {difference.verdict})"


def _gap(points: float, other: Configuration) -> str:
    return f"{abs(points):.2f} {'above' if points >= 0 else 'below'} {other.name}"


def _with_unit(gaps: str) -> str:
    """The first number with its unit: ``5.28 points above x and 6.78 above y``."""
    number, rest = gaps.split(" ", 1)
    return f"{number} points {rest}"


def _set_sentence(synthetic: SyntheticSet) -> str:
    row = set_row(synthetic)
    if not row["images"]:
        return f"{synthetic.name}: a synthetic set without a manifest of its images."
    images = counted(row["images"], "synthetic image")
    classes = counted(row["classes"], "class", "classes")
    text = f"{synthetic.name}: {images} of {classes}, made from {data_name(row['teacher'])} alone"
    teacher, verifier = row["teacher_recognition"], row["verifier_recognition"]
    if teacher is not None:
        text += f"; it recognises {100 * teacher:.1f} % of them"
    if teacher is not None and verifier is not None:
        text += f", the verifier {data_name(row['verifier'])} {100 * verifier:.1f} %"
    return text + "."

"""A report in words."""

from collections.abc import Sequence

from dearkd.report.contents import Group, Report, Run, SyntheticSet
from dearkd.report.rows import set_row
from dearkd.said import data_name

__all__ = ["group_name", "headline"]


def headline(report: Report) -> list[str]:
    """What was run and what came out, in a few plain sentences."""
    lines = [_group_sentence(group) for group in report.groups]
    lines += [_set_sentence(synthetic) for synthetic in report.sets]
    if len(report.groups) > 1:
        lines.append(
            "These runs were judged on different data: numbers are compared only within a table."
        )
    return lines


def group_name(group: Group) -> str:
    """The evaluation data and how many images it has."""
    name = data_name(group.evaluation)
    return name if group.images is None else f"{name}, {group.images:,} test images"


def _group_sentence(group: Group) -> str:
    able = [run for run in group.runs if run.finished and run.top1 is not None]
    plural = "" if len(group.runs) == 1 else "s"
    count = f"{len(group.runs)} run{plural} on {group_name(group)}"
    if not able:
        return f"{count}: none has a final top-1 yet."
    best = max(group.students, key=lambda run: run.top1 or 0.0)
    others = [run for run in group.students if run is not best]
    text = f"{count}. {best.name} ({best.learned_by}) reaches {best.top1:.2f} % top-1"
    if others:
        text += f", {_gaps(best, others)}"
    teachers = [f"{run.name} ({run.top1:.2f} %)" for run in able if run not in group.students]
    return f"{text}.{' Taught by ' + ' and '.join(teachers) + '.' if teachers else ''}"


def _gaps(best: Run, others: Sequence[Run]) -> str:
    """How far the best is above the three next: ``5.28 points above x and 6.78 above y``."""
    ranked = sorted(others, key=lambda run: -(run.top1 or 0.0))[:3]
    gaps = [f"{(best.top1 or 0) - (run.top1 or 0):.2f} above {run.name}" for run in ranked]
    gaps[0] = gaps[0].replace(" above", " points above")
    return gaps[0] if len(gaps) == 1 else f"{', '.join(gaps[:-1])} and {gaps[-1]}"


def _set_sentence(synthetic: SyntheticSet) -> str:
    row = set_row(synthetic)
    if not row["images"]:
        return f"{synthetic.name}: a synthetic set without a manifest of its images."
    text = (
        f"{synthetic.name}: {row['images']:,} synthetic images of {row['classes']} classes, made "
        f"from {data_name(row['teacher'])} alone; it recognises "
        f"{100 * row['teacher_recognition']:.1f} % of them"
    )
    if row["verifier"]:
        share = 100 * row["verifier_recognition"]
        text += f", the verifier {data_name(row['verifier'])} {share:.1f} %"
    return text + "."

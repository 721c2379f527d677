"""The tables of a study, from its record alone: means over seeds, and paired differences."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from dearkd.report.seeds import Difference, Spread, paired_difference, spread
from dearkd.run_folder.record import Entry, Record
from dearkd.said import counted, listed, number

__all__ = ["StudyTable", "by_seed", "measures", "study_markdown", "study_tables", "verdict"]

TEST = "test"


@dataclass(frozen=True)
class StudyTable:
    """A table as text."""

    titles: Sequence[str]
    rows: Sequence[Sequence[str]]


def by_seed(
    record: Record, arm: str, fraction: float | None, measure: str = "top1"
) -> dict[int, float]:
    """Top-1 in percent of an arm by seed: final weights on the run's evaluation images, or test."""
    found = (record.find(arm, fraction, seed) for seed in record.study.seeds)
    values = {entry["seed"]: _value(entry, measure) for entry in found if entry is not None}
    return {seed: value for seed, value in values.items() if value is not None}


def measures(record: Record) -> tuple[str, ...]:
    """``top1``, and ``test`` once every run has read the test images."""
    entries = record.of_study()
    all_read = bool(entries) and all(entry.get(TEST) for entry in entries)
    return ("top1", TEST) if all_read and missing(record) == 0 else ("top1",)


def missing(record: Record) -> int:
    """Runs of the study that the record lacks."""
    study = record.study
    wanted = len(study.arms) * len(study.seeds) * len(study.fractions)
    return wanted - len(record.of_study())


def study_tables(record: Record) -> list[StudyTable]:
    """The table of arms, then for each measure that of the differences, where there are any."""
    found = [_arms(record)]
    for measure in measures(record):
        table = _differences(record, measure)
        if table.rows:
            found.append(table)
    return found


def study_markdown(record: Record) -> str:
    """The tables and what they mean, as RESULTS.md has them."""
    parts = [_markdown(table) for table in study_tables(record)]
    return "\n\n".join([*parts, *notes(record)]) + "\n"


def notes(record: Record) -> list[str]:
    """What the numbers are means of, and what made them."""
    entries = record.of_study()
    if not entries:
        return ["No run is finished yet."]
    lacking = missing(record)
    count = (
        f"{len(entries)} of {len(entries) + lacking} runs" if lacking else f"{len(entries)} runs"
    )
    told = (
        f"{count}. Mean \u00b1 standard deviation over seeds; differences are paired by seed, with "
        "Student's 95 % interval; decided: it leaves out 0."
    )
    return [told, _origin(entries)]


def verdict(difference: Difference | None) -> str:
    """``decided``, ``undecided``, ``one seed``, or why there is nothing to decide."""
    if difference is None:
        return "no seed in common"
    if difference.interval is None:
        return "one seed" if difference.seeds == 1 else "undecided (equal differences)"
    low, high = difference.interval
    return "undecided" if low <= 0 <= high else "decided"


def _value(entry: Entry, measure: str) -> float | None:
    if measure == "top1":
        return entry["summary"]["top1"]
    return entry[TEST]["top1"] if entry.get(TEST) else None


def _arms(record: Record) -> StudyTable:
    study, kinds = record.study, measures(record)
    titles = ["arm", "training images", *(_title(record, kind) for kind in kinds), "seeds"]
    rows = []
    for fraction in study.fractions:
        for arm in study.arms:
            spreads = [_spread(by_seed(record, arm, fraction, kind)) for kind in kinds]
            first = spreads[0]
            if first is None:
                rows.append([arm, "", *("" for _ in kinds), "0"])
                continue
            images = _of_arm(record, arm, fraction)[0]["summary"]["train_images"]
            rows.append([arm, f"{images:,}", *map(_mean_text, spreads), str(first.seeds)])
    return StudyTable(titles, rows)


def _differences(record: Record, measure: str) -> StudyTable:
    study = record.study
    titles = [f"difference of {_title(record, measure)}", "points", "95 % interval", ""]
    rows = []
    for fraction in study.fractions:
        for arm, others in study.compare.items():
            for other in others:
                values = [by_seed(record, name, fraction, measure) for name in (arm, other)]
                if all(values):
                    share = "" if fraction is None else f" ({100 * fraction:g} %)"
                    difference = paired_difference(*values)
                    rows.append([f"{arm} over {other}{share}", *_cells(difference)])
    return StudyTable(titles, rows)


def _cells(difference: Difference | None) -> list[str]:
    interval = None if difference is None else difference.interval
    shown = "" if interval is None else f"{interval[0]:+.2f} to {interval[1]:+.2f}"
    return [number(difference and difference.mean, "+.2f"), shown, verdict(difference)]


def _title(record: Record, measure: str) -> str:
    """The name of a measure with its number of images."""
    entry: Entry = next(iter(record.of_study()), {})
    if measure == TEST:
        return f"top-1 % on {entry[TEST]['images']:,} test images"
    if not entry:
        return "top-1 %"
    kind = "validation" if entry["settings"].get("data.validation") else "evaluation"
    return f"top-1 % on {entry['summary']['eval_images']:,} {kind} images"


def _spread(values: dict[int, float]) -> Spread | None:
    return spread(list(values.values())) if values else None


def _mean_text(one: Spread | None) -> str:
    if one is None:
        return ""
    return f"{one.mean:.2f}" + ("" if one.deviation is None else f" \u00b1 {one.deviation:.2f}")


def _of_arm(record: Record, arm: str, fraction: float | None) -> list[Entry]:
    found = (record.find(arm, fraction, seed) for seed in record.study.seeds)
    return [entry for entry in found if entry is not None]


def _origin(entries: Sequence[Entry]) -> str:
    """Length, batch, arithmetic, commits and machines of the runs."""
    settings = [entry["settings"] for entry in entries]
    lengths = _all_of(f"{counted(s['epochs'], 'epoch')} of {s['steps']} steps" for s in settings)
    batch = _all_of(str(s["data.batch_size"]) for s in settings)
    precision = _all_of(s["precision"] for s in settings)
    threads = _all_of(counted(e["summary"]["threads"], "thread") for e in entries)
    device = _all_of(_device(entry) for entry in entries)
    commits = _all_of(str(entry["summary"]["commit"]) for entry in entries)
    return (
        f"{lengths}, {batch} views a step; student in {precision}, {threads} a run, on {device}; "
        f"commit {commits}."
    )


def _device(entry: Entry) -> str:
    device: str = entry["summary"]["device"]
    return entry["machine"]["cpu"] if device == "cpu" else device


def _all_of(words: Any) -> str:
    return listed(list(dict.fromkeys(words)))


def _markdown(table: StudyTable) -> str:
    lines = [table.titles, ["---"] * len(table.titles), *table.rows]
    return "\n".join(
        "| " + " | ".join(cell.replace("|", "\\|") for cell in row) + " |" for row in lines
    )

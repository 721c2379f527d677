"""The tables of a study, from its record alone: means over seeds, and paired differences."""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Any

from dearkd.report.seeds import Difference, Spread, paired_difference, spread
from dearkd.run_folder.record import Entry, Record, read_record
from dearkd.said import counted, listed, markdown_table, number

__all__ = [
    "StudyTable",
    "by_seed",
    "filled_blocks",
    "notes",
    "study_markdown",
    "study_rows",
    "study_sentence",
    "study_tables",
]

TEST = "test"
BLOCK = re.compile("(<!-- sweep (\\S+) -->\n).*?(<!-- end -->)", re.DOTALL)
"""A table in a Markdown file, with the record that it comes from."""


@dataclass(frozen=True)
class StudyTable:
    """A table as text."""

    titles: Sequence[str]
    rows: Sequence[Sequence[str]]


def by_seed(
    record: Record, arm: str, fraction: float | None, measure: str = "top1"
) -> dict[int, float]:
    """Top-1 in percent of an arm by seed: final weights on the run's evaluation images, or test.

    Empty for the test images until every finished run of the arm has read them. A run whose
    summary has no top-1 is left out.
    """
    entries = _of_arm(record, arm, fraction)
    values = {entry["seed"]: _value(entry, measure) for entry in entries}
    if measure == TEST and None in values.values():
        return {}
    return {seed: value for seed, value in values.items() if value is not None}


def _measures(record: Record) -> tuple[str, ...]:
    """``top1``, and ``test`` once the runs of an arm have read the test images."""
    study = record.study
    arms = [(arm, fraction) for fraction in study.fractions for arm in study.arms]
    return ("top1", TEST) if any(by_seed(record, *arm, TEST) for arm in arms) else ("top1",)


def _missing(record: Record) -> int:
    """Runs of the study that the record lacks."""
    study = record.study
    wanted = len(study.arms) * len(study.seeds) * len(study.fractions)
    return wanted - len(record.of_study())


def study_tables(record: Record) -> list[StudyTable]:
    """The table of arms, then for each measure that of the differences, where there are any."""
    found = [_arms(record)]
    for measure in _measures(record):
        table = _differences(record, measure)
        if table.rows:
            found.append(table)
    return found


def study_markdown(record: Record) -> str:
    """The tables and what they mean, as RESULTS.md has them."""
    parts = [markdown_table(table.titles, table.rows) for table in study_tables(record)]
    return "\n\n".join([*parts, *notes(record)]) + "\n"


def filled_blocks(text: str, root: Path) -> str:
    """Markdown with the tables between its marks made anew from the records that these name.

    A table stands between ``<!-- sweep FILE -->`` and ``<!-- end -->``; FILE is seen from ``root``.

    Raises:
        FileNotFoundError: If a record does not exist.
    """

    def table(found: re.Match[str]) -> str:
        return found[1] + study_markdown(read_record(root / found[2])) + found[3]

    return BLOCK.sub(table, text)


def study_rows(record: Record) -> list[dict[str, Any]]:
    """A flat row of numbers and words for each finished run of a study."""
    return [
        {
            "study": record.study.name,
            **{key: entry[key] for key in ("arm", "fraction", "seed", "hash")},
            **{key: value for key, value in entry["summary"].items() if not _is_nested(value)},
            "test_top1": (entry.get(TEST) or {}).get("top1"),
        }
        for entry in record.of_study()
    ]


def study_sentence(record: Record) -> str:
    """How many runs of a study are finished, and which of its differences are decided."""
    study, entries = record.study, record.of_study()
    count = f"Study {study.name}: {len(entries)} of {len(entries) + _missing(record)} runs finished"
    all_read = _missing(record) == 0 and all(entry.get(TEST) for entry in entries)
    rows = _differences(record, TEST if all_read else "top1").rows
    decided = [f"{row[0]} ({row[1]} points)" for row in rows if row[-1] == "decided"]
    return f"{count}; decided: {listed(decided)}." if decided else f"{count}; nothing decided yet."


def notes(record: Record) -> list[str]:
    """What the numbers are means of, and what made them."""
    entries = record.of_study()
    if not entries:
        return ["No run is finished yet."]
    lacking = _missing(record)
    count = (
        f"{len(entries)} of {len(entries) + lacking} runs" if lacking else f"{len(entries)} runs"
    )
    told = (
        f"{count}. Mean \u00b1 standard deviation over seeds; differences are paired by seed, with "
        "Student's 95 % interval; decided: it leaves out 0."
    )
    waiting = list(dict.fromkeys(arm for arm in record.study.arms if not _begun(record, arm)))
    lacks = [f"No run yet: {'; '.join(waiting)}."] if waiting else []
    return [told, _origin(entries), *lacks]


def _begun(record: Record, arm: str) -> bool:
    """Whether any run of an arm is finished."""
    return any(entry["arm"] == arm for entry in record.of_study())


def _value(entry: Entry, measure: str) -> float | None:
    if measure == "top1":
        return entry["summary"]["top1"]
    return entry[TEST]["top1"] if entry.get(TEST) else None


def _arms(record: Record) -> StudyTable:
    study, kinds = record.study, _measures(record)
    titles = ["arm", "training images", *(_title(record, kind) for kind in kinds), "seeds"]
    titles.append("views/s")
    rows = []
    for fraction in study.fractions:
        for arm in study.arms:
            entries = _of_arm(record, arm, fraction)
            if not entries:
                continue
            spreads = [_spread(by_seed(record, arm, fraction, kind)) for kind in kinds]
            seeds = 0 if spreads[0] is None else spreads[0].seeds
            images = f"{entries[0]['summary']['train_images']:,}"
            speed = f"{median(_speeds(entries)):.0f}"
            rows.append([arm, images, *map(_mean_text, spreads), str(seeds), speed])
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
    verdict = "no seed in common" if difference is None else difference.verdict
    return [number(difference and difference.mean, "+.2f"), shown, verdict]


def _title(record: Record, measure: str) -> str:
    """The name of a measure with its number of images."""
    entries = record.of_study()
    if not entries:
        return "top-1 %"
    if measure == TEST:
        images = next(entry[TEST]["images"] for entry in entries if entry.get(TEST))
        return f"top-1 % on {images:,} test images"
    kind = "validation" if entries[0]["settings"].get("data.validation") else "evaluation"
    known = (images for entry in entries if (images := entry["summary"]["eval_images"]))
    count = next(known, None)
    return f"top-1 % on {f'{kind} images' if count is None else counted(count, f'{kind} image')}"


def _spread(values: dict[int, float]) -> Spread | None:
    return spread(list(values.values())) if values else None


def _mean_text(one: Spread | None) -> str:
    if one is None:
        return ""
    return f"{one.mean:.2f}" + ("" if one.deviation is None else f" \u00b1 {one.deviation:.2f}")


def _of_arm(record: Record, arm: str, fraction: float | None) -> list[Entry]:
    found = (record.find(arm, fraction, seed) for seed in record.study.seeds)
    return [entry for entry in found if entry is not None]


def _speeds(entries: Sequence[Entry]) -> list[float]:
    """Views a second in training, of every epoch."""
    return [rate for entry in entries for rate in entry["curve"]["images_per_second"]]


def _is_nested(value: Any) -> bool:
    return isinstance(value, dict | list)


def _origin(entries: Sequence[Entry]) -> str:
    """Length, batch, arithmetic, commits and machines of the runs."""
    settings = [entry["settings"] for entry in entries]
    lengths = _all_of(f"{counted(s['epochs'], 'epoch')} of {s['steps']} steps" for s in settings)
    batch = _all_of(str(s["data.batch_size"]) for s in settings)
    precision = _all_of(map(_precision, entries))
    threads = _all_of(counted(e["summary"]["threads"], "thread") for e in entries)
    device = _all_of(_device(entry) for entry in entries)
    commits = _all_of(entry["summary"]["commit"] or "not known" for entry in entries)
    return (
        f"{lengths}, {batch} views a step; student in {precision}, {threads} a run, on {device}; "
        f"commit {commits}."
    )


def _precision(entry: Entry) -> str:
    precision: str = entry["settings"]["precision"]
    compiled = entry["summary"].get("compile", entry["settings"].get("compile"))  # once a setting
    return f"{precision} (compiled)" if compiled else precision


def _device(entry: Entry) -> str:
    device: str = entry["summary"]["device"]
    return entry["machine"]["cpu"] if device == "cpu" else device


def _all_of(words: Any) -> str:
    return listed(list(dict.fromkeys(words)))

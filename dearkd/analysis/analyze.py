"""``dearkd analyze``: a table, pictures and a page about the attention of a trained transformer."""

import json
from collections.abc import Iterable, Mapping, Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console
from rich.progress import track
from rich.table import Table

from dearkd.analysis.analysis_page import analysis_page
from dearkd.analysis.attention_maps import attention_sheet, position_sheet
from dearkd.analysis.findings import Analysis, analysis_of
from dearkd.analysis.heads import HEAD_TITLES, head_rows
from dearkd.analysis.remarks import remarks
from dearkd.data.loaders import Batch, Loader
from dearkd.errors import MissingFileError, UserError
from dearkd.owner import owner_of
from dearkd.pages.plots import stage_switches
from dearkd.run_folder.epochs import sound_epochs
from dearkd.run_folder.files import write_atomically
from dearkd.run_folder.folder import RunFolder
from dearkd.run_folder.output import make_room, write_text
from dearkd.said import counted
from dearkd.trained.resolve import resolve

__all__ = ["analyze"]

PAGE = "analysis.html"


def analyze(
    run: Path,
    *,
    console: Console,
    data: str | None = None,
    which: str = "final",
    images: int | None = None,
    maps: int = 4,
    out: Path | None = None,
    trust: bool = False,
    as_json: bool = False,
) -> None:
    """Analyses a run's transformer, prints the result and writes it to ``out``, by default the run.

    It writes ``analysis.json``, ``analysis.html``, ``attention_maps.png`` and, for a student with
    MHCA, ``position_heads.png``.

    Raises:
        ValueError: If the folder holds no run, an unfinished one, or a network whose attention
            can't be read; or if ``out`` is the folder of something else.
        FileNotFoundError: If a path does not exist.
        OSError: If ``out`` cannot be written to.
    """
    if not run.is_dir():
        raise MissingFileError(f"{run} is no folder; pass that of a run of dearkd train")
    target = run if out is None else out
    _check_target(target, run)
    make_room(target / PAGE)
    found = resolve(str(run), "run", which=which, trust=trust)
    metrics, odd = sound_epochs(RunFolder(run))

    def watched(batches: Loader) -> Iterable[Batch]:
        if not console.is_terminal or as_json:
            return batches
        return track(batches, "answers", total=len(batches), console=console)

    analysis = analysis_of(
        found, data, which=which, trust=trust, images=images, maps=maps, watch=watched
    )
    by_topic = remarks(analysis.record, metrics)
    sentences = [sentence for topic in by_topic.values() for sentence in topic]
    analysis.record["remarks"] = sentences
    _write(analysis, metrics, by_topic, target)
    if as_json:
        console.print_json(json.dumps(analysis.record))
        return
    if odd:
        console.print(f"note: {odd}")
    console.print(_block_table(analysis.record, metrics))
    console.print(_head_table(analysis.record))
    for sentence in sentences:
        console.print(f"- {sentence}", markup=False)
    console.print(f"written: {target / PAGE}")


def _check_target(target: Path, run: Path) -> None:
    """Refuses the folder of another run, of a set or a study: the report takes what lies there.

    Raises:
        UserError: Naming what it is the folder of.
    """
    owner = owner_of(target)
    if owner is not None and target.resolve() != run.resolve():
        raise UserError(
            f"--out {target} is the folder of a {owner} that is not analysed; choose another --out"
        )


def _write(
    analysis: Analysis,
    metrics: Sequence[Mapping[str, Any]],
    by_topic: Mapping[str, list[str]],
    target: Path,
) -> None:
    """Writes record, pictures and page into the folder ``target``."""
    record = analysis.record
    pictures = {}
    if analysis.maps:
        pictures["attention_maps.png"] = attention_sheet(analysis.maps)
    if record["position"]:
        pictures["position_heads.png"] = position_sheet(record["position"], record["grid"])
    for name, picture in pictures.items():
        write_atomically(target / name, lambda file, one=picture: one.save(file, "PNG"))  # type: ignore[misc]
    write_text(target / "analysis.json", json.dumps(record, indent=1) + "\n")
    write_text(target / PAGE, analysis_page(analysis, metrics, stage_switches(metrics), by_topic))


def _block_table(record: Mapping[str, Any], metrics: Sequence[Mapping[str, Any]]) -> Table:
    """A row for each block: attention distance (final and logged), token cosine, MHCA width."""
    title = (
        f"{record['run']}: attention on {counted(record['images'], 'image')}, distances in "
        f"patches of a {record['grid'][0]} x {record['grid'][1]} grid"
    )
    logged = _milestones(metrics)
    table = Table("block", "distance", "heads from-to", *logged, title=title)
    if record["token_cosine"]:
        table.add_column("token cosine")
    if record["position"]:
        table.add_column("median sigma (width)")
    for block, heads in enumerate(record["attention_distance"]):
        row = [str(block + 1), f"{np.mean(heads):.2f}", f"{min(heads):.2f}-{max(heads):.2f}"]
        row += [f"{np.mean(line['attention_distance'][block]):.2f}" for line in logged.values()]
        if record["token_cosine"]:
            row.append(f"{record['token_cosine'][block + 1]:.3f}")
        if block < len(record["position"]):
            widths = [width for width in record["position"][block]["sigma"] if width is not None]
            row.append(f"{np.median(widths):.2f}" if widths else "none")
        table.add_row(*row)
    return table


def _milestones(metrics: Sequence[Mapping[str, Any]]) -> dict[str, Mapping[str, Any]]:
    """The first logged epoch and the last of each stage but the final one, by column title."""
    lines = [line for line in metrics if line.get("attention_distance")]
    found = {f"epoch {lines[0]['epoch'] + 1}": lines[0]} if lines else {}
    for before, after in pairwise(lines):
        if before["stage"] != after["stage"]:
            found[f"end of {before['stage']}"] = before
    return found


def _head_table(record: Mapping[str, Any]) -> Table:
    table = Table(
        *HEAD_TITLES, title=f"{record['data']}, {counted(record['head_images'], 'image')}"
    )
    for row in head_rows(record["heads"]):
        table.add_row(*row)
    return table

"""``dearkd report``: writes one page, or one table, about runs and synthetic sets."""

import functools
import re
from collections.abc import Callable, Iterable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Literal, get_args

from rich.console import Console
from rich.markup import escape
from rich.progress import Progress

from dearkd.analysis.predictions import Predictions, answers_of
from dearkd.data.datasets import open_data
from dearkd.data.loaders import Batch, Loader
from dearkd.data.sources import ImageSource
from dearkd.errors import UserError
from dearkd.judging.candidate import candidate_of
from dearkd.owner import check_replaceable
from dearkd.pages.page import Section, page
from dearkd.report.attention_chapter import attention_section
from dearkd.report.collect import collect
from dearkd.report.contents import Report, Run, SyntheticSet
from dearkd.report.curves_chapter import curve_section
from dearkd.report.gap_chapter import gap_section
from dearkd.report.headline import headline
from dearkd.report.mistakes_chapter import mistake_section
from dearkd.report.origin_chapter import origin_section, settings_section
from dearkd.report.results_chapter import result_section
from dearkd.report.rounds_chapter import rounds_section
from dearkd.report.set_chapter import synthetic_section
from dearkd.report.study_chapter import study_section
from dearkd.report.tables import as_csv, as_json, as_markdown
from dearkd.run_folder.output import make_room, write_text
from dearkd.said import size_text
from dearkd.trained.resolve import Resolved, refuse_idle_trust, resolve

__all__ = ["Format", "html", "write_report"]

Format = Literal["html", "md", "csv", "json"]
DEFAULT_OUT = Path("report.html")
EARLIER = re.compile(
    r'<title>dearkd report: |\A\{\s*"headline"|\A(run|set|study),|^\*\*(On |Study |Synthetic sets)',
    re.M,
)
"""What a report in any of the forms has near its beginning."""
HEAD = 1 << 16
"""Characters of a file that are looked at for it."""


def write_report(
    targets: Sequence[Path],
    *,
    console: Console,
    errors: Console,
    out: Path | None = None,
    form: str | None = None,
    baseline: str | None = None,
    predictions: bool | None = None,
    trust: bool = False,
) -> None:
    """Writes a report on runs and synthetic sets and prints where it is.

    The form follows from the ending of ``out`` where it is not given. A table without ``out`` is
    printed. For a page each run predicts its evaluation images, unless ``predictions`` is False;
    ``errors`` shows the progress.

    Raises:
        UserError, FileNotFoundError: If a target is no run, the form is unknown, or
            ``predictions`` are decided on for a table, if ``out`` is another verb's file, if
            ``report.html`` is taken where there is no ``out``, or if ``trust`` has no effect.
    """
    target = _target(out, form)
    form = _form(form, out)
    if form != "html" and predictions is not None:
        option = "--predictions" if predictions else "--no-predictions"
        raise UserError(f"{option} is for the page; a {form} table asks no run, leave it out")
    report = collect(targets, baseline)
    if trust:
        _refuse_idle_trust(report.runs if form == "html" and predictions is not False else ())
    if form == "html":
        assert target is not None
        write_text(target, html(report, None if predictions is False else errors, trust))
        console.print(f"report: {target} ({size_text(target.stat().st_size)}, offline)")
        return
    text = {"md": as_markdown, "csv": as_csv, "json": as_json}[form](report)
    if out is None:
        console.file.write(text)
    else:
        write_text(out, text)
        console.print(f"report: {out}")


def html(report: Report, errors: Console | None, trust: bool = False) -> str:
    """The whole page as HTML; without a console for progress, no run predicts its images."""
    images = _images_of_sets()
    sections: list[Section] = [study_section(record) for record in report.studies]
    if report.runs:
        sections += [result_section(report), curve_section(report)]
    if_any = (gap_section(report, images), rounds_section(report), attention_section(report))
    sections += [section for section in if_any if section is not None]
    if report.runs and errors is not None:
        errors.print("asking runs about their evaluation images; --no-predictions leaves that out")
        sections.append(mistake_section(report, functools.partial(_predicted, errors, trust)))
    if report.sets:
        sections.append(synthetic_section(report, images))
    if report.runs:
        sections += [settings_section(report), origin_section(report)]
    return page(f"dearkd report: {report.title}", headline(report), sections)


def _refuse_idle_trust(asked: Iterable[Run]) -> None:
    """Refuses ``--trust`` where no run that is asked about its images brings code.

    Raises:
        UserError: Naming the runs.
    """
    found = list[Resolved]()
    for run in asked:
        if run.finished:
            with suppress(UserError):  # said in the page
                found.append(resolve(str(run.path), "run", trust=True))
    refuse_idle_trust(True, *found)


def _predicted(errors: Console, trust: bool, run: Run) -> Predictions | str:
    """A run's predictions on its evaluation images, or the reason why there are none."""
    title = f"  {run.name} on its evaluation images"
    if not errors.is_terminal:
        errors.print(title)
    with Progress(console=errors, disable=not errors.is_terminal, transient=True) as bar:
        task = bar.add_task(escape(title), total=None)

        def watched(batches: Loader) -> Iterable[Batch]:
            return bar.track(batches, total=len(batches), task_id=task)

        try:
            found = resolve(str(run.path), "run", trust=trust)
            return answers_of(found, candidate_of(found), watch=watched)
        except UserError as error:
            return f"no single images here: {error}"


def _images_of_sets() -> Callable[[SyntheticSet], ImageSource | None]:
    """A function that opens a set's images once, however many chapters show some."""
    opened = functools.cache(_opened_at)
    return lambda item: opened(item.path)


def _opened_at(place: Path) -> ImageSource | None:
    """The images of the set in a folder; None if they can't be opened."""
    try:
        return open_data(str(place))[0]
    except (ValueError, FileNotFoundError):
        return None


def _is_report(file: Path) -> bool:
    """Whether a file is a report made before, which may be made anew."""
    with file.open(encoding="utf-8", errors="replace") as stream:
        return EARLIER.search(stream.read(HEAD)) is not None


def _target(out: Path | None, form: str | None) -> Path | None:
    """Where a report is written, tried before runs are asked for minutes; None: the terminal.

    Raises:
        UserError: If it is another verb's file, or a page would take the place of the user's own.
        WriteError: If it can't be written.
    """
    target = DEFAULT_OUT if out is None and form in (None, "html") else out
    if target is None:
        return None
    check_replaceable(target, _is_report)
    make_room(target)
    if out is None and target.is_file() and not _is_report(target):
        raise UserError(f"{target} is there and no report of dearkd; name another file by --out")
    return target


def _form(form: str | None, out: Path | None) -> str:
    known = get_args(Format)
    if form is None:
        form = "html" if out is None else out.suffix.removeprefix(".").lower()
        if form not in known:
            raise UserError(
                f"--out {out} does not say what to write; end it in .{', .'.join(known)} "
                "or add --format"
            )
    if form not in known:
        raise UserError(f"--format {form} is unknown; choose {', '.join(known)}")
    return form

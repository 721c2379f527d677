"""What `dearkd report` does: run folders in, one page, or one table, out."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Literal, get_args

from rich.console import Console

from dearkd.checkpoint import write_atomically
from dearkd.data import ImageSource, open_data
from dearkd.report_data import Report, SyntheticSet, collect
from dearkd.report_page import Section, page
from dearkd.report_sections import (
    curve_section,
    origin_section,
    result_section,
    settings_section,
)
from dearkd.report_synthetic import synthetic_section
from dearkd.report_tables import as_csv, as_json, as_markdown, headline

__all__ = ["Format", "write_report"]

Format = Literal["html", "md", "csv", "json"]
DEFAULT_OUT = Path("report.html")


def write_report(
    targets: Sequence[Path],
    *,
    console: Console,
    out: Path | None = None,
    form: str | None = None,
    baseline: str | None = None,
    predictions: bool = True,
) -> None:
    """Writes a report on runs and synthetic sets and says where it is.

    The form follows from the name of ``out`` where it is not given. Tables without ``out`` go to
    the console as they are.

    Raises:
        ValueError, FileNotFoundError: If a target is no run, or the form is unknown.
    """
    form = _form(form, out)
    report = collect(targets, baseline)
    if form == "html":
        target = out or DEFAULT_OUT
        _write(target, html(report))
        console.print(f"report: {target} ({target.stat().st_size / 2**20:.1f} MB, offline)")
        return
    text = {"md": as_markdown, "csv": as_csv, "json": as_json}[form](report)
    if out is None:
        console.file.write(text)
    else:
        _write(out, text)
        console.print(f"report: {out}")


def html(report: Report) -> str:
    """The whole page."""
    sections: list[Section] = []
    if report.runs:
        sections += [result_section(report), curve_section(report), settings_section(report)]
    if report.sets:
        sections.append(synthetic_section(report, _opened))
    if report.runs:
        sections.append(origin_section(report))
    return page(_title(report), headline(report), sections)


def _title(report: Report) -> str:
    names = [item.name for item in (*report.runs, *report.sets)]
    return f"dearkd: {', '.join(names[:4])}{' and more' if len(names) > 4 else ''}"


def _opened(synthetic: SyntheticSet) -> ImageSource | None:
    try:
        return open_data(str(synthetic.path))[0]
    except (ValueError, FileNotFoundError):
        return None


def _form(form: str | None, out: Path | None) -> str:
    if form is None:
        suffix = "" if out is None else out.suffix.removeprefix(".")
        return suffix if suffix in get_args(Format) else "html"
    if form not in get_args(Format):
        raise ValueError(f"--format {form} is unknown; choose {', '.join(get_args(Format))}")
    return form


def _write(target: Path, text: str) -> None:
    if target.is_dir():
        raise ValueError(f"--out {target} is a folder; name a file in it")
    target.parent.mkdir(parents=True, exist_ok=True)
    write_atomically(target, _text_writer(text))


def _text_writer(text: str) -> Callable[[Path], None]:
    def write(file: Path) -> None:
        file.write_text(text, encoding="utf-8")

    return write

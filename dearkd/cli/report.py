"""The verb ``dearkd report``."""

from pathlib import Path
from typing import Annotated, Literal

import typer

from dearkd.cli.guard import guarded
from dearkd.cli.options import Imports, Trust, console, error_console, run_imports

__all__ = ["report"]


@guarded
def report(
    targets: Annotated[
        list[Path],
        typer.Argument(
            metavar="RUN",
            help="Run folders, synthetic sets, a folder that holds some, or a study's folder or "
            "record.",
        ),
    ],
    out: Annotated[
        Path | None,
        typer.Option(help="File to write; default: report.html, and the terminal for a table."),
    ] = None,
    form: Annotated[
        Literal["html", "md", "csv", "json"] | None,
        typer.Option(
            "--format",
            help="A page, or tables for papers and scripts; default: as --out is named.",
        ),
    ] = None,
    baseline: Annotated[
        str | None,
        typer.Option(help="The run that differences are taken against; default: the first."),
    ] = None,
    predictions: Annotated[
        bool | None,
        typer.Option(
            "--predictions/--no-predictions",
            help="Page only: ask each run about its evaluation images for confusion matrix, best "
            "and worst images, which may take minutes; default: ask.",
            show_default=False,
        ),
    ] = None,
    trust: Trust = False,
    imports: Imports = None,
) -> None:
    """Show what runs produced, side by side, as one page that needs no network.

    **Example:** `dearkd report runs/dearkd-digits-1 runs/ce-digits-1` or, for a paper's table,
    `dearkd report runs/ --format md`
    """
    from dearkd.report import report as door

    run_imports(imports)
    door.write_report(
        targets,
        out=out,
        form=form,
        baseline=baseline,
        predictions=predictions,
        trust=trust,
        console=console,
        errors=error_console(),
    )

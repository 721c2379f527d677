"""The verb ``dearkd verify``."""

from pathlib import Path
from typing import Annotated

import typer

from dearkd.cli.guard import guarded
from dearkd.cli.options import AsJson, Imports, Trust, console, run_imports

__all__ = ["verify"]


@guarded
def verify(
    target: Annotated[
        Path, typer.Argument(metavar="RUN|SET", help="A finished run, or a finished synthetic set.")
    ],
    evaluation: Annotated[
        bool,
        typer.Option(
            "--evaluation/--no-evaluation",
            help="Judge the run again, or ask the set's teacher again, and compare.",
        ),
    ] = True,
    as_json: AsJson = False,
    trust: Trust = False,
    imports: Imports = None,
) -> None:
    """Check that a run or a synthetic set is what its files say; exit code 1 if anything fails.

    Files and hashes, configuration, epochs, weights, and the evaluation to the last image.

    **Example:** `dearkd verify runs/dearkd-digits-1`
    """
    from dearkd.verify import verify as door

    run_imports(imports)
    fine = door.verify(target, console=console, evaluates=evaluation, as_json=as_json, trust=trust)
    if not fine:
        raise typer.Exit(1)

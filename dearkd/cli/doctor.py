"""The verb ``dearkd doctor``."""

from typing import Annotated

import typer

from dearkd.cli.options import AsJson, console
from dearkd.errors import one_line
from dearkd.loading import without_collection

__all__ = ["doctor"]


def doctor(
    quick: Annotated[
        bool, typer.Option("--quick", help="Leave out timing and compiling, which take seconds.")
    ] = False,
    as_json: AsJson = False,
) -> None:
    """Check this machine and the installation, and say how to mend what is wrong.

    The command exits with 1 if something is broken. What is merely missing (a hub, a compiler) is
    a warning.

    **Example:** `dearkd doctor`
    """
    try:
        with without_collection():
            from dearkd import doctor as door
    except Exception as error:  # libraries that don't fit each other raise anything
        reason = one_line(error)
        console.print(f"broken   libraries: {type(error).__name__}: {reason}")
        console.print("-> reinstall: pip install -c constraints.txt -e .")
        raise typer.Exit(1) from error
    if not door.examine(console=console, quick=quick, as_json=as_json):
        raise typer.Exit(1)

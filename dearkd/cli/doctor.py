"""The verb ``dearkd doctor``."""

from typing import Annotated

import typer

from dearkd.cli.options import console

__all__ = ["doctor"]


def doctor(
    quick: Annotated[
        bool, typer.Option("--quick", help="Leave out timing and compiling, which take seconds.")
    ] = False,
    json_out: Annotated[bool, typer.Option("--json", help="Print the findings as JSON.")] = False,
) -> None:
    """Look at this machine and installation; every trouble comes with its remedy.

    The command exits with 1 if something is broken. What is merely missing (a hub, a compiler) is
    a warning.

    **Example:** `dearkd doctor`
    """
    try:
        from dearkd import doctor as door
    except Exception as error:  # libraries that don't fit each other raise anything
        reason = " ".join(str(error).split())[:200]
        console.print(f"broken   libraries: {type(error).__name__}: {reason}", markup=False)
        console.print("-> reinstall: pip install -c constraints.txt -e .", markup=False)
        raise typer.Exit(1) from error
    if not door.examine(console=console, quick=quick, as_json=json_out):
        raise typer.Exit(1)

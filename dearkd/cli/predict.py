"""The verb ``dearkd predict``."""

from pathlib import Path
from typing import Annotated

import typer

from dearkd.cli.guard import guarded
from dearkd.cli.options import (
    AsJson,
    Imports,
    Trust,
    Weights,
    Which,
    console,
    error_console,
    run_imports,
)

__all__ = ["predict"]


@guarded
def predict(
    model: Annotated[
        str,
        typer.Argument(help="A run folder, a timm name, or what `dearkd export` wrote."),
    ],
    images: Annotated[
        list[str], typer.Argument(metavar="IMAGE", help="Image files, folders of them, globs.")
    ],
    weights: Weights = None,
    which: Which = None,
    class_names: Annotated[
        Path | None, typer.Option(help="Text file with the names of the classes, one a line.")
    ] = None,
    trust: Trust = False,
    imports: Imports = None,
    as_json: AsJson = False,
) -> None:
    """What a model sees in your images: the five best classes of each, by name.

    Images in folders named after classes are also told right or wrong, with their share at the end.
    Images are seen as in `dearkd eval`. One that can't be read is named, the others are answered,
    and the command exits with 2.

    **Example:** `dearkd predict runs/dearkd-photos-1 holiday.jpg scans/` or
    `dearkd predict digits.onnx "scans/*.png" --json`
    """
    from dearkd.judging import predict as door

    run_imports(imports)
    bad = door.predict(
        model,
        images,
        console=console,
        errors=error_console(),
        weights=weights,
        which=which,
        trust=trust,
        class_names=class_names,
        as_json=as_json,
    )
    if bad:
        raise typer.Exit(2)

"""The verb ``dearkd analyze``."""

from pathlib import Path
from typing import Annotated

import typer

from dearkd.cli.guard import guarded
from dearkd.cli.options import AsJson, Imports, Trust, Which, console, run_imports

__all__ = ["analyze"]


@guarded
def analyze(
    run: Annotated[Path, typer.Argument(help="Folder of a trained vision transformer's run.")],
    data: Annotated[
        str | None, typer.Option(help="Images to look at; default: the run's own evaluation data.")
    ] = None,
    which: Which = None,
    images: Annotated[
        int | None,
        typer.Option(
            help="Use so many images, evenly spread; default: 64 for attention, all for answers.",
            min=1,
        ),
    ] = None,
    maps: Annotated[int, typer.Option(help="Images to draw the attention of.", min=0)] = 4,
    out: Annotated[
        Path | None, typer.Option(help="Folder for the results; default: the run itself.")
    ] = None,
    trust: Trust = False,
    imports: Imports = None,
    as_json: AsJson = False,
) -> None:
    """What attention learned: distances, heads on the patch grid, tokens, maps, calibration.

    Writes analysis.html (open it), analysis.json, attention_maps.png and position_heads.png.

    **Example:** `dearkd analyze runs/dearkd-digits-1`
    """
    from dearkd.analysis import analyze as door

    run_imports(imports)
    door.analyze(
        run,
        console=console,
        data=data,
        which=which or "final",
        images=images,
        maps=maps,
        out=out,
        trust=trust,
        as_json=as_json,
    )

"""The verb ``dearkd eval``."""

from pathlib import Path
from typing import Annotated

import typer

from dearkd_cli.guard import guarded
from dearkd_cli.options import ImgSize, Imports, OnBadImage, console

__all__ = ["evaluate"]


@guarded
def evaluate(
    target: Annotated[str, typer.Argument(help="A run folder or a timm model name.")],
    data: Annotated[
        str | None, typer.Option(help="Images to judge on; default: the run's own evaluation data.")
    ] = None,
    weights: Annotated[
        Path | None, typer.Option(help="Local weights for a timm name: safetensors or .pth.")
    ] = None,
    which: Annotated[
        str | None,
        typer.Option(
            metavar="final|best|raw",
            help="A run's final weights (EMA if on; the default), best, or without EMA.",
        ),
    ] = None,
    batch_size: Annotated[int, typer.Option(help="Images a forward pass.", min=1)] = 128,
    img_size: ImgSize = None,
    on_bad_image: OnBadImage = None,
    imports: Imports = None,
    json_out: Annotated[bool, typer.Option("--json", help="Print the numbers as JSON.")] = False,
) -> None:
    """Top-1 and top-5 of a run or a timm model, by each of its heads.

    Class folders that name some of the model's classes (ImageNet synsets, say) are matched by name.

    **Example:** `dearkd eval runs/dearkd-digits-1` or
    `dearkd eval regnety_160.deit_in1k --data imagenet/val`
    """
    from dearkd import judge

    judge.evaluate_target(
        target,
        data=data,
        weights=weights,
        which=which,
        batch_size=batch_size,
        img_size=img_size,
        on_bad_image=on_bad_image,
        imports=tuple(map(str, imports or ())),
        as_json=json_out,
        console=console,
    )

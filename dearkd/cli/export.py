"""The verb ``dearkd export``."""

from pathlib import Path
from typing import Annotated, Literal

import typer

from dearkd.cli.guard import guarded
from dearkd.cli.options import Imports, Trust, Which, console, run_imports

__all__ = ["export"]


@guarded
def export(
    run: Annotated[Path, typer.Argument(help="A run folder, of `dearkd train` or `teacher`.")],
    to: Annotated[
        Literal["onnx", "torch-export", "timm", "hf-folder"],
        typer.Option(
            help="A graph for onnxruntime, one for torch, a folder that timm loads, or the same "
            "with a model card for the Hugging Face hub.",
        ),
    ] = "onnx",
    out: Annotated[
        Path | None, typer.Option(help="File or folder to make; default: in the run folder.")
    ] = None,
    which: Which = None,
    fuse: Annotated[
        bool,
        typer.Option(
            "--fuse",
            help="Fold the position term into constants (ONNX mostly does by itself).",
        ),
    ] = False,
    heads: Annotated[
        bool,
        typer.Option("--heads", help="The logits of both heads beside their mean (graphs only)."),
    ] = False,
    check: Annotated[
        bool,
        typer.Option("--check/--no-check", help="Read it back and compare it with the model."),
    ] = True,
    license_: Annotated[
        str | None,
        typer.Option("--license", help="Of the weights, for the model card, e.g. apache-2.0."),
    ] = None,
    trust: Trust = False,
    imports: Imports = None,
) -> None:
    """Take a trained model elsewhere: ONNX, torch.export, timm, the Hugging Face hub.

    Every form holds class names and preprocessing, and `dearkd predict` reads each of them.

    **Example:** `dearkd export runs/dearkd-digits-1 --to onnx --out digits.onnx`
    """
    from dearkd.export import export as door

    run_imports(imports)
    door.export_run(
        run,
        console=console,
        to=to,
        out=out,
        which=which or "final",
        fuse=fuse,
        heads=heads,
        check=check,
        licence=license_,
        trust=trust,
    )

"""The verb ``dearkd eval``: a model on images, or a set of images by itself."""

from pathlib import Path
from typing import Annotated, Any

import typer

from dearkd.cli.guard import guarded
from dearkd.cli.options import (
    AsJson,
    ImgSize,
    Imports,
    OnBadImage,
    Weights,
    Which,
    console,
    run_imports,
)

__all__ = ["evaluate"]

SETS = "A set of images (TARGET is the images; default: the newest synthetic set under runs/)"


@guarded
def evaluate(
    target: Annotated[
        str | None,
        typer.Argument(help="A run folder or a timm model name; with --lpips etc., images."),
    ] = None,
    data: Annotated[
        str | None, typer.Option(help="Images to judge on; default: the run's own evaluation data.")
    ] = None,
    weights: Weights = None,
    which: Which = None,
    batch_size: Annotated[int, typer.Option(help="Images a forward pass.", min=1)] = 128,
    img_size: ImgSize = None,
    on_bad_image: OnBadImage = None,
    imports: Imports = None,
    as_json: AsJson = False,
    lpips: Annotated[
        bool,
        typer.Option(
            "--lpips",
            help="LPIPS diversity: mean over all pairs within a class, and overall.",
            rich_help_panel=SETS,
        ),
    ] = False,
    lpips_net: Annotated[
        str | None,
        typer.Option(metavar="alex|vgg|squeeze", help="Default: alex.", rich_help_panel=SETS),
    ] = None,
    lpips_weights: Annotated[
        Path | None,
        typer.Option(
            help="Its backbone, torchvision's keys; default: torch's cache.", rich_help_panel=SETS
        ),
    ] = None,
    against: Annotated[
        str | None,
        typer.Option(
            help="Real images: the same measures of them, Frechet distance, density, coverage.",
            rich_help_panel=SETS,
        ),
    ] = None,
    features: Annotated[
        str | None,
        typer.Option(
            help="Diversity and distance to --against in this network's pooled features.",
            rich_help_panel=SETS,
        ),
    ] = None,
    features_weights: Annotated[
        Path | None, typer.Option(help="Its weights, as --weights.", rich_help_panel=SETS)
    ] = None,
    verifier: Annotated[
        str | None,
        typer.Option(help="Share of images this network recognises.", rich_help_panel=SETS),
    ] = None,
    verifier_weights: Annotated[
        Path | None, typer.Option(help="Its weights, as --weights.", rich_help_panel=SETS)
    ] = None,
    limit: Annotated[
        int | None, typer.Option(help="Images of a class at most.", rich_help_panel=SETS)
    ] = None,
    seed: Annotated[
        int | None, typer.Option(help="Decides which; default 0.", rich_help_panel=SETS)
    ] = None,
    out: Annotated[
        Path | None, typer.Option(help="Write the result to this JSON file.", rich_help_panel=SETS)
    ] = None,
) -> None:
    """Top-1 and top-5 of a model by each of its heads, or the diversity of a set of images.

    Class folders that name some of the model's classes (ImageNet synsets, say) are matched by name.

    **Example:** `dearkd eval runs/dearkd-digits-1` or
    `dearkd eval regnety_160.deit_in1k --data imagenet/val`

    **Images:** `dearkd eval runs/synth-1 --lpips --against photos/ --limit 50`
    """
    measures: dict[str, Any] = {
        "lpips": lpips or None,
        "lpips_net": lpips_net,
        "lpips_weights": lpips_weights,
        "against": against,
        "features": features,
        "features_weights": features_weights,
        "verifier": verifier,
        "verifier_weights": verifier_weights,
        "limit": limit,
        "seed": seed,
    }
    of_model: dict[str, Any] = {"data": data, "weights": weights, "which": which}
    common: dict[str, Any] = {
        "batch_size": batch_size,
        "img_size": img_size,
        "on_bad_image": on_bad_image,
    }
    run_imports(imports)
    if out is not None or any(value is not None for value in measures.values()):
        _refuse(of_model)
        from dearkd.measures import eval_set

        request = eval_set.SetRequest(target=target, **measures, **common)
        eval_set.evaluate_set(request, console=console, out=out, as_json=as_json)
        return
    if target is None:
        raise ValueError(
            "missing argument 'target': a run folder, a timm name, or images with --lpips; "
            "see dearkd eval --help"
        )
    from dearkd.judging import eval as judge

    judge.evaluate_target(target, **of_model, **common, as_json=as_json, console=console)


def _refuse(of_model: dict[str, Any]) -> None:
    for option, value in of_model.items():
        if value is not None:
            raise ValueError(f"--{option} {value} is for judging a model, not a set of images")

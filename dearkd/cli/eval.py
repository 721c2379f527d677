"""The verb ``dearkd eval``: a model on images, or a set of images by itself."""

from pathlib import Path
from typing import Annotated, Any, Literal

import typer

from dearkd.cli.guard import guarded
from dearkd.cli.options import (
    AsJson,
    ImgSize,
    Imports,
    OnBadImage,
    Trust,
    console,
    error_console,
    run_imports,
)
from dearkd.errors import UserError

__all__ = ["evaluate"]

MODEL = "Judge a model (TARGET is a run folder or a timm name)"
SET = "Measure a set of images (TARGET: its folder; default: the newest set)"


def _of_model(*names: str, **settings: Any) -> Any:
    return typer.Option(*names, rich_help_panel=MODEL, **settings)


def _of_set(*names: str, **settings: Any) -> Any:
    return typer.Option(*names, rich_help_panel=SET, **settings)


@guarded
def evaluate(
    target: Annotated[str | None, typer.Argument(help="What to judge or measure.")] = None,
    data: Annotated[
        str | None, _of_model(help="Images to judge it on; default: the run's own.")
    ] = None,
    weights: Annotated[
        Path | None, _of_model(help="Local weights for a timm name: safetensors or .pth.")
    ] = None,
    which: Annotated[
        Literal["final", "best", "raw"] | None,
        _of_model(help="Which of a run's weights; raw: without EMA.", show_default=False),
    ] = None,
    lpips: Annotated[
        bool, _of_set("--lpips", help="LPIPS over all pairs within a class, and overall.")
    ] = False,
    features: Annotated[
        str | None, _of_set(help="The same distances in this network's pooled features.")
    ] = None,
    verifier: Annotated[
        str | None, _of_set(help="Share of the images that this network recognises.")
    ] = None,
    against: Annotated[
        str | None, _of_set(help="Real images, measured too, and the set's distance to them.")
    ] = None,
    probe: Annotated[
        bool,
        _of_set(
            "--probe",
            help="Top-1 on --against of a small student that learns from the set, in a fixed "
            "budget; takes a minute or more, told beforehand.",
        ),
    ] = False,
    teacher: Annotated[
        str | None,
        _of_set(help="Whose labels --probe learns; default: the network the set was made from."),
    ] = None,
    limit: Annotated[
        int | None, _of_set(help="At most so many images of a class, but for --probe.")
    ] = None,
    seed: Annotated[
        int | None, _of_set(help="Of --probe, and of which images --limit keeps; default 0.")
    ] = None,
    lpips_net: Annotated[
        Literal["alex", "vgg", "squeeze"] | None,
        _of_set(help="Network of LPIPS; default: alex.", show_default=False),
    ] = None,
    lpips_weights: Annotated[
        Path | None, _of_set(help="Backbone of LPIPS, torchvision's file; default: torch's cache.")
    ] = None,
    features_weights: Annotated[
        Path | None, _of_set(help="Local weights of --features: safetensors or .pth.")
    ] = None,
    verifier_weights: Annotated[
        Path | None, _of_set(help="Local weights of --verifier: safetensors or .pth.")
    ] = None,
    teacher_weights: Annotated[
        Path | None, _of_set(help="Local weights of --teacher: safetensors or .pth.")
    ] = None,
    out: Annotated[Path | None, _of_set(help="Write the result to this JSON file.")] = None,
    img_size: ImgSize = None,
    batch_size: Annotated[
        int | None, typer.Option(help="Images a forward pass; default: 128.", min=1)
    ] = None,
    on_bad_image: OnBadImage = None,
    imports: Imports = None,
    trust: Trust = False,
    as_json: AsJson = False,
) -> None:
    """Top-1 and top-5 of a model by each of its heads, or the diversity of a set of images.

    **Example:** `dearkd eval runs/dearkd-digits-1` or
    `dearkd eval regnety_160.deit_in1k --data imagenet/val`

    **Images:** `dearkd eval runs/synth-1 --lpips --against photos/ --limit 50`, or what a small
    student learns from them: `dearkd eval runs/synth-1 --probe --against photos/`
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
        "probe": probe or None,
        "teacher": teacher,
        "teacher_weights": teacher_weights,
        "limit": limit,
        "seed": seed,
    }
    of_model: dict[str, Any] = {"data": data, "weights": weights, "which": which}
    common: dict[str, Any] = {
        "batch_size": batch_size,
        "img_size": img_size,
        "on_bad_image": on_bad_image,
        "trust": trust,
    }
    run_imports(imports)
    if any(value is not None for value in measures.values()):
        _refuse(of_model)
        from dearkd.measures import eval_set
        from dearkd.measures.set_request import SetRequest

        request = SetRequest(target=target, **measures, **common)
        eval_set.evaluate_set(
            request, console=console, errors=error_console(), out=out, as_json=as_json
        )
        return
    if out is not None:
        raise UserError(
            f"--out {out} is for the measures of a set of images; add --lpips, --features NET, "
            "--verifier NET or --probe, or leave it out (a model's numbers: --json)"
        )
    if target is None:
        raise UserError(
            "missing argument 'target': a run folder, a timm name, or images with --lpips; "
            "see dearkd eval --help"
        )
    from dearkd.judging import eval as door

    door.evaluate_target(target, **of_model, **common, as_json=as_json, console=console)


def _refuse(of_model: dict[str, Any]) -> None:
    for option, value in of_model.items():
        if value is not None:
            raise UserError(
                f"--{option} {value} is for judging a model, not a set of images; leave it out"
            )

"""The verb ``dearkd synthesize``."""

from pathlib import Path
from typing import Annotated, Literal

import typer

from dearkd.cli.guard import guarded
from dearkd.cli.options import (
    DryRun,
    GoOn,
    Imports,
    Out,
    Resume,
    Seed,
    TeacherWeights,
    Trust,
    console,
    text,
)
from synth.settings import ImageFormat

__all__ = ["synthesize"]


@guarded
def synthesize(
    config: Annotated[
        Path | None, typer.Argument(help="YAML file of the run; configs/synth/ has examples.")
    ] = None,
    teacher: Annotated[
        list[str] | None,
        typer.Option(
            help="timm CNN with BatchNorm, or a run folder; default: embedded digits. Given again: "
            "further teachers of the same images; labels come from the first."
        ),
    ] = None,
    teacher_weights: TeacherWeights = None,
    engine: Annotated[
        Literal["inversion", "generator"] | None,
        typer.Option(help="Optimise pixels (default), or a small network that draws them."),
    ] = None,
    res: Annotated[
        str | None,
        typer.Option(
            metavar="112,224", help="Pixels a side of each stage; default: the teacher's."
        ),
    ] = None,
    iters: Annotated[
        str | None,
        typer.Option(
            metavar="2000,2000", help="Iterations of each stage; a generator's of each batch."
        ),
    ] = None,
    per_class: Annotated[int | None, typer.Option(help="Images of each class.")] = None,
    classes: Annotated[
        str | None,
        typer.Option(metavar="all|0-99|names.txt", help="Teacher's classes, or a file of names."),
    ] = None,
    images_per_batch: Annotated[
        int | None,
        typer.Option(
            help="Most images computed together; fewer make smaller groups and other images."
        ),
    ] = None,
    verifier: Annotated[
        str | None, typer.Option(help="A second network that judges the images.")
    ] = None,
    verifier_weights: Annotated[
        Path | None, typer.Option(help="The verifier's weights, as for the teacher.")
    ] = None,
    student: Annotated[
        str | None, typer.Option(help="Adaptive DeepInversion: a network that competes.")
    ] = None,
    recipe: Annotated[
        Literal["paper", "balanced"] | None,
        typer.Option(
            help="Weights: the paper's (default), or ours, made for any teacher; up to 64 px "
            "images by their spectrum for a student of soft labels. See README."
        ),
    ] = None,
    fast: Annotated[
        bool,
        typer.Option(
            "--fast",
            help="--recipe balanced in an eighth of its iterations, with weights to match; images "
            "are less sure. Up to 64 px, by their spectrum: in an eighth of its images.",
        ),
    ] = False,
    auto_weights: Annotated[
        bool, typer.Option("--auto-weights", help="Tune bn_weight for this teacher in pilot runs.")
    ] = False,
    allow_no_bn: Annotated[
        bool, typer.Option("--allow-no-bn", help="Go on with a teacher that has no BatchNorm.")
    ] = False,
    image_format: Annotated[
        ImageFormat | None,
        typer.Option("--format", help="Of the image files, all lossless; default: png."),
    ] = None,
    seed: Seed = None,
    out: Out = None,
    resume: Resume = False,
    go_on: GoOn = False,
    dry_run: DryRun = False,
    imports: Imports = None,
    trust: Trust = False,
    settings: Annotated[
        list[str] | None,
        typer.Option(
            "--set",
            metavar="KEY=VALUE",
            help="Any field of the config, e.g. lr=0.1 or objective.tv_weight=0.1.",
        ),
    ] = None,
) -> None:
    """Make training images from a trained CNN alone: DeepInversion with DF-DearKD's losses.

    Everything is optional: `dearkd synthesize` alone runs on an embedded digits CNN.

    **Example:** `dearkd synthesize --teacher resnet50.a1_in1k --res 112,224 --classes 0-99`

    then `dearkd train --data runs/synth-resnet50-1 --teacher resnet50.a1_in1k`
    """
    from dearkd.synthesis import synthesize as door

    options = {
        "teacher.name": teacher[0] if teacher else None,
        "other_teachers": [{"name": name} for name in teacher[1:]] if teacher else None,
        "teacher.weights": text(teacher_weights),
        "verifier.name": verifier,
        "verifier.weights": text(verifier_weights),
        "student.name": student,
        "engine": engine,
        "resolutions": res,
        "iterations": iters,
        "per_class": per_class,
        "select": classes,
        "images_per_batch": images_per_batch,
        "recipe": recipe,
        "fast": fast or None,
        "objective.auto_weights": auto_weights or None,
        "allow_no_bn": allow_no_bn or None,
        "image_format": image_format,
        "seed": seed,
        "imports": [str(file) for file in imports] if imports else None,
    }
    door.synthesize(
        config,
        settings or [],
        options,
        console=console,
        out=out,
        resume=resume,
        go_on=go_on,
        dry_run=dry_run,
        trust=trust,
    )

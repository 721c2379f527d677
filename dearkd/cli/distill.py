"""The verb ``dearkd distill``."""

from pathlib import Path
from typing import Annotated

import typer

from dearkd.cli.guard import guarded
from dearkd.cli.options import (
    DryRun,
    Imports,
    Out,
    Seed,
    TeacherWeights,
    Trust,
    console,
    text,
)

__all__ = ["distill"]


@guarded
def distill(
    config: Annotated[
        Path | None, typer.Argument(help="YAML file of the run: the distill.yaml of another one.")
    ] = None,
    teacher: Annotated[
        list[str] | None,
        typer.Option(
            help="timm CNN with BatchNorm, or a run folder; default: embedded digits. Given again: "
            "further teachers of the same images; the student learns from the first."
        ),
    ] = None,
    teacher_weights: TeacherWeights = None,
    student: Annotated[
        str | None, typer.Option(help="timm name; default: as `dearkd train` chooses it.")
    ] = None,
    rounds: Annotated[
        int | None,
        typer.Option(help="How often images are made and trained on; default 1. May be raised."),
    ] = None,
    per_class: Annotated[
        int | None, typer.Option(help="Images of each class that a round adds.")
    ] = None,
    res: Annotated[int | None, typer.Option(help="Pixels a side, of images and student.")] = None,
    epochs: Annotated[
        int | None, typer.Option(help="Epochs of each round, on all images so far; default 100.")
    ] = None,
    eval_data: Annotated[
        str | None,
        typer.Option(help="Real images to judge each round on; they are not trained on."),
    ] = None,
    seed: Seed = None,
    out: Out = None,
    resume: Annotated[
        bool,
        typer.Option(
            "--resume",
            help="Go on in the folder --out (default: the newest unfinished), as the same command "
            "again does.",
        ),
    ] = False,
    dry_run: DryRun = False,
    imports: Imports = None,
    trust: Trust = False,
    settings: Annotated[
        list[str] | None,
        typer.Option(
            "--set",
            metavar="KEY=VALUE",
            help="synth.KEY of `dearkd synthesize`, train.KEY of `dearkd train`, or "
            "adversary_weight=1.1.",
        ),
    ] = None,
) -> None:
    """From a CNN alone to a transformer: images and training, once or in rounds.

    The first images are made from the CNN. Those of further rounds (--rounds) are also made against
    the student: it names their class as the CNN does, and is far from it all the same. Each round
    trains on all images so far. The same command again goes on where it stopped.

    **Example:** `dearkd distill --teacher runs/cnn --eval-data photos/val --out runs/free`

    then `dearkd report runs/free`
    """
    from dearkd.rounds import distill as door

    options = {
        "teacher.name": teacher[0] if teacher else None,
        "other_teachers": [{"name": name} for name in teacher[1:]] if teacher else None,
        "teacher.weights": text(teacher_weights),
        "student": student,
        "rounds": rounds,
        "per_class": per_class,
        "res": res,
        "epochs": epochs,
        "evaluation": eval_data,
        "seed": seed,
        "imports": [str(file) for file in imports] if imports else None,
    }
    door.distill(
        config,
        settings or [],
        options,
        console=console,
        out=out,
        resume=resume,
        dry_run=dry_run,
        trust=trust,
    )

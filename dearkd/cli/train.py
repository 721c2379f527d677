"""The verb ``dearkd train``."""

from pathlib import Path
from typing import Annotated, Any, Literal

import typer

from dearkd.cli.guard import guarded
from dearkd.cli.options import (
    IMAGES,
    Config,
    Data,
    DryRun,
    EvalData,
    Fraction,
    GoOn,
    ImgSize,
    Imports,
    OnBadImage,
    Out,
    Resume,
    Seed,
    Settings,
    Trust,
    text,
)
from dearkd.cli.training_run import How, data_options, start
from dearkd.training.method_names import METHOD_NAMES

__all__ = ["train"]

STUDENTS = [
    "dearkd_mini_patch4_32",
    "dearkd_micro_patch4_32",
    "dearkd_tiny_patch4_32",
    "dearkd_tiny_patch16_224",
    "dearkd_small_patch16_224",
    "dearkd_base_patch16_224",
]
"""Spelled out, as completion by TAB must not load timm; a test compares it with timm's list."""

LEARNING = "What the student learns, and how long"


def _epochs_or_auto(text: str) -> int | str:
    """What ``--stage1`` takes; the configuration has its bounds."""
    if text == "auto":
        return text
    try:
        return int(text)
    except ValueError:
        raise typer.BadParameter(f"{text!r} is neither a whole number nor auto") from None


@guarded
def train(
    config: Config = None,
    data: Data = None,
    eval_data: EvalData = None,
    teacher: Annotated[
        str | None,
        typer.Option(
            help="timm name, or the folder of a `dearkd teacher` run.", rich_help_panel=LEARNING
        ),
    ] = None,
    teacher_weights: Annotated[
        Path | None,
        typer.Option(
            help="Its weights: safetensors or a .pth state dict.", rich_help_panel=LEARNING
        ),
    ] = None,
    student: Annotated[
        str | None,
        typer.Option(
            help="timm name, e.g. dearkd_tiny_patch16_224.",
            autocompletion=lambda: STUDENTS,
            rich_help_panel=LEARNING,
        ),
    ] = None,
    recipe: Annotated[
        Literal["paper", "best"] | None,
        typer.Option(
            help="best: soft labels and features of mixed views in one stage, by Muon, the best "
            "of our studies; chosen by itself on a synthetic set, unless method, stages, switch or "
            "distill.* are given.",
            rich_help_panel=LEARNING,
        ),
    ] = None,
    method: Annotated[
        str | None,
        typer.Option(
            metavar="|".join(METHOD_NAMES),
            help="What the student learns from.",
            autocompletion=lambda: list(METHOD_NAMES),
            rich_help_panel=LEARNING,
        ),
    ] = None,
    stage1: Annotated[
        Any,
        typer.Option(
            parser=_epochs_or_auto,
            metavar="N|auto",
            help="Epochs with the teacher; auto: until its features teach no more.",
            rich_help_panel=LEARNING,
        ),
    ] = None,
    stage2: Annotated[
        int | None,
        typer.Option(
            help="Epochs on the labels alone (the teacher's where there are none).",
            rich_help_panel=LEARNING,
        ),
    ] = None,
    epochs: Annotated[
        int | None,
        typer.Option(
            help="With --stage1 auto: length of both stages together. Any other run has stage1 + "
            "stage2 epochs.",
            rich_help_panel=LEARNING,
        ),
    ] = None,
    unlabelled: Annotated[
        bool,
        typer.Option(
            "--unlabelled",
            help="Leave the images' labels out; pictures without class folders have none anyway.",
            rich_help_panel=IMAGES,
        ),
    ] = False,
    fraction: Fraction = None,
    img_size: ImgSize = None,
    init: Annotated[
        str | None,
        typer.Option(
            help="Start from a run folder's or a timm model's weights.", rich_help_panel=LEARNING
        ),
    ] = None,
    seed: Seed = None,
    on_bad_image: OnBadImage = None,
    cache_labels: Annotated[
        Path | None,
        typer.Option(
            help="Folder to keep the teacher's answers in: later runs of the same data, seed and "
            "teacher read them, whatever student, method or batch size.",
            rich_help_panel=LEARNING,
        ),
    ] = None,
    out: Out = None,
    resume: Resume = False,
    go_on: GoOn = False,
    dry_run: DryRun = False,
    imports: Imports = None,
    trust: Trust = False,
    settings: Settings = None,
) -> None:
    """Train a vision transformer: DearKD's two stages, a DeiT baseline, or labels alone.

    Everything is optional: `dearkd train` alone runs on embedded handwritten digits.

    **Example:** `dearkd train --data cifar/ --teacher runs/teacher-1 --stage1 250 --stage2 50`

    **Go on** after Ctrl-C, a crash or kill -9: `dearkd train --resume`
    """
    options = {
        "recipe": recipe,
        "method": method,
        "student": student,
        "stage1": stage1,
        "stage2": stage2,
        "switch.epochs": epochs,
        "init": init,
        "seed": seed,
        "cache_labels": text(cache_labels),
        "data.labels": "none" if unlabelled else None,
        **data_options(data, eval_data, fraction, img_size, on_bad_image),
        "teacher.name": teacher,
        "teacher.weights": text(teacher_weights),
    }
    how = How(out=out, resume=resume, go_on=go_on, dry_run=dry_run, trust=trust)
    start("train", config, options, settings, imports, how)

"""The verb ``dearkd teacher``."""

from pathlib import Path
from typing import Annotated

import typer

from dearkd.cli.guard import guarded
from dearkd.cli.options import (
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
)
from dearkd.cli.training_run import How, data_options, start

__all__ = ["teacher"]


@guarded
def teacher(
    model: Annotated[
        str | None, typer.Argument(help="timm CNN; default: a small one for the data's image size.")
    ] = None,
    data: Data = None,
    eval_data: EvalData = None,
    config: Annotated[
        Path | None, typer.Option(help="YAML file of the run; configs/train/ has one for CIFAR-10.")
    ] = None,
    epochs: Annotated[
        int | None, typer.Option(min=1, help="Length of the run; default 20.")
    ] = None,
    init: Annotated[
        str | None, typer.Option(help="Fine-tune: a run folder, or a timm name (pretrained).")
    ] = None,
    fraction: Fraction = None,
    img_size: ImgSize = None,
    seed: Seed = None,
    on_bad_image: OnBadImage = None,
    out: Out = None,
    resume: Resume = False,
    go_on: GoOn = False,
    dry_run: DryRun = False,
    imports: Imports = None,
    trust: Trust = False,
    settings: Settings = None,
) -> None:
    """Train or fine-tune a CNN on your own data, to be the teacher of `dearkd train`.

    **Example:** `dearkd teacher resnet18 --data photos/ --epochs 30 --out runs/my-teacher`

    then `dearkd train --data photos/ --teacher runs/my-teacher`
    """
    bare = config is None and not resume
    options = {
        "method": "ce",
        "student": "cnn" if bare and model is None and init is None else model,
        "stage1": 20 if bare and epochs is None else epochs,
        "stage2": 0 if bare or epochs is not None else None,
        "init": init,
        "seed": seed,
        **data_options(data, eval_data, fraction, img_size, on_bad_image),
        "optim.drop_path": 0.0 if bare else None,
    }
    how = How(out=out, resume=resume, go_on=go_on, dry_run=dry_run, trust=trust)
    start("teacher", config, options, settings, imports, how)

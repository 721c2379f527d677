"""The ``dearkd`` command: verbs and the few options people type; everything else is ``--set``."""

import sys
from pathlib import Path
from typing import Annotated, Any, Literal, get_args

import typer

import dearkd
from dearkd.cli_options import (
    Config,
    Data,
    DryRun,
    EvalData,
    Fraction,
    ImgSize,
    Imports,
    OnBadImage,
    Out,
    Resume,
    Settings,
    console,
    text,
)
from dearkd.cli_synthesize import synthesize
from dearkd.config import Method, TrainConfig, load_config
from dearkd.guard import guarded
from dearkd.runs import RunFolder, newest_unfinished

__all__ = ["app", "main"]

app = typer.Typer(
    name="dearkd",
    help="From a CNN you trust and few images, or none, to a vision transformer nearly as good.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode="markdown",
)


def main() -> None:
    """Entry point of the installed command: a mistyped option gets one line too."""
    try:
        code = app(standalone_mode=False, prog_name="dearkd")
    except typer.exceptions.TyperException as error:
        message = " ".join(getattr(error, "format_message", error.__str__)().split())
        context = getattr(error, "ctx", None)
        verb = context.command_path if context is not None else "dearkd"
        sys.stderr.write(f"error: {message}; see {verb} --help\n")
        sys.exit(2)
    except typer.Abort:
        sys.exit(130)
    sys.exit(code or 0)


@app.command()
@guarded
def train(
    config: Config = None,
    data: Data = None,
    eval_data: EvalData = None,
    teacher: Annotated[
        str | None, typer.Option(help="timm name, or the folder of a `dearkd teacher` run.")
    ] = None,
    teacher_weights: Annotated[
        Path | None, typer.Option(help="The teacher's weights: safetensors or a .pth state dict.")
    ] = None,
    student: Annotated[
        str | None, typer.Option(help="timm name, e.g. dearkd_tiny_patch16_224.")
    ] = None,
    method: Annotated[
        str | None,
        typer.Option(metavar="|".join(get_args(Method)), help="What the student learns from."),
    ] = None,
    stage1: Annotated[int | None, typer.Option(help="Epochs with the teacher.")] = None,
    stage2: Annotated[int | None, typer.Option(help="Epochs on the labels alone.")] = None,
    fraction: Fraction = None,
    img_size: ImgSize = None,
    init: Annotated[
        str | None, typer.Option(help="Start from a run folder's or a timm model's weights.")
    ] = None,
    seed: Annotated[int | None, typer.Option(help="Decides every random draw.")] = None,
    on_bad_image: OnBadImage = None,
    out: Out = None,
    resume: Resume = False,
    dry_run: DryRun = False,
    imports: Imports = None,
    settings: Settings = None,
) -> None:
    """Train a vision transformer: DearKD's two stages, a DeiT baseline, or labels alone.

    Everything is optional: `dearkd train` alone runs on embedded handwritten digits.

    **Example:** `dearkd train --data cifar/ --teacher runs/teacher-1 --stage1 250 --stage2 50`

    **Go on** after Ctrl-C, a crash or kill -9: `dearkd train --resume`
    """
    options = {
        "method": method,
        "student": student,
        "stage1": stage1,
        "stage2": stage2,
        "init": init,
        "seed": seed,
        "data.train": data,
        "data.evaluation": eval_data,
        "data.fraction": fraction,
        "data.img_size": img_size,
        "data.on_bad_image": on_bad_image,
        "teacher.name": teacher,
        "teacher.weights": text(teacher_weights),
    }
    _train("train", config, options, out, resume, dry_run, imports, settings)


@app.command()
@guarded
def teacher(
    model: Annotated[
        str | None, typer.Argument(help="timm CNN; default: a small one for the data's image size.")
    ] = None,
    data: Data = None,
    eval_data: EvalData = None,
    epochs: Annotated[int | None, typer.Option(help="Length of the run; default 20.")] = None,
    init: Annotated[
        str | None, typer.Option(help="Fine-tune: a run folder, or a timm name (pretrained).")
    ] = None,
    fraction: Fraction = None,
    img_size: ImgSize = None,
    seed: Annotated[int | None, typer.Option(help="Decides every random draw.")] = None,
    on_bad_image: OnBadImage = None,
    out: Out = None,
    resume: Resume = False,
    dry_run: DryRun = False,
    imports: Imports = None,
    settings: Settings = None,
) -> None:
    """Train or fine-tune a CNN on your own data, to be the teacher of `dearkd train`.

    **Example:** `dearkd teacher resnet18 --data photos/ --epochs 30 --out runs/my-teacher`

    then `dearkd train --data photos/ --teacher runs/my-teacher`
    """
    options = {
        "method": "ce",
        "student": "cnn" if model is None and init is None and not resume else model,
        "stage1": 20 if epochs is None and not resume else epochs,
        "stage2": 0 if not resume else None,
        "init": init,
        "seed": seed,
        "data.train": data,
        "data.evaluation": eval_data,
        "data.fraction": fraction,
        "data.img_size": img_size,
        "data.on_bad_image": on_bad_image,
        "optim.drop_path": None if resume else 0.0,
    }
    _train("teacher", None, options, out, resume, dry_run, imports, settings)


@app.command(name="eval")
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


app.command()(synthesize)


@app.callback(invoke_without_command=True)
def _top(
    version: Annotated[bool, typer.Option("--version", help="Show the version and leave.")] = False,
) -> None:
    if version:
        console.print(f"dearkd {dearkd.__version__}")
        raise typer.Exit


def _train(
    verb: Literal["train", "teacher"],
    path: Path | None,
    options: dict[str, Any],
    out: Path | None,
    resume: bool,
    dry_run: bool,
    imports: list[Path] | None,
    settings: list[str] | None,
) -> None:
    """Reads the run's configuration, then trains it or shows what it would do."""
    from dearkd import launch

    if imports:
        options["imports"] = [str(file) for file in imports]
    folder = None
    if resume:
        folder = RunFolder(out if out is not None else newest_unfinished())
        folder.check_free(resume=True)
        config = _resumed(folder, path, options, settings or [])
    else:
        config = load_config(path, settings or [], {**options, "out": text(out)})
    launch.train(config, console=console, folder=folder, resume=resume, dry_run=dry_run, stem=verb)


def _resumed(
    folder: RunFolder, path: Path | None, options: dict[str, Any], settings: list[str]
) -> TrainConfig:
    """The stored configuration; options typed beside ``--resume`` must agree with it."""
    stored = folder.read_config()
    if path is not None:
        raise ValueError(f"--resume takes the config stored in {folder.path}; leave {path} out")
    try:
        same = load_config(folder.config_file, settings, options) == stored
    except ValueError:  # does not even fit the stored settings
        same = False
    if not same:
        given = [f"{key}={value}" for key, value in options.items() if value is not None]
        raise ValueError(
            f"--resume keeps the settings stored in {folder.path}, which differ from "
            f"{', '.join([*given, *settings])}; leave them out or start a new run"
        )
    return stored

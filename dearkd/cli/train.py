"""The verbs ``dearkd train`` and ``dearkd teacher``."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal, NamedTuple

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
    console,
    text,
)
from dearkd.errors import UserError
from dearkd.training.method_names import METHOD_NAMES

if TYPE_CHECKING:
    from dearkd.config import TrainConfig
    from dearkd.run_folder.folder import RunFolder

__all__ = ["teacher", "train"]

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


class How(NamedTuple):
    """Options of the command that are no settings of the run."""

    out: Path | None
    resume: bool
    go_on: bool
    dry_run: bool
    trust: bool


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
        **_data_options(data, eval_data, fraction, img_size, on_bad_image),
        "teacher.name": teacher,
        "teacher.weights": text(teacher_weights),
    }
    how = How(out=out, resume=resume, go_on=go_on, dry_run=dry_run, trust=trust)
    _train("train", config, options, settings, imports, how)


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
        **_data_options(data, eval_data, fraction, img_size, on_bad_image),
        "optim.drop_path": 0.0 if bare else None,
    }
    how = How(out=out, resume=resume, go_on=go_on, dry_run=dry_run, trust=trust)
    _train("teacher", config, options, settings, imports, how)


def _data_options(
    data: str | None,
    eval_data: str | None,
    fraction: float | None,
    img_size: int | None,
    on_bad_image: str | None,
) -> dict[str, Any]:
    return {
        "data.train": data,
        "data.evaluation": eval_data,
        "data.fraction": fraction,
        "data.img_size": img_size,
        "data.on_bad_image": on_bad_image,
    }


def _train(
    verb: Literal["train", "teacher"],
    path: Path | None,
    options: dict[str, Any],
    settings: list[str] | None,
    imports: list[Path] | None,
    how: How,
) -> None:
    """Reads the run's configuration, then trains it or shows what it would do."""
    from dearkd.config import TrainConfig, load_config
    from dearkd.config_file import user_tree
    from dearkd.run_folder.folder import CONFIG_FILE, RunFolder, newest_unfinished
    from dearkd.run_folder.going_on import goes_on

    if imports:
        options["imports"] = [str(file) for file in imports]
    out, resume, folder = how.out, how.resume, None
    if how.go_on:
        typed = user_tree(TrainConfig, path, settings or [], {**options, "out": text(out)})
        out = Path(str(typed["out"])) if typed.get("out") else None
        resume = goes_on(out, CONFIG_FILE, resume=resume)
    if resume:
        folder = RunFolder(out if out is not None else newest_unfinished())
        folder.check_free(resume=True)
        config = _resumed(folder, path, options, settings or [], how.go_on)
    else:
        config = load_config(path, settings or [], {**options, "out": text(how.out)})
    from dearkd.training import train as door  # takes seconds: what is refused above is said first

    door.train(
        config,
        console=console,
        folder=folder,
        resume=resume,
        dry_run=how.dry_run,
        stem=verb,
        trust=how.trust,
    )


def _resumed(
    folder: "RunFolder",
    path: Path | None,
    options: dict[str, Any],
    settings: list[str],
    go_on: bool,
) -> "TrainConfig":
    """The configuration of a run that goes on."""
    from dearkd.config import TrainConfig
    from dearkd.config_file import user_tree
    from dearkd.training.resumed import resumed_config

    if path is not None and not go_on:
        raise UserError(f"--resume takes the config stored in {folder.path}; leave {path} out")
    given = user_tree(TrainConfig, path, settings, options)
    return resumed_config(folder, given, go_on=go_on)

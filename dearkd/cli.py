"""The ``dearkd`` command: verbs and the few options people type; everything else is ``--set``."""

from pathlib import Path
from typing import Annotated, Any, Literal, get_args

import typer
from rich.console import Console

import dearkd
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
console = Console(highlight=False, soft_wrap=True)

Config = Annotated[
    Path | None,
    typer.Argument(help="YAML file of the run; configs/train/ has the paper's recipes."),
]
Data = Annotated[
    str | None,
    typer.Option(
        help="digits, an image folder (train/, val/), a folder of parquet files, or a timm name "
        "(torch/cifar10, hfds/..., wds/...)."
    ),
]
EvalData = Annotated[
    str | None, typer.Option(help="Evaluate on this instead of the data's own split.")
]
Out = Annotated[Path | None, typer.Option(help="Run folder; default: a new one under runs/.")]
Resume = Annotated[
    bool,
    typer.Option("--resume", help="Go on with the run in --out (default: the newest unfinished)."),
]
Settings = Annotated[
    list[str] | None,
    typer.Option("--set", metavar="KEY=VALUE", help="Any field of the config, e.g. optim.lr=3e-4."),
]
Imports = Annotated[
    list[Path] | None,
    typer.Option("--import", help="Python file run first; it may register your models with timm."),
]
ImgSize = Annotated[int | None, typer.Option(help="Pixels a side; default: the model's own.")]
Fraction = Annotated[
    float | None,
    typer.Option(help="Train on this share of every class: the same images for every seed."),
]
OnBadImage = Annotated[
    str | None, typer.Option(metavar="skip|fail", help="An unreadable image: replace it, or stop.")
]
DryRun = Annotated[
    bool,
    typer.Option("--dry-run", help="Show config, sizes, FLOPs, steps, time, memory; train not."),
]


def main() -> None:
    """Entry point of the installed command."""
    app()


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
        "teacher.weights": _text(teacher_weights),
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


@app.command()
@guarded
def synthesize(
    config: Annotated[
        Path | None, typer.Argument(help="YAML file of the run; configs/synth/ has examples.")
    ] = None,
    teacher: Annotated[
        str | None,
        typer.Option(help="timm CNN with BatchNorm, or a run folder; default: embedded digits."),
    ] = None,
    teacher_weights: Annotated[
        Path | None, typer.Option(help="The teacher's weights: safetensors or a .pth state dict.")
    ] = None,
    res: Annotated[
        str | None,
        typer.Option(metavar="112,224", help="Pixels a side, stage by stage; the teacher's own."),
    ] = None,
    iters: Annotated[
        str | None, typer.Option(metavar="2000,2000", help="Iterations of each stage.")
    ] = None,
    per_class: Annotated[int | None, typer.Option(help="Images of each class.")] = None,
    classes: Annotated[
        str | None,
        typer.Option(metavar="all|0-99|names.txt", help="Teacher's classes, or a file of names."),
    ] = None,
    images_per_batch: Annotated[
        int | None, typer.Option(help="At most so many images side by side.")
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
    auto_weights: Annotated[
        bool, typer.Option("--auto-weights", help="Tune bn_weight for this teacher in pilot runs.")
    ] = False,
    allow_no_bn: Annotated[
        bool, typer.Option("--allow-no-bn", help="Go on with a teacher that has no BatchNorm.")
    ] = False,
    seed: Annotated[int | None, typer.Option(help="Decides every random draw.")] = None,
    out: Annotated[
        Path | None, typer.Option(help="Folder of the images; default: a new one under runs/.")
    ] = None,
    resume: Annotated[
        bool,
        typer.Option("--resume", help="Go on with the set in --out (default: newest unfinished)."),
    ] = False,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Show config, groups, time and memory; make nothing.")
    ] = False,
    imports: Imports = None,
    settings: Settings = None,
) -> None:
    """Make training images from a trained CNN alone: DeepInversion with DF-DearKD's losses.

    Everything is optional: `dearkd synthesize` alone runs on an embedded digits CNN.

    **Example:** `dearkd synthesize --teacher resnet50.a1_in1k --res 112,224 --classes 0-99`

    then `dearkd train --data runs/synth-resnet50-1 --teacher resnet50.a1_in1k`
    """
    from dearkd import synthesize as door

    options = {
        "teacher.name": teacher,
        "teacher.weights": _text(teacher_weights),
        "verifier.name": verifier,
        "verifier.weights": _text(verifier_weights),
        "student.name": student,
        "resolutions": res,
        "iterations": iters,
        "per_class": per_class,
        "select": classes,
        "images_per_batch": images_per_batch,
        "objective.auto_weights": auto_weights or None,
        "allow_no_bn": allow_no_bn or None,
        "seed": seed,
        "imports": [str(file) for file in imports] if imports else None,
    }
    door.synthesize(
        config, settings or [], options, console=console, out=out, resume=resume, dry_run=dry_run
    )


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
        config = load_config(path, settings or [], {**options, "out": _text(out)})
    launch.train(config, console=console, folder=folder, resume=resume, dry_run=dry_run, stem=verb)


def _resumed(
    folder: RunFolder, path: Path | None, options: dict[str, Any], settings: list[str]
) -> TrainConfig:
    """The stored configuration; options typed beside ``--resume`` must agree with it."""
    stored = folder.read_config()
    if path is not None:
        raise ValueError(f"--resume takes the config stored in {folder.path}; leave {path} out")
    asked = load_config(folder.config_file, settings, options)
    if asked != stored:
        given = [f"{key}={value}" for key, value in options.items() if value is not None]
        raise ValueError(
            f"--resume keeps the settings stored in {folder.path}, which differ from "
            f"{', '.join([*given, *settings])}; leave them out or start a new run"
        )
    return stored


def _text(value: Path | None) -> str | None:
    return None if value is None else str(value)

"""Options that several verbs share."""

from pathlib import Path
from typing import Annotated, Any, Literal

import typer
from rich.console import Console

__all__ = [
    "IMAGES",
    "RUN",
    "AsJson",
    "Config",
    "Data",
    "DryRun",
    "EvalData",
    "Fraction",
    "GoOn",
    "ImgSize",
    "Imports",
    "OnBadImage",
    "Out",
    "Resume",
    "Seed",
    "Settings",
    "TeacherWeights",
    "Trust",
    "Weights",
    "Which",
    "console",
    "error_console",
    "run_imports",
    "text",
]

IMAGES, RUN = "Images", "The run"
"""Boxes of options in a verb's help."""

PLAIN: dict[str, Any] = {
    "highlight": False,
    "soft_wrap": True,
    "markup": False,
    "emoji": False,
}
"""Text as it is: a path may have square brackets, or a number between two colons."""
console = Console(**PLAIN)

Config = Annotated[
    Path | None,
    typer.Argument(help="YAML file of the run; configs/train/ has the paper's recipes."),
]
Data = Annotated[
    str | None,
    typer.Option(
        help="digits, an image folder (train/, val/; or pictures without labels), parquet files, "
        "WebDataset tars, or a timm name (torch/cifar10, hfds/...).",
        rich_help_panel=IMAGES,
    ),
]
EvalData = Annotated[
    str | None,
    typer.Option(help="Evaluate on this instead of the data's own split.", rich_help_panel=IMAGES),
]
Out = Annotated[
    Path | None,
    typer.Option(help="Folder to write; default: a new one under runs/.", rich_help_panel=RUN),
]
Resume = Annotated[
    bool,
    typer.Option(
        "--resume",
        help="Go on in the folder --out (default: the newest unfinished).",
        rich_help_panel=RUN,
    ),
]
GoOn = Annotated[
    bool,
    typer.Option(
        "--go-on",
        help="Start, or go on if --out is begun, or leave it if done: for scripts.",
        rich_help_panel=RUN,
    ),
]
Settings = Annotated[
    list[str] | None,
    typer.Option(
        "--set",
        metavar="KEY=VALUE",
        help="Any field of the config, e.g. optim.lr=3e-4.",
        rich_help_panel=RUN,
    ),
]
Seed = Annotated[int | None, typer.Option(help="Decides every random draw.", rich_help_panel=RUN)]
TeacherWeights = Annotated[
    Path | None, typer.Option(help="The teacher's weights: safetensors or a .pth state dict.")
]
Weights = Annotated[
    Path | None, typer.Option(help="Local weights for a timm name: safetensors or .pth.")
]
Which = Annotated[
    Literal["final", "best", "raw"] | None,
    typer.Option(
        help="A run's final weights (EMA if on; the default), best, or without EMA.",
    ),
]
AsJson = Annotated[bool, typer.Option("--json", help="Print the result as JSON.")]
Imports = Annotated[
    list[Path] | None,
    typer.Option(
        "--import",
        help="Python file run first; it may register your models with timm.",
        rich_help_panel=RUN,
    ),
]
Trust = Annotated[
    bool,
    typer.Option(
        "--trust",
        help="Run code that comes with a network: .pt2, a run's imports.",
        rich_help_panel=RUN,
    ),
]
ImgSize = Annotated[
    int | None,
    typer.Option(help="Pixels a side; default: the model's own.", rich_help_panel=IMAGES),
]
Fraction = Annotated[
    float | None,
    typer.Option(
        help="Train on this share of every class: the same images for every seed.",
        rich_help_panel=IMAGES,
    ),
]
OnBadImage = Annotated[
    Literal["skip", "fail"] | None,
    typer.Option(help="An unreadable image: replace it, or stop.", rich_help_panel=IMAGES),
]
DryRun = Annotated[
    bool,
    typer.Option(
        "--dry-run", help="Show config, sizes, time and memory; write nothing.", rich_help_panel=RUN
    ),
]


def error_console() -> Console:
    """A console on stderr, made anew for each use: it keeps the stream that it finds."""
    return Console(stderr=True, **PLAIN)


def text(value: Path | None) -> str | None:
    """A path as the config holds it."""
    return None if value is None else str(value)


def run_imports(files: list[Path] | None) -> None:
    """Runs the files of ``--import``, which may register models.

    Raises:
        MissingFileError: If one does not exist.
        UnusableImportError: If one fails.
    """
    from dearkd.trained.imports import import_files

    import_files(map(str, files or ()))

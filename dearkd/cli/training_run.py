"""A training run as `dearkd train` and `dearkd teacher` start it, or go on with it."""

from pathlib import Path
from typing import Any, Literal, NamedTuple

from dearkd.cli.options import console, text

__all__ = ["How", "data_options", "start"]


class How(NamedTuple):
    """Options of the command that are no settings of the run."""

    out: Path | None
    resume: bool
    go_on: bool
    dry_run: bool
    trust: bool


def data_options(
    data: str | None,
    eval_data: str | None,
    fraction: float | None,
    img_size: int | None,
    on_bad_image: str | None,
) -> dict[str, Any]:
    """The settings that the options of the images stand for."""
    return {
        "data.train": data,
        "data.evaluation": eval_data,
        "data.fraction": fraction,
        "data.img_size": img_size,
        "data.on_bad_image": on_bad_image,
    }


def start(
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
    from dearkd.run_folder.going_on import check_typed, goes_on

    if imports:
        options["imports"] = [str(file) for file in imports]
    out, resume, folder = how.out, how.resume, None
    if how.go_on:
        typed = user_tree(TrainConfig, path, settings or [], {**options, "out": text(out)})
        out = Path(str(typed["out"])) if typed.get("out") else None
        resume = goes_on(out, CONFIG_FILE, resume=resume)
    if resume:
        check_typed(path, go_on=how.go_on)
        folder = RunFolder(out if out is not None else newest_unfinished())
        folder.check_free(resume=True)
        from dearkd.training.resumed import resumed_config

        given = user_tree(TrainConfig, path, settings or [], options)
        config = resumed_config(folder, given, go_on=how.go_on)
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

"""The verb ``dearkd sweep``."""

from pathlib import Path
from typing import Annotated, Any

import typer

from dearkd.cli.guard import guarded
from dearkd.cli.options import Data, EvalData, Imports, Settings, Trust, console, text
from dearkd.errors import UserError
from dearkd.said import command

__all__ = ["sweep"]

OF_THE_TABLE = ("record", "out")
"""Options that say where the record is; all others are of the training."""


@guarded
def sweep(
    study: Annotated[
        Path, typer.Argument(help="YAML file of the study; configs/studies/ has some.")
    ],
    data: Data = None,
    eval_data: EvalData = None,
    teacher: Annotated[
        str | None, typer.Option(help="Of the arms that have one: timm name, or a run's folder.")
    ] = None,
    cache_labels: Annotated[
        Path | None,
        typer.Option(
            help="Folder for the teacher's answers, which arms of one seed and the same images "
            "then share, if all learn from labels or all from logits."
        ),
    ] = None,
    jobs: Annotated[
        int,
        typer.Option(
            help="Runs side by side, each with its share of the cores' threads: on two cores two "
            "runs of one thread get through more.",
            min=1,
        ),
    ] = 1,
    only: Annotated[
        list[str] | None, typer.Option(metavar="ARM", help="Train this arm now (repeatable).")
    ] = None,
    seed: Annotated[
        list[int] | None, typer.Option(help="Train the runs of this seed now (repeatable).")
    ] = None,
    fraction: Annotated[
        list[float] | None,
        typer.Option(help="Train the runs on this share of the images now (repeatable)."),
    ] = None,
    record: Annotated[
        Path | None,
        typer.Option(
            help="JSON file that keeps every finished run's numbers: what is in it is not trained "
            "again, even if its folder is gone; default: runs/STUDY.json."
        ),
    ] = None,
    test: Annotated[
        str | None,
        typer.Option(help="Test images that nothing was chosen on: each run reads them once."),
    ] = None,
    out: Annotated[
        Path | None, typer.Option(help="Folder for the runs' folders; default: runs/STUDY.")
    ] = None,
    table: Annotated[
        bool, typer.Option("--table", help="Print the record's table as Markdown; train nothing.")
    ] = False,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Show the runs and what each takes; write nothing.")
    ] = False,
    imports: Imports = None,
    trust: Trust = False,
    settings: Settings = None,
) -> None:
    """Compare: arms x seeds x fractions of one study, with means, intervals and curves at the end.

    Finished runs are skipped and interrupted ones go on: the same command again.

    **Example:** `dearkd sweep configs/studies/few_images.yaml --data cifar/ --teacher runs/cnn`
    """
    from dearkd.sweep import sweep as door

    options = {
        "data.train": data,
        "data.evaluation": eval_data,
        "teacher.name": teacher,
        "cache_labels": text(cache_labels),
        "imports": [str(file) for file in imports] if imports else None,
    }
    typed = {
        "data": data,
        "eval-data": eval_data,
        "teacher": teacher,
        "cache-labels": cache_labels,
        "record": record,
        "test": test,
        "out": out,
        "jobs": jobs if jobs > 1 else None,
    }
    words = [
        word for key, value in typed.items() if value is not None for word in (f"--{key}", value)
    ]
    repeated = {
        "only": only,
        "seed": seed,
        "fraction": fraction,
        "import": imports,
        "set": settings,
    }
    words += [
        word
        for key, values in repeated.items()
        for v in values or ()
        for word in (f"--{key}", str(v))
    ]
    request = door.Request(
        study=study,
        options=options,
        settings=settings or (),
        out=out,
        record=record,
        jobs=jobs,
        only=only or (),
        seeds=seed or (),
        fractions=fraction or (),
        test=test,
        trust=trust,
        again=command("dearkd", "sweep", study, *words, *(["--trust"] if trust else [])),
    )
    if table:
        given: dict[str, Any] = {**typed, **repeated, "dry-run": dry_run, "trust": trust}
        for key, value in given.items():
            if value and key not in OF_THE_TABLE:
                raise UserError(
                    f"--{key} has no effect with --table, which trains nothing; leave --{key} out"
                )
        door.print_table(request, console=console)
    elif not door.sweep(request, console=console, dry_run=dry_run):
        raise typer.Exit(1)

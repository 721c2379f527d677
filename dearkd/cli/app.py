"""The ``dearkd`` command: verbs and the few options people type; everything else is ``--set``."""

import importlib.metadata
import sys
from typing import Annotated

import typer

from dearkd.cli.analyze import analyze
from dearkd.cli.distill import distill
from dearkd.cli.doctor import doctor
from dearkd.cli.eval import evaluate
from dearkd.cli.export import export
from dearkd.cli.options import console
from dearkd.cli.predict import predict
from dearkd.cli.report import report
from dearkd.cli.sweep import sweep
from dearkd.cli.synthesize import synthesize
from dearkd.cli.teacher import teacher
from dearkd.cli.train import train
from dearkd.cli.verify import verify
from dearkd.run_folder.stop import INTERRUPTED

__all__ = ["STORY", "app", "run"]

STORY = """From a CNN you trust and few images, or none, to a vision transformer nearly as good.

The verbs, each with an example, in the order of a story:

- Is this machine ready? `dearkd doctor`

- A CNN of your own (or take one of timm's): `dearkd teacher resnet18 --data photos/ --out runs/cnn`

- A transformer that learns from it: `dearkd train --data photos/ --teacher runs/cnn --out runs/vit`

- No photos? Make some from the CNN alone, then train on them:
  `dearkd synthesize --teacher runs/cnn --out runs/made`

- Both in turns, harder images each time: `dearkd distill --teacher runs/cnn --out runs/free`

- How good is it? `dearkd eval runs/vit`

- What did its attention learn? `dearkd analyze runs/vit`

- Is one way better than another? `dearkd sweep configs/studies/digits_seeds.yaml`

- Everything on one page, to look at and to send: `dearkd report runs/cnn runs/vit`

- What does it see in this picture? `dearkd predict runs/vit holiday.jpg`

- Is this run what it says it is? `dearkd verify runs/vit`

- Take it elsewhere: `dearkd export runs/vit --to onnx --out vit.onnx`

`dearkd train` and `dearkd synthesize` alone run on embedded handwritten digits. What a verb can do
besides: `dearkd train --help`. Completion by the TAB key: `dearkd --install-completion`.
"""

app = typer.Typer(
    name="dearkd",
    help=STORY,
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode="markdown",
)
app.command()(doctor)
app.command()(teacher)
app.command()(train)
app.command()(synthesize)
app.command()(distill)
app.command(name="eval")(evaluate)
app.command()(analyze)
app.command()(sweep)
app.command()(report)
app.command()(predict)
app.command()(verify)
app.command()(export)


def run() -> None:
    """Runs the typed command and exits; a mistyped option is answered in one line."""
    try:
        code = app(standalone_mode=False, prog_name="dearkd")
    except typer.exceptions.TyperException as error:
        message = " ".join(getattr(error, "format_message", error.__str__)().split()).rstrip(".")
        message = message.replace(": Value error, ", ": ")  # pydantic's, in front of ours
        context = getattr(error, "ctx", None)
        verb = context.command_path if context is not None else "dearkd"
        if message:  # none where the help is shown instead
            sys.stderr.write(f"error: {message}; see {verb} --help\n")
        sys.exit(2)
    except typer.Abort:  # Ctrl-C
        sys.exit(INTERRUPTED)
    sys.exit(code or 0)


@app.callback(invoke_without_command=True)
def _top(
    version: Annotated[bool, typer.Option("--version", help="Show the version and leave.")] = False,
) -> None:
    if version:
        console.print(f"dearkd {importlib.metadata.version('dearkd')}")
        raise typer.Exit

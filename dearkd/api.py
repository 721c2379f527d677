"""The doors from Python: ``train``, ``synthesize`` and ``evaluate``, quiet unless told otherwise.

    from dearkd import evaluate, synthesize, train

    run = train(data="photos/", teacher="runs/cnn", stage1=40, stage2=10)
    print(run.summary["top1"], run.folder)
    scores = evaluate(run.folder)

Each takes a configuration, or its fields as keywords: ``data`` and ``teacher`` are what the options
of that name are, and a dotted field is written with two underscores (``optim__lr=3e-4``). A field
that is None takes the place of what a file says; an option that is None is not given.
"""

from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from rich.console import Console
from torch import nn

from dearkd.config import TrainConfig, load_config
from dearkd.config_file import user_tree
from dearkd.data.loaders import OnBadImage
from dearkd.data.synthetic_set import read_set
from dearkd.errors import UserError
from dearkd.judging.eval import evaluate_target
from dearkd.models.teacher import Teacher
from dearkd.run_folder.folder import RunFolder
from dearkd.synthesis.synthesize import synthesize as synthesize_set
from dearkd.trained.open import open_trained
from dearkd.trained.resolve import resolve
from dearkd.trained.trained import Trained
from dearkd.training.resumed import resumed_config
from dearkd.training.train import train as train_run

__all__ = ["Run", "SyntheticImages", "evaluate", "synthesize", "train"]

SHORT = {
    "data": "data.train",
    "eval_data": "data.evaluation",
    "teacher": "teacher.name",
    "teacher_weights": "teacher.weights",
    "verifier": "verifier.name",
    "verifier_weights": "verifier.weights",
    "epochs": "switch.epochs",
    "res": "resolutions",
    "iters": "iterations",
}
"""Keywords that are named as the options of the command line are."""
MOVED = ("data", "eval_data", "teacher", "teacher_weights")
"""Keywords that a run which goes on may have otherwise."""


@dataclass(frozen=True)
class Run:
    """A finished training run."""

    folder: Path

    @property
    def config(self) -> TrainConfig:
        """The configuration, with the values that were chosen for its defaults."""
        return RunFolder(self.folder).read_config()

    @property
    def summary(self) -> dict[str, Any]:
        """Result, cost and origin: top1, heads, seconds, commit and more."""
        return RunFolder(self.folder).read_summary()

    @property
    def metrics(self) -> list[dict[str, Any]]:
        """One entry for each epoch: losses, learning rate, seconds, and accuracy where measured."""
        return RunFolder(self.folder).read_metrics()

    @cached_property
    def trained(self) -> Trained:
        """The student with its class names, view and image size."""
        return open_trained(resolve(str(self.folder), "run"))

    @property
    def model(self) -> nn.Module:
        """The trained student in eval mode, from normalised images to logits (batch, classes)."""
        return self.trained.network

    @cached_property
    def teacher(self) -> Trained | None:
        """The network that it learned from; None without one, or where it was made in Python."""
        named = self.config.teacher
        if named.name is None:
            return None
        return open_trained(resolve(named.name, weights=named.weights_file))


@dataclass(frozen=True)
class SyntheticImages:
    """A finished set of images made from a network; ``folder`` can be trained on."""

    folder: Path

    @property
    def manifest(self) -> dict[str, Any]:
        """Every image with its class and verdicts, and the quality of the set.

        Raises:
            UserError: If it is gone or damaged.
        """
        found = read_set(self.folder)
        if found is None or not found.finished or found.damage is not None:
            raise UserError(f"{self.folder} has no sound manifest; make the set again")
        return found.manifest


def train(
    config: TrainConfig | Path | str | None = None,
    *,
    teacher: str | Teacher | None = None,
    resume: bool = False,
    trust: bool = False,
    console: Console | None = None,
    **fields: Any,
) -> Run:
    """Trains a student and returns its run, as `dearkd train` does.

    ``config`` is a configuration, the path of a YAML file, or None. ``fields`` lie over it: any
    field of the configuration, and ``data``, ``eval_data`` and ``teacher_weights`` as the command's
    options. ``teacher`` is a name, a run folder, or a ``Teacher``. ``resume`` goes on with the run
    in ``out``, whose images and teacher may have moved. What happens is printed to ``console``; by
    default nothing is printed.

    Raises:
        UserError: Anything wrong with the configuration, the data or the folder.
    """
    given = teacher if isinstance(teacher, Teacher) else None
    if given is None and teacher is not None:
        fields["teacher"] = str(teacher)
    told = console or Console(quiet=True)
    if resume:
        if config is not None or "out" not in fields or not fields.keys() <= {"out", *MOVED}:
            raise UserError(
                "resume takes out, the folder of the run, and where its images and teacher lie "
                f"now: {', '.join(MOVED)}"
            )
        folder = RunFolder(Path(fields.pop("out")))
        folder.check_free(resume=True)
        train_run(
            resumed_config(folder, user_tree(TrainConfig, None, (), _options(fields))),
            console=told,
            folder=folder,
            resume=True,
            trust=trust,
            teacher=given,
        )
        return Run(folder.path)
    if isinstance(config, TrainConfig):
        if fields:
            raise UserError(
                f"{', '.join(fields)} cannot be given beside a TrainConfig; use "
                "dataclasses.replace(config, ...), or pass a YAML file"
            )
    else:
        path = None if config is None else Path(config)
        config = load_config(path, _emptied(fields), _options(fields))
    done = train_run(config, console=told, trust=trust, teacher=given)
    assert done is not None  # it was no dry run
    return Run(done.path)


def synthesize(
    config: Path | str | None = None,
    *,
    resume: bool = False,
    trust: bool = False,
    console: Console | None = None,
    out: Path | str | None = None,
    **fields: Any,
) -> SyntheticImages:
    """Makes images from a trained network alone and returns the set, as `dearkd synthesize` does.

    ``config`` is the path of a YAML file or None; ``fields`` lie over it: any field of the
    configuration, and ``teacher``, ``teacher_weights``, ``verifier``, ``res`` and ``iters``.

    Raises:
        UserError: Anything wrong with the configuration, the networks or the folder.
    """
    folder = synthesize_set(
        None if config is None else Path(config),
        _emptied(fields),
        _options(fields),
        console=console or Console(quiet=True),
        out=None if out is None else Path(out),
        resume=resume,
        trust=trust,
    )
    assert folder is not None
    return SyntheticImages(folder)


def evaluate(
    target: Run | Path | str,
    *,
    data: Path | str | None = None,
    weights: Path | str | None = None,
    which: str | None = None,
    img_size: int | None = None,
    batch_size: int | None = None,
    on_bad_image: OnBadImage | None = None,
    trust: bool = False,
    console: Console | None = None,
) -> dict[str, dict[str, float]]:
    """Top-1 and top-5 in percent of a run or a timm model, by head, as `dearkd eval` gives them.

    Each keyword is what the option of that name is.

    Raises:
        UserError: If the target is unknown, or has no weights or evaluation data.
    """
    name = target.folder if isinstance(target, Run) else target
    return evaluate_target(
        str(name),
        console=console or Console(quiet=True),
        data=None if data is None else str(data),
        weights=None if weights is None else Path(weights),
        which=which,
        img_size=img_size,
        batch_size=batch_size,
        on_bad_image=on_bad_image,
        trust=trust,
    )


def _options(fields: dict[str, Any]) -> dict[str, Any]:
    """Keywords as dotted fields of the configuration, whose reader leaves out what is None."""
    options = {
        SHORT.get(name, name.replace("__", ".")): str(value) if isinstance(value, Path) else value
        for name, value in fields.items()
    }
    if isinstance(imports := options.get("imports"), str):
        options["imports"] = [imports]
    return options


def _emptied(fields: dict[str, Any]) -> list[str]:
    """Settings for the fields of the configuration that are to be None, whatever a file says.

    Of the keywords that are named as options, None says that the option is not given.
    """
    names = [name for name, value in fields.items() if value is None and name not in SHORT]
    return [f"{name.replace('__', '.')}=null" for name in names]

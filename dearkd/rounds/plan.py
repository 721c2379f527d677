"""What a run in rounds takes, before anything is made: every choice, every mistake, the time.

Both parts are tried: a few steps of its images, with and without a student, and a few training
steps on blank images.
"""

import dataclasses
import io
import json
import re
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from accelerate import PartialState
from PIL import Image

from dearkd.data.sizes import patch_size
from dearkd.data.synthetic_set import MANIFEST_FILE
from dearkd.errors import UserError
from dearkd.rounds.folder import Round
from dearkd.rounds.settings import RoundsConfig, image_options, training, with_recipe
from dearkd.run_folder.moved import naming_the_new_place, noted_fingerprints
from dearkd.synthesis.forecast import forecast, work_of
from dearkd.synthesis.setup import Setup, prepare
from dearkd.trained.resolve import EMBEDDED
from dearkd.training.arithmetic import place_models, with_arithmetic
from dearkd.training.build import Parts, build
from dearkd.training.dry_run import estimate
from dearkd.training.fingerprints import check_fingerprints, fingerprints
from synth.classifier import Classifier
from synth.refusal import SynthError
from synth.shards import shard_bytes
from synth.writer import class_folders

__all__ = ["NEW", "Plan", "as_typed", "plan"]

NEW = "--teacher NEW (or --teacher-weights, --eval-data NEW)"
"""The options that name the new place of a teacher, or of the evaluation images."""

TYPED = {
    "synth": {
        "--iters": "--set synth.iterations=[N]",
        "--fast": "--set synth.fast=true",
        "--recipe ": "--set synth.recipe=",
        "--engine ": "--set synth.engine=",
        "--allow-no-bn": "--set synth.allow_no_bn=true",
        "--images-per-batch": "--set synth.images_per_batch=N",
        "--set ": "--set synth.",
    },
    "train": {
        "--stage1": "--epochs",
        "--stage2": "--set train.stage2=N",
        "--recipe paper": "--set train.recipe=paper",
        "--img-size": "--res",
        "data.evaluation": "--eval-data",
        "--set ": "--set train.",
    },
}
"""What the parts' errors name, and how it is typed here."""


@dataclass(frozen=True)
class Plan:
    """A run in rounds with every choice made, and what its parts take."""

    config: RoundsConfig
    images: int
    """That a round adds."""
    set_seconds: tuple[float, ...]
    """Of each round's set."""
    student_seconds: tuple[float, ...]
    """Of each round's training."""
    notes: tuple[str, ...]
    """What was chosen for the user."""


def plan(
    config: RoundsConfig, state: PartialState, *, trust: bool = False, begun: Path | None = None
) -> Plan:
    """Opens the networks, tries both parts and counts what all rounds take.

    ``begun``: the folder of a run that goes on, whose evaluation images may have moved.

    Raises:
        UserError: What either part would refuse.
        MissingFileError: If a path does not exist.
    """
    config, notes = _with_evaluation(with_recipe(config))
    first = Round(Path("runs"), 1)  # nothing of it is read or written
    with as_typed("synth"):
        setup = prepare(None, *image_options(config, first), trust=trust)
        size = setup.config.resolutions[-1]
        if config.res is None and size % patch_size(size):  # a student has whole patches
            config = dataclasses.replace(config, res=size // patch_size(size) * patch_size(size))
            setup = prepare(None, *image_options(config, first))
    config = dataclasses.replace(
        config, res=setup.config.resolutions[-1], per_class=setup.config.per_class
    )
    images = sum(len(group.targets) for group in setup.groups)
    moved = naming_the_new_place("distill", begun, NEW)
    with as_typed("train"), moved, _blank_set(setup, images) as data:
        # What the teacher brings along was run when it was opened first.
        parts = build(training(config, first, data))
        if begun is not None:
            _check_evaluation(parts, Round(begun, 1))
        config = dataclasses.replace(
            config, student=parts.config.student, epochs=parts.config.lengths[0]
        )
        found, rate = _training_costs(parts, state)
    chosen = f"student {config.student}, {config.res} px, {config.epochs} epochs a round"
    with as_typed("synth"):
        work = work_of(setup)
        seconds = [forecast(setup, state.device, work).seconds]
        if config.rounds > 1:
            rival = _with_rival(setup, parts, config.adversary_weight)
            seconds += [forecast(rival, state.device, work).seconds] * (config.rounds - 1)
    more = parts.config.epochs * images / rate
    return Plan(
        config=config,
        images=images,
        set_seconds=tuple(seconds),
        student_seconds=tuple(found + more * number for number in range(config.rounds)),
        notes=(*notes, chosen),
    )


@contextmanager
def as_typed(part: Literal["synth", "train"]) -> Iterator[None]:
    """Errors raised inside are raised again with a part's settings named as they are typed here."""
    try:
        yield
    except (UserError, SynthError) as error:
        text = str(error)
        pattern = "|".join(map(re.escape, TYPED[part]))
        text = re.sub(pattern, lambda found: TYPED[part][found[0]], text)
        if text == str(error):
            raise
        raise UserError(text) from error


def _check_evaluation(parts: Parts, first: Round) -> None:
    """Refuses to judge later rounds by other images than the first one.

    Raises:
        UserError: Naming the option.
    """
    key = "data.evaluation"
    noted = noted_fingerprints(first.student.sessions())
    check_fingerprints({key: fingerprints(parts)[key]}, noted)


def _with_evaluation(config: RoundsConfig) -> tuple[RoundsConfig, list[str]]:
    """Judges students of the embedded digits CNN on the real digits, where nothing else is said."""
    embedded = config.teacher.name in (None, EMBEDDED)
    notes = []
    if config.teacher.name is None:
        notes.append("teacher: the embedded digits CNN (--teacher: yours)")
        teacher = dataclasses.replace(config.teacher, name=EMBEDDED)
        config = dataclasses.replace(config, teacher=teacher)
    if not embedded or config.evaluation is not None or config.synth.keys() & {"select", "classes"}:
        return config, notes
    notes.append("judged on the real digits, which no round trains on (--eval-data names others)")
    return dataclasses.replace(config, evaluation=EMBEDDED), notes


def _training_costs(parts: Parts, state: PartialState) -> tuple[float, float]:
    """Seconds of the training of the first round, and images a second."""
    parts, _ = with_arithmetic(parts, state.device, state.num_processes)
    place_models(parts, state.device)
    found = estimate(parts, state)
    return found.seconds, min(found.rates.values())


def _with_rival(setup: Setup, parts: Parts, weight: float) -> Setup:
    """The set of a later round: the new student competes, who costs what a trained one does."""
    if not weight:
        return setup
    trained = parts.trained()
    rival = Classifier(
        name=trained.name,
        network=trained.network.eval(),
        mean=tuple(trained.view["mean"]),
        std=tuple(trained.view["std"]),
        img_size=trained.img_size,
        num_classes=trained.num_classes,
    )
    objective = dataclasses.replace(setup.synthesis.objective, adversary_weight=weight)
    sizes = setup.synthesis.resolutions
    synthesis = dataclasses.replace(
        setup.synthesis, objective=objective, resolutions=sizes[-1:] * len(sizes)
    )
    return dataclasses.replace(setup, synthesis=synthesis, student=rival)


@contextmanager
def _blank_set(setup: Setup, images: int) -> Iterator[Path]:
    """A set as large as a round's, of blank images, in a temporary folder."""
    size, teacher = setup.config.resolutions[-1], setup.teacher
    blank = io.BytesIO()
    Image.new("RGB", (size, size)).save(blank, "PNG")
    targets = [target for group in setup.groups for target in group.targets]
    names = teacher.class_names or class_folders(None, teacher.num_classes)
    manifest: dict[str, Any] = {
        "config": {"flip_probability": setup.config.flip_probability},
        "class_names": teacher.class_names,
        "images": [],
    }
    with tempfile.TemporaryDirectory() as folder:
        rows = shard_bytes(["blank.png"] * images, [blank.getvalue()] * images, targets, names)
        Path(folder, "images.parquet").write_bytes(rows)
        Path(folder, MANIFEST_FILE).write_text(json.dumps(manifest), encoding="utf-8")
        yield Path(folder)

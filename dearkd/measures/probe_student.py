"""What a set of images teaches: the top-1 of a small student on real images, after a fixed budget.

The student, its first weights, the steps, the batch and the views are the same for every set, and
the teacher's soft labels are all that it learns from. So of two sets of one teacher the one with
the higher number teaches more in that budget. It is a means to compare sets and no forecast of what
a larger student reaches in a longer run.
"""

import copy
import tempfile
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, NamedTuple

from accelerate import Accelerator

from dearkd.config import TrainConfig
from dearkd.data.loaders import OnBadImage
from dearkd.data.settings import DataConfig
from dearkd.data.sizes import SMALL
from dearkd.data.synthetic_set import read_set
from dearkd.errors import UserError
from dearkd.judging.evaluate import evaluate
from dearkd.models.create import model_cfg
from dearkd.run_folder.folder import RunFolder
from dearkd.run_folder.provenance import commit
from dearkd.said import counted, seconds_text
from dearkd.trained.open_teacher import open_teacher
from dearkd.trained.resolve import Resolved
from dearkd.training.arithmetic import place_models, with_arithmetic
from dearkd.training.batches import evaluation_images, training_batches
from dearkd.training.build import Parts, build
from dearkd.training.dry_run import estimate
from dearkd.training.loop import Trainer
from dearkd.training.passes import Passes
from dearkd.training.paths import rooted
from dearkd.training.settings import DistillConfig, TeacherConfig
from dearkd.training.stages import Position

__all__ = ["ProbeRequest", "ProbeStudent", "open_probe"]

STUDENT = "dearkd_resnet10t_32"
"""Departure: a CNN of 15 million multiply-adds at 32 px, 0.09 core-seconds a step of 64 there. A
micro student of four blocks takes 0.30, and of 600 such steps a CIFAR-10 transformer learns little.
On digits (seed 0) 1,000 images of a generator gave 98.3 %, 100 of them 96.9, all 1,000 under noise
82.5; the four blocks 58.8 from the first."""
STEPS, BATCH = 600, 64
LEAST = 8
"""Pixels a side that the student halves three times."""
TEMPERATURE = 4.0


class ProbeRequest(NamedTuple):
    """What a probe student learns from, and what it is read on."""

    data: str
    """The set, as ``dearkd train --data`` takes it."""
    against: str
    """Real labelled images."""
    teacher: Resolved
    seed: int
    on_bad_image: OnBadImage


@dataclass(frozen=True)
class ProbeStudent:
    """A student that is ready to learn, and the images that it learns from and is read on."""

    parts: Parts
    accelerator: Accelerator
    teacher: str
    """Its teacher, as an absolute path where it is one."""
    seconds: float
    """What it takes, estimated from steps that were really made."""

    @property
    def views(self) -> int:
        """Views that the student sees."""
        return STEPS * BATCH

    @property
    def forecast(self) -> str:
        """What it is, and how long it takes, in a line."""
        config, images = self.parts.config, counted(len(self.parts.train), "image")
        return (
            f"probe student: {config.student} on {images} of {config.data.img_size} px, {STEPS} "
            f"steps of {BATCH}, about {seconds_text(self.seconds)}"
        )

    def result(self, advance: Callable[[int], None]) -> dict[str, Any]:
        """Trains the student and reads it: ``probe_top1`` in percent, and under ``probe`` the rest.

        ``advance`` is called with the number of views of each step. Nothing that is written on the
        way is kept.

        Raises:
            Interrupted: After Ctrl-C or SIGTERM.
            UserError: If the loss is not finite, or an image is bad and may not be.
        """
        parts, config, started = self.parts, self.parts.config, time.monotonic()
        images = evaluation_images(parts, self.accelerator)
        assert images is not None
        with tempfile.TemporaryDirectory(prefix="dearkd-probe-") as place:
            folder, progress = RunFolder(Path(place)), _Views(advance)
            trainer = Trainer(
                config=config,
                folder=folder,
                student=parts.student,
                stages=parts.stages,
                passes=Passes(
                    *training_batches(parts, self.accelerator),
                    self.accelerator,
                    config,
                    progress.say,
                ),
                evaluation=None,
                accelerator=self.accelerator,
                progress=progress,
                metadata=parts.trained().metadata,
            )
            with folder.locked(resume=False):
                trainer.fit()
        found = evaluate(
            trainer.answering, images, self.accelerator, config.precision, heads=("logits",)
        )
        return {
            "probe_top1": found["logits"]["top1"],
            "probe": {
                "top5": found["logits"]["top5"],
                "eval_images": found["images"]["count"],
                "against": config.data.evaluation,
                "teacher": self.teacher,
                "train_images": len(parts.train),
                "seed": config.seed,
                "budget": _budget(config),
                "seconds": round(time.monotonic() - started, 1),
                "commit": commit(),
            },
        }


class _Views:
    """Tells the loop's progress as the number of views that were seen."""

    def __init__(self, advance: Callable[[int], None]) -> None:
        self._advance = advance

    def begin(self, position: Position, total_epochs: int, steps: int) -> None:
        """Nothing to tell."""

    def step(self, step: int, images: int, terms: dict[str, float] | None) -> None:
        """A step is done."""
        self._advance(images)

    def end(self, line: dict[str, Any]) -> None:
        """Nothing to tell."""

    def say(self, text: str) -> None:
        """Nothing to tell."""


def open_probe(request: ProbeRequest, accelerator: Accelerator) -> ProbeStudent:
    """A probe student for a set, with everything that can be wrong with the request met.

    Its labels are those of the teacher alone, and the set's own are not used.

    Raises:
        UserError: If set, real images and teacher are not of the same classes, the set's images
            are not of the teacher's size, or that size is none for the student.
        MissingFileError: If a path does not exist.
    """
    if rooted(request.data) == rooted(request.against):
        raise UserError(
            f"--probe would read its student on the images that it learns from, as --against is "
            f"{request.against} too; name other real images"
        )
    look = model_cfg(STUDENT, "student")
    teacher = open_teacher(request.teacher, student_mean=look["mean"], student_std=look["std"])
    size = _size(request, teacher.img_size)
    parts = build(_config(request, size), teacher=teacher)
    # An epoch of exactly the budget's views, of however many images.
    data = replace(parts.config.data, keep_steps=True)
    parts = replace(parts, full_size=STEPS * BATCH, config=replace(parts.config, data=data))
    parts, _ = with_arithmetic(parts, accelerator.device)
    place_models(parts, accelerator.device)
    first = copy.deepcopy(parts.student.state_dict())
    seconds = estimate(parts, accelerator.state).seconds
    parts.student.load_state_dict(first)
    return ProbeStudent(parts, accelerator, rooted(request.teacher.text), seconds)


def _size(request: ProbeRequest, trained: int | None) -> int:
    """Pixels a side that student and teacher see: those that the teacher was trained at."""
    if trained is None or not LEAST <= trained <= SMALL:
        raise UserError(
            f"--probe has a student for {LEAST} to {SMALL} px, and teacher {request.teacher.text} "
            f"takes {trained or 'an unknown number of'} px; leave --probe out"
        )
    found = read_set(request.data)
    config: Any = found.settings.get("config") if found is not None else None
    sizes = config.get("resolutions") if isinstance(config, Mapping) else None
    if sizes and sizes[-1] != trained:
        raise UserError(
            f"--probe: {request.data} has images of {sizes[-1]} px and teacher "
            f"{request.teacher.text} takes {trained}; make the set at {trained} px, or name a "
            "--teacher of its size"
        )
    return trained


def _config(request: ProbeRequest, size: int) -> TrainConfig:
    """The run of every probe student: in float32, so that machines differ by rounding alone."""
    return TrainConfig(
        method="deit",
        student=STUDENT,
        stage1=1,
        stage2=0,
        data=DataConfig(
            train=request.data,
            evaluation=request.against,
            img_size=size,
            batch_size=BATCH,
            augment="light",
            flip=False,  # mirrored digits and letters are others, and all sets get the same views
            on_bad_image=request.on_bad_image,
        ),
        teacher=TeacherConfig(),
        distill=DistillConfig(logits="soft", class_weight=0.0, temperature=TEMPERATURE),
        seed=request.seed,
        precision="fp32",
        memory_format="contiguous",
        trackers=(),
    )


def _budget(config: TrainConfig) -> dict[str, Any]:
    """What two probe students must have in common to be compared."""
    return {
        "student": config.student,
        "img_size": config.data.img_size,
        "steps": STEPS,
        "batch_size": config.data.batch_size,
        "lr": config.optim.lr,
        "augment": config.data.augment,
        "flip": config.data.flip,
        "logits": config.distill.logits,
        "temperature": config.distill.temperature,
        "precision": config.precision,
    }

"""The dry run of ``dearkd synthesize``: the work ahead, and its time, memory and disk.

A few iterations at each size are really run, and a group is judged and written to a temporary
folder, so that the numbers include what the process itself takes.
"""

import dataclasses
import math
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import TypeAlias

import torch
from rich.console import Console

from dearkd.config_file import to_yaml
from dearkd.run_folder.processes import peak_memory
from dearkd.said import counted
from dearkd.synthesis.live import clock
from dearkd.synthesis.setup import Setup
from synth.chains import chains_of, rest_of
from synth.classifier import to_pixels
from synth.contact_sheet import preview_grid
from synth.groups import Group, batches_of
from synth.kernels import Kernels, build_objective, choose_kernels
from synth.manifest import SHEET_CLASSES, SHEET_IMAGES, group_part
from synth.objective import Objective
from synth.settings import STOP_BN_FALL, STOP_WINDOW, SynthesisConfig
from synth.stage import Step
from synth.synthesis import steps_of
from synth.writer import Writer, class_folders

__all__ = ["Forecast", "Work", "describe", "forecast", "work_of"]

TRIAL_SECONDS, TRIAL_ITERATIONS = 2.0, 100
"""At each size iterations are timed for TRIAL_SECONDS: at least two, at most TRIAL_ITERATIONS.

Nor more than the run itself has there.
"""
PILOTS = 2
"""Pilot runs of ``auto_weights`` that the forecast assumes; there are four at most."""
SMALL_FILES = 4096
"""Bytes of configuration and settings."""
MIB = 2**20
Batches: TypeAlias = tuple[tuple[Group, ...], ...]


@dataclass(frozen=True, kw_only=True)
class Work:
    """A set's batches, and what of them its processes have to make."""

    batches: Batches
    ahead: Batches
    rehearsals: int
    """Batches that warm generators up."""
    tuned: bool
    """Whether nothing is left to ``auto_weights``: the set was begun."""
    processes: int


@dataclass(frozen=True)
class _Trial:
    """Seconds and bytes measured on the largest batch."""

    seconds: dict[int, float]  # of an iteration, by size
    picture_seconds: float  # of a preview
    picture_bytes: float  # of an image in it
    write_seconds: float  # of an image, encoded and written
    judge_seconds: float  # of an image, by teacher and verifier
    image_bytes: float  # of an image on disk
    record_bytes: float  # of an image, in its group's part


@dataclass(frozen=True)
class Forecast:
    """What a set takes, once the networks are loaded."""

    seconds: float
    memory: int | None
    """Bytes of each process, at most; None: unknown."""
    disk: float
    """Bytes."""
    rates: dict[int, float]
    """Iterations a second, by size."""
    kernels: Kernels


def describe(
    setup: Setup,
    device: torch.device,
    console: Console,
    processes: int = 1,
    begun: Path | None = None,
) -> None:
    """Prints configuration, groups and iterations, and a forecast of time, memory and disk.

    ``begun`` is the folder of a set that goes on: the forecast is of what is left of it.

    Raises:
        SynthError: See :func:`work_of`.
    """
    console.print(to_yaml(setup.config), markup=False)
    work = work_of(setup, processes, begun)
    batches, ahead, left = work.batches, work.ahead, ""
    images, width = sum(map(_images, batches)), max(map(_images, batches))
    if len(ahead) < len(batches):
        many = counted(len(ahead), "batch", "batches")
        left = f"; left: {counted(sum(map(_images, ahead)), 'image')} in {many}"
    console.print(
        f"{counted(images, 'image')} of {counted(_classes(batches), 'class', 'classes')} in "
        f"{counted(len(setup.groups), 'group')}, "
        f"{counted(len(batches), 'batch', 'batches')} of at most {counted(width, 'image')}, "
        f"{counted(sum(setup.synthesis.iterations), 'iteration')} each{left}"
    )
    found = forecast(setup, device, work)
    for size, rate in found.rates.items():
        console.print(f"{size} px: {rate:.2f} iterations/s in {found.kernels.precision}")
    parts = [
        f"about {clock(max(1.0, found.seconds))} (h:mm:ss) once the networks are loaded",
        "" if found.memory is None else f"{found.memory / 2**30:.2f} GiB on {device}",
        f"{found.disk / MIB:.1f} MiB of disk",
    ]
    by = f" by {processes} processes (memory: each)" if processes > 1 else ""
    compiled = "; compiling, as the run will, is not in it" if found.kernels.compile else ""
    console.print(f"{', '.join(filter(None, parts))}{by}{compiled}")


def work_of(setup: Setup, processes: int = 1, begun: Path | None = None) -> Work:
    """All of a set, or what is left of the one that was begun in a folder.

    Raises:
        SynthError: If the generators are fewer than the processes or more than the batches, or the
            state of one that was begun is damaged.
    """
    config, teacher = setup.synthesis, setup.teacher
    batches = batches_of(setup.groups, config.groups_per_batch)
    chains = chains_of(config, batches, processes)
    if begun is not None:
        folders = class_folders(teacher.class_names, teacher.num_classes)
        writer = Writer(begun, folders, config.image_format)
        chains = tuple(rest_of(chain, writer) for chain in chains)
    return Work(
        batches=batches,
        ahead=tuple(batch for chain in chains for batch in chain.ahead),
        rehearsals=sum(len(chain.rehearsals(config)) for chain in chains),
        tuned=begun is not None,
        processes=processes,
    )


def forecast(setup: Setup, device: torch.device, work: Work) -> Forecast:
    """Time, memory and disk of the work, from a trial of its largest batch; moves the networks."""
    config, batches = setup.synthesis, work.batches
    largest = max(batches, key=_images)
    for network in filter(None, (setup.teacher, *setup.others, setup.verifier, setup.student)):
        network.network.to(device)
    kernels = choose_kernels(config, setup.teacher, batches, device, setup.student, setup.others)
    trial = _try(setup, largest, kernels, device)
    return Forecast(
        seconds=_seconds(config, trial, work),
        memory=peak_memory(device),
        disk=_disk(trial, sum(map(_images, work.ahead)), _classes(batches), _images(largest)),
        rates={size: 1 / seconds for size, seconds in trial.seconds.items()},
        kernels=kernels,
    )


def _try(setup: Setup, batch: tuple[Group, ...], kernels: Kernels, device: torch.device) -> _Trial:
    """Runs a few iterations at each size, then judges and writes a group in a temporary folder."""
    config, teacher = setup.synthesis, setup.teacher
    plain = dataclasses.replace(kernels, compile=False, cuda_graphs=False)  # a graph takes minutes
    objective = build_objective(config, teacher, plain, setup.student, setup.others)
    seconds = {}
    for size, planned in config.stages:
        most = max(3, min(TRIAL_ITERATIONS, planned))
        seconds[size], step = _iterations(objective, batch, config, size, most, device)
    events = [step.without_images()] * _events(config)
    group, pixels = batch[0], to_pixels(step.images, teacher.mean, teacher.std)
    terms = {name: values[0] for name, values in step.terms.items()}
    folders = class_folders(teacher.class_names, teacher.num_classes)
    with tempfile.TemporaryDirectory() as folder:
        writer = Writer(Path(folder), folders, config.image_format, teacher.class_names)
        begun = time.perf_counter()
        file = writer.write_picture("preview.png", preview_grid(pixels, config.images_per_class))
        pictured = time.perf_counter()
        picture = file.stat().st_size
        file.unlink()
        writer.write_images(group, pixels[: len(group.targets)])
        stored = _bytes(Path(folder))
        written = time.perf_counter()
        part = group_part(writer, group, terms, events, 0, teacher, setup.verifier)
        writer.write_part(group, part)
        judged = time.perf_counter()
        recorded = _bytes(Path(folder)) - stored
    count = len(group.targets)
    return _Trial(
        seconds=seconds,
        picture_seconds=pictured - begun,
        picture_bytes=picture / len(pixels),
        write_seconds=(written - pictured) / count,
        judge_seconds=(judged - written) / count,
        image_bytes=stored / count,
        record_bytes=recorded / count,
    )


def _iterations(
    objective: Objective,
    batch: tuple[Group, ...],
    config: SynthesisConfig,
    size: int,
    most: int,
    device: torch.device,
) -> tuple[float, Step]:
    """Seconds of one of ``most`` iterations at a size, and the last step; the first is not timed.

    Nothing stops early, which would end the trial before there is a time, and gradient norms are
    taken where the trial is long enough for one.
    """
    stage = dataclasses.replace(
        config,
        stop_cross_entropy=0.0,
        stop_bn_fall=STOP_BN_FALL,
        stop_window=STOP_WINDOW,
        resolutions=(size,),
        iterations=(most,),
        canvas="upsample",
        log_interval=1,
        grad_norm_interval=config.grad_norm_interval if config.grad_norm_interval <= most else 0,
    )
    if config.engine == "generator":  # the trial's one batch needs no others before it
        part = dataclasses.replace(config.generator, warmup_batches=0)
        stage = dataclasses.replace(stage, generator=part)
    steps = steps_of(objective, batch, stage, device)
    next(steps)
    started = time.perf_counter()
    for count, step in enumerate(steps, start=1):
        seconds = time.perf_counter() - started
        if count == most - 1 or (count > 1 and seconds > TRIAL_SECONDS):
            return seconds / count, step
    raise AssertionError("the trial ended without its last step")


def _seconds(config: SynthesisConfig, trial: _Trial, work: Work) -> float:
    """Seconds of the work, by processes each on a device of its own."""
    images, width = sum(map(_images, work.batches)), max(map(_images, work.batches))
    batch = sum(trial.seconds[size] * iterations for size, iterations in config.stages)
    warmup = batch * work.rehearsals / work.processes
    share = sum(map(_images, work.ahead)) / work.processes
    previews = len(work.ahead) / work.processes * _events(config)
    pilots = 0.0
    if config.objective.auto_weights and not work.tuned:
        iterations = min(config.objective.auto_iterations, config.iterations[0])
        pilots = PILOTS * iterations * trial.seconds[config.resolutions[0]]
        pilots *= len(work.batches[0][0].targets) / width
    # Judged when written, and again by the one process that merges the manifest.
    finish = share * (trial.write_seconds + trial.judge_seconds) + images * trial.judge_seconds
    return pilots + warmup + batch * share / width + finish + previews * trial.picture_seconds


def _disk(trial: _Trial, images: int, classes: int, width: int) -> float:
    """Bytes of the finished set; manifest and loss curves repeat what the parts hold."""
    rows = min(classes, SHEET_CLASSES) * min(math.ceil(images / classes), SHEET_IMAGES)
    pictures = (width + rows) * trial.picture_bytes  # preview and contact sheet
    return images * (trial.image_bytes + 2 * trial.record_bytes) + pictures + SMALL_FILES


def _events(config: SynthesisConfig) -> int:
    """How many steps a batch sends; each makes a preview and a point of the loss curves."""
    return sum(math.ceil(iterations / config.log_interval) for iterations in config.iterations)


def _classes(batches: Batches) -> int:
    return len({target for batch in batches for group in batch for target in group.targets})


def _images(batch: tuple[Group, ...]) -> int:
    return sum(len(group.targets) for group in batch)


def _bytes(folder: Path) -> int:
    return sum(file.stat().st_size for file in folder.rglob("*") if file.is_file())

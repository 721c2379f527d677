"""What a training run would take, before it is begun: sizes, steps, time, memory and disk.

A few steps are really made, on real batches, and a few images really judged; then it is counted how
many of them the run has. Nothing is written.
"""

import time
from collections.abc import Callable
from dataclasses import dataclass
from itertools import islice
from typing import Any

import torch
from accelerate import PartialState
from rich.table import Table

from dearkd.config_file import to_yaml
from dearkd.models import cost
from dearkd.models.precision import precision_context
from dearkd.objectives import CrossEntropy
from dearkd.run_folder.processes import peak_memory
from dearkd.said import counted, seconds_text
from dearkd.training.batches import epoch_order, evaluation_images, training_batches
from dearkd.training.build import Parts
from dearkd.training.checkpoint import Begun
from dearkd.training.optim import build_optimizer
from dearkd.training.stages import Stage
from dearkd.training.summary import arithmetic_line

__all__ = ["Costs", "Estimate", "describe", "estimate", "seconds_left"]

NUMBER_BYTES = 4
STEPS = 3
"""Steps made of each stage, the first of them to warm up."""
CPU_IMAGES = 64
"""Images of a trial step on a CPU, at most; the rest of a larger batch is counted."""


@dataclass(frozen=True)
class Costs:
    """What was measured on one process."""

    seconds: list[float]
    """Of an image, in a step of each stage: data, forward, backward and optimizer."""
    judging: float
    """Seconds of an evaluation image."""
    resident: int
    """Bytes that the process held at most, where the system tells."""
    images: int
    """Images of a trial step."""


@dataclass(frozen=True)
class Estimate:
    """What a run takes, on each of its processes."""

    seconds: float
    """Training and evaluation; the most it may be where a rule ends stage 1."""
    memory: float
    """Bytes."""
    rates: dict[str, float]
    """Images a second of each stage, over all processes."""
    images: int
    """Images of the steps that were measured."""


def describe(
    parts: Parts,
    reasons: dict[str, str],
    state: PartialState,
    say: Callable[..., None],
    begun: Begun | None = None,
) -> None:
    """Says the configuration, the models' sizes, the steps, and time, memory and disk.

    The parts are laid out on their device, in the arithmetic that has these ``reasons``. Of a
    ``begun`` run the time is that of what is left.
    """
    config, data = parts.config, parts.config.data
    assert data.img_size is not None
    assert data.batch_size is not None
    say(to_yaml(config), markup=False)
    say(arithmetic_line(config, reasons))
    say(_sizes(parts))
    order, accumulate = epoch_order(parts, state.process_index, state.num_processes)
    steps = order.steps_per_epoch // accumulate
    done = 0 if begun is None else begun.epoch * steps + begun.step
    left = f"; left: {counted(steps * config.epochs - done, 'step')}" if done else ""
    say(
        f"{counted(len(parts.train), 'training image')}, {counted(steps, 'step')} of "
        f"{data.batch_size} an epoch, {counted(steps * config.epochs, 'step')} in "
        f"{counted(config.epochs, 'epoch')}{left}"
    )
    found = estimate(parts, state, done / steps)
    each = f", each of {state.num_processes} processes" if state.num_processes > 1 else ""
    rates = ", ".join(f"{rate:.3g} images/s in {stage}" for stage, rate in found.rates.items())
    memory, disk = found.memory / 2**30, _disk(parts) / 1e6
    about = "at most about" if config.stage1 == "auto" else "about"  # stage 2's epochs are shorter
    compiled = "; compiling, as the run will, is not in it" if config.compile else ""
    say(
        f"{about} {seconds_text(found.seconds)} and {memory:.1f} GiB of memory on "
        f"{state.device}{each}, and {disk:.0f} MB of disk ({rates}; evaluation included, measured "
        f"on {counted(STEPS, 'step')} of {counted(found.images, 'image')}{compiled})"
    )


def estimate(parts: Parts, state: PartialState, done: float = 0.0) -> Estimate:
    """What the run takes after ``done`` epochs, from a few steps that are really made.

    They are made on weights that nobody keeps. The parts are laid out on their device.
    """
    costs = _measured(parts, state)
    rates = [state.num_processes / seconds for seconds in costs.seconds]
    return Estimate(
        seconds=seconds_left(parts, costs, state, done),
        memory=_memory(parts, costs, state),
        rates=dict(zip((stage.name for stage in parts.stages), rates, strict=True)),
        images=costs.images,
    )


def seconds_left(parts: Parts, costs: Costs, state: PartialState, done: float) -> float:
    """Seconds of the steps and evaluations that are left after ``done`` epochs."""
    config = parts.config
    assert config.data.batch_size is not None
    order, accumulate = epoch_order(parts, state.process_index, state.num_processes)
    steps = order.steps_per_epoch // accumulate
    views = steps * config.data.batch_size / state.num_processes
    training, begin = 0.0, 0
    for stage, each in zip(parts.stages, costs.seconds, strict=True):
        training += min(max(begin + stage.epochs - done, 0), stage.epochs) * views * each
        begin += stage.epochs
    judged = 0 if parts.evaluation is None else len(parts.evaluation) / state.num_processes
    due = {*range(config.eval_every, config.epochs, config.eval_every), config.epochs}
    evaluations = sum(epoch > done for epoch in due) + 1  # the last one is of all heads
    return training + evaluations * judged * costs.judging


def _sizes(parts: Parts) -> Table:
    size = parts.config.data.img_size
    assert size is not None
    table = Table("", "parameters", "GMACs an image", title=f"at {size} px")
    models = [(f"student {parts.config.student}", parts.student, size)]
    if (teacher := parts.teacher) is not None:
        name = f"teacher {parts.config.teacher.name}"
        models.append((name, teacher.model, teacher.resize or size))
    for name, model, own_size in models:
        macs = cost.multiply_adds(model, own_size) / 1e9
        table.add_row(name, f"{cost.parameter_count(model):,}", f"{macs:.3f}")
    return table


def _measured(parts: Parts, state: PartialState) -> Costs:
    """Makes a few steps of each stage, on weights that nobody keeps."""
    config, device = parts.config, state.device
    batches, _ = training_batches(parts, state)
    few = list(islice(batches(0, 0), 1))
    most = len(few[0][0]) if device.type != "cpu" else min(len(few[0][0]), CPU_IMAGES)
    started = time.perf_counter()
    few += list(islice(batches(1, 0), 1))
    loading = (time.perf_counter() - started) / len(few[0][0])
    batch = tuple(part[:most] for part in few[0])
    seconds = [_step_seconds(stage, parts, batch) / most + loading for stage in parts.stages]
    judging = 0.0
    loader = evaluation_images(parts, state)
    if loader is not None:
        started = time.perf_counter()
        judged = next(iter(loader))["image"].to(device)
        parts.student.eval()
        with torch.inference_mode(), precision_context(device, config.precision):
            parts.student(judged)
        judging = (time.perf_counter() - started) / len(judged)
        loader.close()
    return Costs(seconds, judging, peak_memory(device) or 0, most)


def _step_seconds(stage: Stage, parts: Parts, batch: tuple[torch.Tensor, ...]) -> float:
    """Least seconds of a whole step: forward, backward and optimizer."""
    device = batch[0].device
    objective = (stage.objective or CrossEntropy(parts.student)).to(device).train()
    if (measure := getattr(objective, "measure_targets", None)) is not None:
        # Of noise: what is measured changes no time, and blank images may have no scale at all.
        noise = torch.rand((2, *batch[0].shape[1:]), generator=torch.Generator().manual_seed(0))
        measure([noise.to(device)])
    optimizer = build_optimizer(objective, parts.config.optim, parts.config.precision)

    def step() -> None:
        with precision_context(device, parts.config.precision):
            loss = objective(*batch)["loss"]
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()

    return cost.seconds_per_call(step, device, repeats=STEPS - 1)


def _memory(parts: Parts, costs: Costs, state: PartialState) -> float:
    """Bytes of one process: what the trial held, and the images that its batch was short of."""
    config, student = parts.config, parts.student
    assert config.data.batch_size is not None
    micro = config.data.views_a_pass or config.data.batch_size // state.num_processes
    size = config.data.img_size
    assert size is not None
    missing = max(0, micro - costs.images)
    extra = 0.0
    if missing:
        # BatchNorm takes no single image where its map is one cell: a half of four has two.
        four: Any = torch.zeros(4, 3, size, size, device=state.device)
        with precision_context(state.device, config.precision):
            extra = missing * cost.activation_bytes_per_image(student.train(), four)
    copies = bool(config.optim.ema_decay) + (state.num_processes > 1)  # DDP's gradient buckets
    return costs.resident + extra + NUMBER_BYTES * copies * cost.parameter_count(student)


def _disk(parts: Parts) -> int:
    """Bytes of the run folder: final and best weights, and a checkpoint while the next is written.

    A checkpoint has the weights, AdamW's two moments or the one of the others, and the averaged
    weights if there are any.
    """
    optim = parts.config.optim
    checkpoint = 1 + (2 if optim.name == "adamw" else 1) + bool(optim.ema_decay)
    return NUMBER_BYTES * cost.parameter_count(parts.student) * (2 + 2 * checkpoint)

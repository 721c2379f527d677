"""A whole run: from a frozen network and a configuration to an image data set on disk."""

import dataclasses
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import torch

from synth.agreement import Run, agreed_settings
from synth.bn_statistics import frozen
from synth.chains import Chain, chains_of, read_state, remove_states, rest_of, write_state
from synth.classifier import Classifier, to_pixels
from synth.contact_sheet import preview_grid
from synth.generation import GeneratorChain
from synth.groups import Group, batches_of, plan_groups
from synth.image_files import check_channels
from synth.inversion import invert
from synth.kernels import Kernels, build_objective
from synth.manifest import group_part, merge
from synth.objective import Objective, refuse_idle_allowance, targets_of
from synth.refusal import SynthError
from synth.settings import SynthesisConfig
from synth.stage import MakeImages, Step, read_terms
from synth.writer import DamagedError, Writer

__all__ = [
    "Event",
    "Finished",
    "GroupDone",
    "Prepared",
    "Progress",
    "steps_of",
    "synthesize",
]


@dataclass(frozen=True, kw_only=True)
class Prepared:
    """Sent before the first iteration: what was decided, and how much this process has to do."""

    kernels: Kernels
    bn_weight: float  # after auto_weights
    images: int  # of the whole run
    images_here: int  # unfinished ones that fall to this process
    iterations_here: int  # over all of this process's unfinished batches, and a warm-up's


@dataclass(frozen=True, kw_only=True)
class Progress:
    """Sent with every step, so at least every ``log_interval`` iterations."""

    step: Step
    groups: tuple[int, ...]  # none in a generator's warm-up
    iterations_done: int  # of Prepared.iterations_here


@dataclass(frozen=True, kw_only=True)
class GroupDone:
    """Sent when a group's images and part are on disk."""

    group: int
    images: tuple[str, ...]  # paths relative to the run's folder


@dataclass(frozen=True, kw_only=True)
class Finished:
    """Sent last: this process is done. ``manifest`` is None while others still work."""

    manifest: Path | None


Event = Prepared | Progress | GroupDone | Finished


def synthesize(
    config: SynthesisConfig,
    teacher: Classifier,
    out: Path,
    *,
    verifier: Classifier | None = None,
    student: Classifier | None = None,
    others: tuple[Classifier, ...] = (),
    device: str = "cpu",
    rank: int = 0,
    world: int = 1,
    resume: bool = False,
) -> Iterator[Event]:
    """Make the images of a run under ``out`` and yield an event for everything that happens.

    ``others`` are further teachers, which the images are made for too (``Objective``).

    Process ``rank`` of ``world`` takes every ``world``-th chain of batches (:mod:`synth.chains`);
    the last to finish merges the manifest. The images of a group do not depend on rank, world,
    order or interruption: precision, layout, compiler and the number of threads are settled once,
    and kept by all processes and on resume. The threads are the first process's, and sums on a CPU
    are ordered by them: one process and several make equal images if ``OMP_NUM_THREADS`` is equal
    (:class:`synth.kernels.Kernels`). Nothing is done before the first event is asked for. Random
    state and the number of threads are restored at the end; the networks are not changed.

    Raises:
        SynthError: If the teacher, the groups or the settings don't fit (see
            :class:`SynthesisConfig`, ``Objective``, ``plan_groups``), the folder is in use, a file
            of it is damaged, or ``resume`` meets other settings.
        FloatingPointError: If an objective is no longer finite.
        TimeoutError: If the first process writes no settings for hours.
    """
    if not 0 <= rank < world:
        raise SynthError(f"rank must be in 0-{world - 1}, got {rank}")
    run = Run(
        config=config,
        out=Path(out),
        teacher=_placed(teacher, device),
        verifier=None if verifier is None else _placed(verifier, device),
        student=None if student is None else _placed(student, device),
        others=tuple(_placed(other, device) for other in others),
        device=torch.device(device),
    )
    threads = torch.get_num_threads()
    try:
        yield from _events(run, rank, world, resume)
    except DamagedError:
        run.writer.refuse_damaged(plan_groups(config, run.teacher.num_classes))
        raise
    finally:
        torch.set_num_threads(threads)


def steps_of(
    objective: Objective, batch: tuple[Group, ...], config: SynthesisConfig, device: torch.device
) -> Iterator[Step]:
    """The steps of making a batch by itself (a :data:`synth.stage.MakeImages`)."""
    make = _way_to_make(objective, config, device)
    for rehearsal in Chain(id=0, batches=(batch,)).rehearsals(config):
        for _ in make(objective, rehearsal, config, device):
            pass
    yield from make(objective, batch, config, device)


def _way_to_make(
    objective: Objective, config: SynthesisConfig, device: torch.device, chain: int = 0
) -> MakeImages:
    """What makes the batches of a chain, from its first one on.

    This is the one place where the way to make images is chosen.
    """
    match config.engine:
        case "inversion":
            return invert
        case "generator":
            return GeneratorChain(objective, config, device, chain)


def _events(run: Run, rank: int, world: int, resume: bool) -> Iterator[Event]:
    config, writer = run.config, run.writer
    if not resume:
        refuse_idle_allowance(config.allow_no_bn, (run.teacher, *run.others))
    check_channels(run.teacher.name, len(run.teacher.mean), config.image_format)
    groups = plan_groups(config, run.teacher.num_classes)
    batches = batches_of(groups, config.groups_per_batch)
    chains = chains_of(config, batches, world)
    settings = agreed_settings(run, batches, rank, resume, steps_of)
    kernels = Kernels(**settings["kernels"])
    torch.set_num_threads(kernels.threads)
    objective = build_objective(config, run.teacher, kernels, run.student, run.others)
    objective.bn_weight = settings["bn_weight"]
    mine = [rest_of(chain, writer) for chain in chains[rank::world]]
    ahead = [batch for chain in mine for batch in chain.ahead]
    lengths = [_iterations(config, chain) for chain in mine]
    yield Prepared(
        kernels=kernels,
        bn_weight=objective.bn_weight,
        images=sum(len(group.targets) for group in groups),
        images_here=sum(_unfinished_images(writer, batch) for batch in ahead),
        iterations_here=sum(lengths),
    )
    done = 0
    for chain, length in zip(mine, lengths, strict=True):
        yield from _chain(run, objective, chain, done, pictures=rank == 0)
        done += length
    if not all(writer.is_finished(group) for group in groups):
        yield Finished(manifest=None)
    else:
        remove_states(writer)
        yield Finished(manifest=merge(writer, groups, settings, run.teacher, run.verifier))


def _chain(
    run: Run, objective: Objective, chain: Chain, done: int, *, pictures: bool
) -> Iterator[Event]:
    """Make what is ahead of a chain; ``done`` are the iterations of the chains before."""
    config, each = run.config, sum(run.config.iterations)
    make = _way_to_make(objective, config, run.device, chain.id)
    drawn = make if isinstance(make, GeneratorChain) else None
    if drawn is not None and chain.begun:
        drawn.load(read_state(run.writer, chain.id))
    for rehearsal in chain.rehearsals(config):
        for step in make(objective, rehearsal, config, run.device):
            yield Progress(step=step, groups=(), iterations_done=done + step.iteration)
        done += each
    for index, batch in enumerate(chain.ahead):
        yield from _batch(run, objective, make, batch, done + index * each, pictures=pictures)
        if drawn is not None:
            write_state(run.writer, chain.id, chain.begun + index + 1, drawn.tensors())


def _iterations(config: SynthesisConfig, chain: Chain) -> int:
    """All that is ahead of a chain, with a warm-up."""
    return sum(config.iterations) * (len(chain.rehearsals(config)) + len(chain.ahead))


def _batch(
    run: Run,
    objective: Objective,
    make: MakeImages,
    batch: tuple[Group, ...],
    done: int,
    *,
    pictures: bool,
) -> Iterator[Event]:
    config, writer, teacher = run.config, run.writer, run.teacher
    start = time.monotonic()
    steps: list[Step] = []
    for step in make(objective, batch, config, run.device):
        before = sum(config.iterations[: step.stage])
        pixels = to_pixels(step.images, teacher.mean, teacher.std)
        if pictures:
            writer.write_picture("preview.png", preview_grid(pixels, _columns(batch[0])))
        ids = tuple(group.id for group in batch)
        yield Progress(step=step, groups=ids, iterations_done=done + before + step.iteration)
        steps.append(step.without_images())
    seconds = time.monotonic() - start
    final = _final_terms(objective, step.images, batch, run)
    for row, (group, block) in enumerate(zip(batch, pixels.chunk(len(batch)), strict=True)):
        if writer.is_finished(group):
            continue
        names = writer.write_images(group, block)
        terms = {name: values[row] for name, values in final.items()}
        part = group_part(writer, group, terms, steps, row, teacher, run.verifier)
        writer.write_part(group, part | {"seconds": seconds / len(batch)})
        yield GroupDone(group=group.id, images=tuple(names))


def _final_terms(
    objective: Objective, images: torch.Tensor, batch: tuple[Group, ...], run: Run
) -> dict[str, list[float]]:
    """Every term of the finished images, seen without jitter: one value for each group.

    The images ask for gradients, which nobody uses: without, a compiler would make one more graph.
    """
    seen = images.clone().requires_grad_()
    terms = objective(seen, targets_of(batch, run.config.objective, run.device))
    return read_terms(terms, "at the end")


def _placed(classifier: Classifier, device: str) -> Classifier:
    """A frozen eval copy on the device, so that the caller's network is left as it is."""
    return dataclasses.replace(classifier, network=frozen(classifier.network).to(device))


def _unfinished_images(writer: Writer, batch: tuple[Group, ...]) -> int:
    return sum(len(group.targets) for group in batch if not writer.is_finished(group))


def _columns(group: Group) -> int:
    """Images in a row of the preview: those of one class."""
    return max(2, len(group.targets) // len(set(group.targets)))

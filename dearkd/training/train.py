"""What `dearkd train` does: a configuration in, a trained run folder out."""

import dataclasses
from collections.abc import Sequence
from contextlib import nullcontext
from pathlib import Path
from typing import Any

from accelerate import Accelerator
from rich.console import Console
from torch import nn

from dearkd.analysis.probe import attention_probe
from dearkd.config import TrainConfig
from dearkd.config_file import flattened
from dearkd.data.feed import faster_data
from dearkd.data.loaders import Loader
from dearkd.data.order import left_out
from dearkd.data.synthetic_set import missing_images, unsure_images
from dearkd.judging.evaluate import evaluate
from dearkd.models.heads import heads_note
from dearkd.models.teacher import Teacher
from dearkd.run_folder.folder import RunFolder, next_folder
from dearkd.run_folder.moved import naming_the_new_place, noted_fingerprints
from dearkd.run_folder.processes import (
    Say,
    from_main,
    in_turn,
    process_accelerator,
    process_state,
    said_by_main,
)
from dearkd.run_folder.stop import Interrupted
from dearkd.said import command
from dearkd.trained.resolve import refuse_idle_trust
from dearkd.training.arithmetic import place_models, with_arithmetic
from dearkd.training.batches import (
    epoch_order,
    evaluation_images,
    smaller_batches,
    training_batches,
)
from dearkd.training.build import Parts, build
from dearkd.training.checkpoint import Begun, identity
from dearkd.training.dry_run import describe
from dearkd.training.fingerprints import check_fingerprints, fingerprints
from dearkd.training.label_cache import LabelCache, opened_labels
from dearkd.training.loop import Trainer
from dearkd.training.measured import measure_targets, scales_of_heads
from dearkd.training.methods import METHODS
from dearkd.training.optim import short_average
from dearkd.training.passes import Passes
from dearkd.training.progress import RunProgress
from dearkd.training.summary import arithmetic_line, closing_line, session, summary, title_line
from dearkd.training.teacher_reading import teacher_line, teacher_reading

__all__ = ["train"]


def train(
    config: TrainConfig,
    *,
    console: Console,
    folder: RunFolder | None = None,
    resume: bool = False,
    dry_run: bool = False,
    stem: str = "train",
    again: str = "",
    trust: bool = False,
    teacher: Teacher | None = None,
) -> RunFolder | None:
    """Trains the configuration and returns the run's folder; a dry run shows what it would take.

    ``teacher``, from Python, takes the place of the one that the configuration names. A run that
    is finished is left as it is. ``stem`` is the verb that was typed; ``again`` the command that
    goes on after an interruption, where it is not that verb's own.

    Raises:
        UserError: Anything wrong with the configuration, the data or the folder.
        Interrupted: After Ctrl-C, with the state saved.
    """
    state = process_state()
    say = said_by_main(console, state)
    if resume and folder is not None and folder.summary_file.exists():
        say(f"{folder.path} is finished; there is nothing left to do")
        return folder
    saved = _saved(folder, config, say) if resume else {}
    known = Begun.of(saved)
    if folder is None and config.out is not None:
        folder = RunFolder(Path(config.out))
    if folder is not None and not dry_run:
        folder.check_free(resume)
    begun = folder.path if folder is not None and resume and not again else None
    with naming_the_new_place(stem, begun):
        parts = in_turn(state, lambda: build(config, teacher=teacher, begun=known, trust=trust))
    _refuse_idle_trust(trust, parts, bool(saved))
    prints = _compared(parts, folder if resume else None)
    # A batch that can't be is said now.
    order, accumulate = epoch_order(parts, state.process_index, state.num_processes)
    steps = order.steps_per_epoch // accumulate * parts.config.epochs
    oddities = [left_out(order, accumulate), short_average(parts.config.optim, steps)]
    _announce(parts, oddities, resume, say)
    parts, reasons = _with_arithmetic(parts, chosen=resume and not dry_run)
    labels = opened_labels(parts, state, say, dry_run)
    if dry_run:
        describe(parts, reasons, state, say, known)
        return None
    if folder is None:  # made this late, so that a run that is refused leaves none behind
        folder = RunFolder(from_main(state, lambda: next_folder(_stem(config, stem))), is_new=True)
    with folder.locked(resume) if state.is_main_process else nullcontext():
        try:
            if state.is_main_process:
                _store_config(folder, parts, resume, say)
            _run(parts, folder, saved, prints, reasons, labels, console, say)
        except Interrupted:
            own = command("dearkd", stem, "--resume", "--out", folder.path)
            say(f"stopped and saved; go on with: {again or own}")
            raise
    return folder


def _refuse_idle_trust(trust: bool, parts: Parts, goes_on: bool) -> None:
    """Refuses ``--trust`` where no network brings code along.

    A run that goes on may open less than its command names: the student starts from nothing any
    more, and a teacher's stage may be over.
    """
    config = parts.config
    is_untaught = METHODS[config.method].has_teacher and parts.teacher is None
    if not (goes_on and (config.init is not None or is_untaught)):
        refuse_idle_trust(trust, *parts.networks)


def _compared(parts: Parts, begun: RunFolder | None) -> dict[str, str | None]:
    """Fingerprints of images and teacher, which must be those that a begun run noted."""
    prints = fingerprints(parts)
    if begun is not None:
        check_fingerprints(prints, noted_fingerprints(begun.sessions()))
    return prints


def _store_config(folder: RunFolder, parts: Parts, resume: bool, say: Say) -> None:
    """Writes what a run is begun with; of one that goes on, where images and teacher lie now."""
    config = parts.config
    if not resume:
        folder.write_config(config)
        return
    stored = folder.read_config()
    wanted, teacher = config.teacher, stored.teacher
    if parts.teacher is not None:
        teacher = dataclasses.replace(teacher, name=wanted.name, weights=wanted.weights)
    elif (wanted.name, wanted.weights) != (teacher.name, teacher.weights):
        say(f"note: no teacher takes part any more, and {wanted.name} is not opened")
    data = dataclasses.replace(
        stored.data, train=config.data.train, evaluation=config.data.evaluation
    )
    moved = dataclasses.replace(
        stored,
        data=data,
        teacher=teacher,
        cache_labels=config.cache_labels,
        imports=config.imports,
    )
    if moved != stored:
        folder.write_config(moved)


def _with_arithmetic(parts: Parts, chosen: bool) -> tuple[Parts, dict[str, str]]:
    """The networks on their device, in an arithmetic that is chosen once a run, and the reasons."""
    state, reasons = process_state(), dict[str, str]()
    if not chosen:
        parts, reasons = with_arithmetic(parts, state.device, state.num_processes)
    place_models(parts, state.device)
    return parts, reasons


def _saved(folder: RunFolder | None, config: TrainConfig, say: Say) -> dict[str, Any]:
    """The checkpoint of a run that was begun; empty if it was killed before its first one."""
    return {} if folder is None else folder.checkpoints.load(identity(config), say)


def _announce(parts: Parts, oddities: Sequence[str | None], resume: bool, say: Say) -> None:
    """Says what the user should know before anything takes time."""
    if parts.choices and not resume:
        say(f"defaults taken: {'; '.join(parts.choices)}")
    for note in (*parts.remarks, *filter(None, oddities)):
        say(f"note: {note}")
    if (missing := missing_images(parts.config.data.train)) is not None:
        say(f"warning: {missing}")
    if _takes_labels(parts) and (unsure := unsure_images(parts.config.data.train)) is not None:
        say(f"warning: {unsure}")


def _takes_labels(parts: Parts) -> bool:
    """Whether the images' own labels, or the teacher's hard ones, are learned in some stage."""
    rule = parts.config.distill
    hard = rule.logits == "hard" or rule.class_weight != 0
    return hard or len(parts.stages) > 1 or not any(stage.teacher for stage in parts.stages)


def _run(
    parts: Parts,
    folder: RunFolder,
    saved: dict[str, Any],
    prints: dict[str, str | None],
    reasons: dict[str, str],
    labels: LabelCache | None,
    console: Console,
    say: Say,
) -> None:
    config = parts.config
    say(f"{title_line(config)} -> {folder.path}")
    if reasons:
        say(arithmetic_line(config, reasons))
    accelerator = process_accelerator(
        log_with=list(config.trackers) or None, project_dir=str(folder.path / "logs")
    )
    images = evaluation_images(parts, accelerator)
    reading = None if saved else teacher_reading(parts, images, accelerator)
    if reading is not None:
        say(teacher_line(reading, parts))
    if accelerator.is_main_process:
        folder.append_session(session(accelerator, reasons, saved, prints, labels, reading))
    accelerator.init_trackers(
        "dearkd",
        config=_flat(config),
        init_kwargs={"wandb": {"name": folder.path.name}} if "wandb" in config.trackers else {},
    )
    try:
        trainer, heads = _fitted(parts, folder, saved, images, labels, console, accelerator)
        used = None if labels is None else labels.used(accelerator)
        if accelerator.is_main_process:
            trainer.save_weights(folder.model_file)
            results = summary(parts, trainer, heads, accelerator, folder.sessions(), used)
            folder.write_summary({**results, "files": folder.hashes()})
            if used is not None:
                say(f"teacher's labels: {used['read']:,} read, {used['computed']:,} computed")
            say(closing_line(folder.path, heads, results.get("teacher_top1")))
            if (note := heads_note(trainer.position.heads)) is not None:
                say(f"note: it {note}")
    finally:
        accelerator.end_training()


def _flat(config: TrainConfig) -> dict[str, Any]:
    """The whole configuration as trackers take it: dotted names, numbers and words."""
    flat = flattened(dataclasses.asdict(config))
    return {
        key: value if isinstance(value, bool | int | float | str) else str(value)
        for key, value in flat.items()
    }


def _fitted(
    parts: Parts,
    folder: RunFolder,
    saved: dict[str, Any],
    images: Loader | None,
    labels: LabelCache | None,
    console: Console,
    accelerator: Accelerator,
) -> tuple[Trainer, dict[str, dict[str, float]]]:
    """The trainer at the end of the last stage, and what each head of its student achieves."""
    config, trained = parts.config, parts.trained()
    if not saved:
        measure_targets(parts)
    batches, accumulate = training_batches(parts, accelerator)

    def default_readout(model: nn.Module) -> dict[str, float]:
        assert images is not None
        heads = evaluate(model, images, accelerator, config.precision, heads=("logits",))
        return heads["logits"]

    remedy = faster_data(config.data, accelerator.device, accelerator.num_processes)
    with RunProgress(console, accelerator.is_main_process, remedy) as progress:
        trainer = Trainer(
            config=config,
            folder=folder,
            student=parts.student,
            stages=parts.stages,
            passes=Passes(
                batches,
                accumulate,
                accelerator,
                config,
                progress.say,
                smaller_batches(parts, accelerator),
            ),
            evaluation=default_readout if images is not None else None,
            accelerator=accelerator,
            progress=progress,
            metadata=trained.metadata,
            classes=parts.class_table,
            probe=attention_probe(
                parts.student,
                parts.evaluation or parts.train,
                trained.metadata,
                accelerator.device,
                len(parts.train),
            ),
            save_more=None if labels is None else labels.memory.save,
            scales_of=scales_of_heads(parts, accelerator),
        )
        trainer.fit(saved)
    if images is None:
        return trainer, {}
    return trainer, evaluate(trainer.answering, images, accelerator, config.precision)


def _stem(config: TrainConfig, verb: str) -> str:
    """The name of a new run's folder, without its number."""
    data = Path(config.data.train).name or "data"
    return f"{verb if verb == 'teacher' else config.method}-{data}"

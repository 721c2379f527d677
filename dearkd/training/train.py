"""What `dearkd train` does: a configuration in, a trained run folder out."""

import dataclasses
from collections.abc import Callable
from contextlib import nullcontext
from pathlib import Path
from typing import Any

from accelerate import Accelerator
from rich.console import Console
from torch import nn

from dearkd.analysis.probe import attention_probe
from dearkd.config import TrainConfig
from dearkd.data.augment import train_augment
from dearkd.data.feed import DeviceBatches, evaluation_loader, worker_count
from dearkd.data.loaders import Loader, train_loader
from dearkd.data.mixing import Mixing
from dearkd.data.order import EpochOrder
from dearkd.data.synthetic_set import missing_images
from dearkd.judging.evaluate import evaluate
from dearkd.run_folder.folder import RunFolder, next_folder
from dearkd.run_folder.processes import accelerator_of, from_main, in_turn, process_state
from dearkd.run_folder.provenance import commit
from dearkd.run_folder.stop import Interrupted
from dearkd.training.arithmetic import laid_out, with_arithmetic
from dearkd.training.build import Parts, build, model_metadata
from dearkd.training.dry_run import describe
from dearkd.training.loop import Trainer
from dearkd.training.progress import RunProgress
from dearkd.training.summary import closing_line, summary, title_line

__all__ = ["train"]


def train(
    config: TrainConfig,
    *,
    console: Console,
    folder: RunFolder | None = None,
    resume: bool = False,
    dry_run: bool = False,
    stem: str = "train",
) -> None:
    """Trains the configuration, or shows what that would take.

    Raises:
        ValueError, OSError: Anything wrong with the configuration, the data or the folder.
        Interrupted: After Ctrl-C, with the state saved.
    """
    state = process_state()
    say = console.print if state.is_main_process else _silent
    if folder is None and config.out is not None:
        folder = RunFolder(Path(config.out))
    if folder is not None and not dry_run:
        folder.check_free(resume)
    parts = in_turn(state, lambda: build(config))
    _order(parts, state.process_index, state.num_processes)  # a batch that can't be is said now
    _foretell(parts, resume, say)
    if dry_run:
        describe(parts, state, say)
        return
    if not resume:
        parts = with_arithmetic(parts, state.device, state.num_processes)
    if folder is None:  # made this late, so that a run that is refused leaves no folder behind
        folder = RunFolder(from_main(state, lambda: next_folder(_stem(config, stem))))
    lock = folder.locked(resume) if state.is_main_process else nullcontext()
    with lock:
        if state.is_main_process and not resume:
            folder.write_config(parts.config)
        say(f"{title_line(parts.config)} -> {folder.path}")
        laid_out(parts, state.device)
        # From here on the teacher belongs to its stage alone, so that it can be freed with it.
        parts = dataclasses.replace(parts, teacher=None)
        try:
            _run(parts, folder, resume, console, say)
        except Interrupted:
            say(f"stopped and saved; go on with: dearkd {stem} --resume --out {folder.path}")
            raise


def _foretell(parts: Parts, resume: bool, say: Callable[..., None]) -> None:
    """What the user should know before anything takes time."""
    if parts.notes and not resume:
        say(f"defaults taken: {'; '.join(parts.notes)}")
    if (missing := missing_images(parts.config.data.train)) is not None:
        say(f"warning: {missing}")


def _run(
    parts: Parts,
    folder: RunFolder,
    resume: bool,
    console: Console,
    say: Callable[..., None],
) -> None:
    config, revision = parts.config, commit()
    accelerator = accelerator_of(
        config.precision,
        log_with=list(config.trackers) or None,
        project_dir=str(folder.path / "logs"),
    )
    accelerator.init_trackers("dearkd", config={"student": config.student, "seed": config.seed})
    try:
        trainer, heads = _fitted(parts, folder, resume, console, accelerator)
        if accelerator.is_main_process:
            trainer.save_weights(folder.model_file)
            folder.write_summary(summary(parts, trainer, heads, accelerator, revision))
            say(closing_line(folder.path, heads))
    finally:
        accelerator.end_training()


def _fitted(
    parts: Parts, folder: RunFolder, resume: bool, console: Console, accelerator: Accelerator
) -> tuple[Trainer, dict[str, dict[str, float]]]:
    """The trainer at the end of the last stage, and what each head of its student achieves."""
    config = parts.config
    student: Any = parts.student
    metadata = model_metadata(config, student, parts.class_names)
    loader, accumulate = _train_loader(parts, accelerator)
    images = _evaluation_images(parts, metadata, accelerator)

    def default_readout(model: nn.Module) -> dict[str, float]:
        assert images is not None
        return evaluate(model, images, accelerator, heads=("logits",))["logits"]

    with RunProgress(console, visible=accelerator.is_main_process) as progress:
        trainer = Trainer(
            config=config,
            folder=folder,
            student=student,
            stages=parts.stages,
            batches=DeviceBatches(loader, config, student.num_classes, accelerator.device),
            evaluation=default_readout if images is not None else None,
            accelerator=accelerator,
            progress=progress,
            metadata=metadata,
            accumulate=accumulate,
            probe=attention_probe(
                student,
                parts.evaluation or parts.train,
                metadata,
                accelerator.device,
                len(parts.train),
            ),
        )
        trainer.fit(resume)
    heads = evaluate(trainer.averaged, images, accelerator) if images is not None else {}
    return trainer, heads


def _train_loader(parts: Parts, accelerator: Accelerator) -> tuple[Loader, int]:
    """The loader of one process's forward passes, and how many of them make a step."""
    data = parts.config.data
    assert data.batch_size is not None
    assert data.img_size is not None
    look: Any = parts.student.pretrained_cfg
    assert data.augment != "auto"
    order, accumulate = _order(parts, accelerator.process_index, accelerator.num_processes)
    augment = train_augment(
        data.augment,
        data.img_size,
        mean=look["mean"],
        std=look["std"],
        flip=bool(data.flip),
        interpolation=look["interpolation"],
    )
    loader = train_loader(
        parts.train,
        augment,
        order,
        mixing=Mixing(mixup=data.mixup or 0.0, cutmix=data.cutmix or 0.0),
        class_map=parts.class_map,
        on_bad_image=data.on_bad_image,
        workers=worker_count(
            data.workers, data.img_size, accelerator.device, accelerator.num_processes
        ),
        pin_memory=accelerator.device.type == "cuda",
    )
    return loader, accumulate


def _order(parts: Parts, rank: int, world: int) -> tuple[EpochOrder, int]:
    """The views of each forward pass of one process, and how many of these make a step.

    Raises:
        ValueError: If the batch can't be cut up that way, or exceeds an epoch.
    """
    data = parts.config.data
    assert data.batch_size is not None
    micro = data.micro_batch or data.batch_size // world
    if micro == 0 or data.batch_size % (micro * world):
        raise ValueError(
            f"data.batch_size {data.batch_size} is not a multiple of data.micro_batch {micro} x "
            f"{world} processes; change one of them"
        )
    order = EpochOrder(
        images=len(parts.train),
        batch_size=micro * world,
        seed=parts.config.seed,
        repeats=data.repeats or 1,
        views=parts.full_size if data.keep_steps else None,
        rank=rank,
        world=world,
    )
    accumulate = data.batch_size // (micro * world)
    if order.steps_per_epoch < accumulate:
        raise ValueError(
            f"data.batch_size {data.batch_size} exceeds the {order.views_per_epoch} images of an "
            f"epoch; use at most {order.views_per_epoch // 2 * 2}"
        )
    return order, accumulate


def _evaluation_images(
    parts: Parts, metadata: dict[str, Any], accelerator: Accelerator
) -> Loader | None:
    if parts.evaluation is None:
        return None
    data = parts.config.data
    return evaluation_loader(
        parts.evaluation,
        metadata,
        metadata["img_size"],
        parts.class_map,
        accelerator,
        on_bad_image=data.on_bad_image,
        workers=data.workers,
    )


def _stem(config: TrainConfig, verb: str) -> str:
    """The name of a new run's folder, without its number."""
    data = Path(config.data.train).name or "data"
    return f"{verb if verb == 'teacher' else config.method}-{data}"


def _silent(*args: object, **kwargs: object) -> None:
    """What a process that is not the main one says."""

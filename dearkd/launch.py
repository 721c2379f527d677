"""What the verbs do: train a configuration into a run folder, or judge a trained model."""

import copy
import dataclasses
import json
import os
import sys
from collections.abc import Callable, Iterator
from contextlib import nullcontext
from pathlib import Path
from typing import Any, Literal

import torch
from accelerate import Accelerator, PartialState
from accelerate.utils import broadcast_object_list
from rich.console import Console
from rich.table import Table
from torch import Tensor, nn

from dearkd import estimate
from dearkd.augment import eval_augment, train_augment
from dearkd.build import (
    Parts,
    build,
    import_files,
    is_convolutional,
    load_run_model,
    model_metadata,
)
from dearkd.config import TrainConfig, to_yaml
from dearkd.data import ImageSource, match_classes, open_evaluation
from dearkd.evaluate import evaluate
from dearkd.loaders import Loader, eval_loader, train_loader
from dearkd.mixing import Mixing, mix, smooth
from dearkd.models.pretrained import load_classifier
from dearkd.order import EpochOrder
from dearkd.progress import RunProgress
from dearkd.runs import RunFolder, commit, next_folder, versions
from dearkd.train import Interrupted, Trainer

__all__ = ["evaluate_target", "train"]

EVALUATION_BATCH = 128
MEASURED_IMAGES = 16
"""Images in the forward passes that are timed to choose precision and to estimate."""
SMALL = 64


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
    state = PartialState()
    say = console.print if state.is_main_process else _silent
    if folder is None:
        folder = RunFolder(_run_folder(config, stem))
    if not dry_run:
        folder.check_free(resume)
    parts = build(config)
    _order(parts, state.process_index, state.num_processes)  # a batch that can't be is said now
    if parts.notes and not resume:
        say(f"defaults taken: {'; '.join(parts.notes)}")
    if dry_run:
        _describe(parts, state.device, console)
        return
    lock = folder.locked(resume) if state.is_main_process else nullcontext()
    with lock:
        if not resume:
            parts = _with_arithmetic(parts, state.device)
            if state.is_main_process:
                folder.write_config(parts.config)
        say(f"{_title(parts.config)} -> {folder.path}")
        _laid_out(parts, state.device)
        # From here on the teacher belongs to its stage alone, so that it can be freed with it.
        parts = dataclasses.replace(parts, teacher=None)
        try:
            _run(parts, folder, resume, console, say)
        except Interrupted:
            say(f"stopped and saved; go on with: dearkd {stem} --resume --out {folder.path}")
            raise


def evaluate_target(
    target: str,
    *,
    console: Console,
    data: str | None = None,
    weights: Path | None = None,
    which: str = "final",
    batch_size: int = 64,
    img_size: int | None = None,
    imports: tuple[str, ...] = (),
    as_json: bool = False,
) -> dict[str, dict[str, float]]:
    """Prints and returns top-1 and top-5 of a run folder or a timm model, per head.

    Raises:
        ValueError: If the target is unknown, has no weights, or its classes are not the data's.
    """
    import_files(imports)
    folder = RunFolder(Path(target))
    if folder.path.is_dir():
        if weights is not None:
            raise ValueError(f"--weights {weights} is for a timm name; a run folder has its own")
        model: Any
        model, metadata = load_run_model(folder, which)
        class_names, view = metadata["class_names"], metadata
        size = img_size or metadata["img_size"]
        source = _evaluation_source(folder, data)
    else:
        if data is None:
            raise ValueError(f"{target} is not a run folder, so --data must name the images")
        model, class_names = load_classifier(target, weights=weights)
        view = model.pretrained_cfg
        size = img_size or view["input_size"][-1]
        source = open_evaluation(data)
    if img_size is not None and hasattr(model, "set_input_size"):
        model.set_input_size(img_size=img_size)
    class_map = match_classes(source.classes, class_names, model.num_classes)
    accelerator = Accelerator()
    loader = _eval_loader(source, view, size, class_map, accelerator, batch_size)
    model = model.to(accelerator.device)
    result = evaluate(model, _watched(loader, console, accelerator), accelerator)
    if accelerator.is_main_process:
        _print_result(target, result, console, as_json)
    return result


class _DeviceBatches:
    """Training batches on the device, mixed there."""

    def __init__(self, loader: Loader, config: TrainConfig, num_classes: int, device: torch.device):
        self.steps = len(loader)
        self._loader = loader
        self._smoothing = config.data.smoothing
        self._mixes = bool(config.data.mixup or config.data.cutmix)
        self._num_classes = num_classes
        self._device = device

    def __call__(self, epoch: int, start: int) -> Iterator[tuple[Tensor, Tensor]]:
        for batch in self._loader.epoch(epoch, start):
            images = batch["image"].to(self._device, non_blocking=True)
            labels = batch["label"].to(self._device, non_blocking=True)
            if self._mixes:
                weight = batch["weight"].to(self._device, non_blocking=True)
                box = batch["box"].to(self._device, non_blocking=True)
                yield mix(images, labels, weight, box, self._num_classes, self._smoothing)
            else:
                yield images, smooth(labels, self._num_classes, self._smoothing)


def _run(
    parts: Parts,
    folder: RunFolder,
    resume: bool,
    console: Console,
    say: Callable[..., None],
) -> None:
    config, revision = parts.config, commit()
    accelerator = Accelerator(
        mixed_precision="bf16" if config.precision == "bf16" else "no",
        log_with=list(config.trackers) or None,
        project_dir=str(folder.path / "logs"),
    )
    accelerator.init_trackers("dearkd", config={"student": config.student, "seed": config.seed})
    student: Any = parts.student
    metadata = model_metadata(config, student, parts.class_names)
    loader, accumulate = _train_loader(parts, accelerator)
    evaluation = _evaluation(parts, metadata, accelerator)
    with RunProgress(console, visible=accelerator.is_main_process) as progress:
        trainer = Trainer(
            config=config,
            folder=folder,
            student=student,
            stages=parts.stages,
            batches=_DeviceBatches(loader, config, student.num_classes, accelerator.device),
            evaluation=evaluation,
            accelerator=accelerator,
            progress=progress,
            metadata=metadata,
            accumulate=accumulate,
        )
        trainer.fit(resume)
    heads = _all_heads(parts, trainer, metadata, accelerator)
    if accelerator.is_main_process:
        trainer.save_weights(folder.model_file)
        folder.write_summary(_summary(parts, trainer, heads, accelerator, revision))
        say(_closing(folder, heads))
    accelerator.end_training()


def _train_loader(parts: Parts, accelerator: Accelerator) -> tuple[Loader, int]:
    """The loader of one process's forward passes, and how many of them make a step."""
    config, data = parts.config, parts.config.data
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
        interpolation=look["interpolation"],
    )
    loader = train_loader(
        parts.train,
        augment,
        order,
        mixing=Mixing(mixup=data.mixup or 0.0, cutmix=data.cutmix or 0.0),
        class_map=parts.class_map,
        on_bad_image=data.on_bad_image,
        workers=_workers(config, accelerator.device),
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


def _workers(config: TrainConfig, device: torch.device) -> int:
    """Loader processes where none are named: small images on a CPU are cheaper in place."""
    if config.data.workers is not None:
        return config.data.workers
    if device.type == "cpu" and (config.data.img_size or 0) <= SMALL:
        return 0
    return min(16, os.cpu_count() or 1)


def _evaluation(
    parts: Parts, metadata: dict[str, Any], accelerator: Accelerator
) -> Callable[[nn.Module], dict[str, float]] | None:
    """Top-1 and top-5 of a model by its default readout, or None without evaluation data."""
    if parts.evaluation is None:
        return None
    loader = _parts_eval_loader(parts, metadata, accelerator)
    return lambda model: evaluate(model, loader, accelerator, heads=("logits",))["logits"]


def _all_heads(
    parts: Parts, trainer: Trainer, metadata: dict[str, Any], accelerator: Accelerator
) -> dict[str, dict[str, float]]:
    if parts.evaluation is None:
        return {}
    return evaluate(trainer.averaged, _parts_eval_loader(parts, metadata, accelerator), accelerator)


def _parts_eval_loader(parts: Parts, metadata: dict[str, Any], accelerator: Accelerator) -> Loader:
    assert parts.evaluation is not None
    return _eval_loader(
        parts.evaluation,
        metadata,
        metadata["img_size"],
        parts.class_map,
        accelerator,
        EVALUATION_BATCH,
        parts.config.data.on_bad_image,
    )


def _eval_loader(
    source: ImageSource,
    view: Any,
    img_size: int,
    class_map: tuple[int, ...],
    accelerator: Accelerator,
    batch_size: int,
    on_bad_image: Literal["skip", "fail"] = "skip",
) -> Loader:
    """Every image once over all processes, seen as the model's ``view`` settings say."""
    augment = eval_augment(
        img_size,
        mean=tuple(view["mean"]),
        std=tuple(view["std"]),
        crop_pct=view["crop_pct"],
        interpolation=view["interpolation"],
    )
    return eval_loader(
        source,
        augment,
        batch_size,
        class_map=class_map,
        on_bad_image=on_bad_image,
        rank=accelerator.process_index,
        world=accelerator.num_processes,
    )


def _with_arithmetic(parts: Parts, device: torch.device) -> Parts:
    """Chooses precision and memory layout by timing, where the config says auto.

    The choice is stored with the run: a resumed run must not measure anew and choose otherwise.
    """
    config, images = parts.config, _sample(parts.config, device)
    student = copy.deepcopy(parts.student).to(device).train()
    chosen: list[Any] = [config.precision, config.memory_format]
    if is_convolutional(student):
        chosen = estimate.faster_arithmetic(
            lambda: _student_step(student, images), student, device, *chosen
        )
    else:
        chosen = estimate.faster_arithmetic(
            lambda: _student_step(student, images), student, device, chosen[0], "contiguous"
        )
    teacher = config.teacher
    if parts.teacher is not None:
        frozen = parts.teacher.to(device)
        chosen += estimate.faster_arithmetic(
            lambda: frozen(images), frozen.model, device, teacher.precision, teacher.memory_format
        )
    broadcast_object_list(chosen)
    if parts.teacher is not None:
        teacher = dataclasses.replace(teacher, precision=chosen[2], memory_format=chosen[3])
    config = dataclasses.replace(
        config, precision=chosen[0], memory_format=chosen[1], teacher=teacher
    )
    return dataclasses.replace(parts, config=config)


def _laid_out(parts: Parts, device: torch.device) -> None:
    """Puts student and teacher on the device in the chosen layout and precision."""
    config = parts.config
    parts.student.to(device, memory_format=estimate.LAYOUTS[config.memory_format])  # type: ignore[call-overload]
    if parts.teacher is not None:
        parts.teacher.to(device)
        parts.teacher.precision = config.teacher.precision
        parts.teacher.set_memory_format(estimate.LAYOUTS[config.teacher.memory_format])


def _sample(config: TrainConfig, device: torch.device) -> Tensor:
    """Noise of the run's image size, to time models with."""
    size = config.data.img_size
    assert size is not None
    return torch.rand(MEASURED_IMAGES, 3, size, size, device=device)


def _student_step(student: nn.Module, images: Tensor) -> None:
    outputs = student(images)
    total: Tensor = (
        sum(part.float().sum() for part in outputs)
        if isinstance(outputs, tuple)
        else outputs.float().sum()
    )
    total.backward()  # type: ignore[no-untyped-call]


def _run_folder(config: TrainConfig, stem: str) -> Path:
    """The named folder, or the next free one, the same on every process."""
    if config.out is not None:
        return Path(config.out)
    data = Path(config.data.train).name or "data"
    name = stem if stem == "teacher" else config.method
    path = [str(next_folder(f"{name}-{data}"))]
    broadcast_object_list(path)
    return Path(path[0])


def _describe(parts: Parts, device: torch.device, console: Console) -> None:
    """The dry run: configuration, sizes, work, and what time and memory it will take."""
    config, data = parts.config, parts.config.data
    assert data.img_size is not None
    assert data.batch_size is not None
    student: Any = parts.student.to(device)
    console.print(to_yaml(config), markup=False)
    table = Table("", "parameters", "GMACs an image", title=f"at {data.img_size} px")
    models = {f"student {config.student}": student}
    if parts.teacher is not None:
        models[f"teacher {config.teacher.name}"] = parts.teacher.model.to(device)
    for name, model in models.items():
        macs = estimate.multiply_adds(model, data.img_size) / 1e9
        table.add_row(name, f"{estimate.parameter_count(model):,}", f"{macs:.3f}")
    console.print(table)
    views = parts.full_size if data.keep_steps else len(parts.train)
    steps = views // data.batch_size
    seconds, memory = _costs(parts, device)
    total = views * (config.stage1 * seconds[0] + config.stage2 * seconds[1])
    console.print(
        f"{len(parts.train)} training images, {steps} steps of {data.batch_size} an epoch, "
        f"{steps * config.epochs} steps in {config.epochs} epochs"
    )
    console.print(
        f"about {total / 3600:.2f} h and {memory / 2**30:.1f} GiB on {device} "
        f"({1 / seconds[0]:.0f} images/s with the teacher, {1 / seconds[1]:.0f} without; "
        f"measured on {MEASURED_IMAGES} images)"
    )


def _costs(parts: Parts, device: torch.device) -> tuple[tuple[float, float], float]:
    """((seconds an image with and without the teacher), bytes at the configured batch)."""
    config = parts.config
    images = _sample(config, device)
    student: Any = copy.deepcopy(parts.student).train()
    step = estimate.seconds_per_call(lambda: _student_step(student, images), device, repeats=2)
    teach = 0.0
    if parts.teacher is not None:
        teacher = parts.teacher.to(device)
        teach = estimate.seconds_per_call(lambda: teacher(images), device, repeats=2)
    micro = config.data.micro_batch or config.data.batch_size or 1
    activations = estimate.activation_bytes(lambda: student(images)) / MEASURED_IMAGES * micro
    states = 4 + bool(config.optim.ema_decay)  # weights, gradients, two moments, average
    memory = 4 * states * estimate.parameter_count(student) + activations
    if parts.teacher is not None:
        memory += 4 * estimate.parameter_count(parts.teacher)
    both = (step + teach) / MEASURED_IMAGES
    alone = step / MEASURED_IMAGES if config.method in ("dearkd", "ce") else both
    return (both, alone), memory


def _summary(
    parts: Parts,
    trainer: Trainer,
    heads: dict[str, dict[str, float]],
    accelerator: Accelerator,
    revision: str | None,
) -> dict[str, Any]:
    config, position = parts.config, trainer.position
    final = heads.get("logits", {"top1": None, "top5": None})
    return {
        "method": config.method,
        "student": config.student,
        "teacher": config.teacher.name,
        "data": config.data.train,
        "train_images": len(parts.train),
        "eval_images": heads["images"]["count"] if heads else None,
        "epochs": config.epochs,
        "top1": final["top1"],
        "top5": final["top5"],
        "heads": {name: value for name, value in heads.items() if name != "images"},
        "best_top1": position.best_top1,
        "best_epoch": position.best_epoch,
        "parameters": estimate.parameter_count(parts.student),
        "seconds": round(position.seconds, 1),
        "device": _device_name(accelerator.device),
        "threads": torch.get_num_threads(),
        "processes": accelerator.num_processes,
        "precision": config.precision,
        "seed": config.seed,
        "versions": versions(),
        "python": sys.version.split()[0],
        "commit": revision,
    }


def _device_name(device: torch.device) -> str:
    return torch.cuda.get_device_name(device) if device.type == "cuda" else device.type


def _title(config: TrainConfig) -> str:
    teacher = f" from {config.teacher.name}" if config.teacher.name else ""
    return (
        f"{config.method}: {config.student}{teacher} on {config.data.train}, "
        f"{config.epochs} epochs, {config.precision}"
    )


def _closing(folder: RunFolder, heads: dict[str, dict[str, float]]) -> str:
    if not heads:
        return f"done (no evaluation data, so no top-1): {folder.path}"
    return f"done: top-1 {heads['logits']['top1']:.2f} %: {folder.path}"


def _print_result(
    target: str, result: dict[str, dict[str, float]], console: Console, as_json: bool
) -> None:
    if as_json:
        console.print_json(json.dumps(result))
        return
    count = result["images"]["count"]
    table = Table("head", "top-1 %", "top-5 %", title=f"{target}, {count} images")
    for head, value in result.items():
        if head != "images":
            table.add_row(head, f"{value['top1']:.2f}", f"{value['top5']:.2f}")
    console.print(table)


def _evaluation_source(folder: RunFolder, data: str | None) -> ImageSource:
    if data is not None:
        return open_evaluation(data)
    config = folder.read_config()
    return open_evaluation(config.data.evaluation or config.data.train)


def _watched(loader: Loader, console: Console, accelerator: Accelerator) -> Iterator[Any]:
    """The batches under a progress bar, on one process's terminal."""
    from rich.progress import track

    if accelerator.is_main_process and console.is_terminal:
        yield from track(loader, "evaluating", total=len(loader), console=console)
    else:
        yield from loader


def _silent(*args: object, **kwargs: object) -> None:
    """What a process that is not the main one says."""

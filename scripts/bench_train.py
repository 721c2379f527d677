"""Seconds a training step: ours beside timm's tasks, same networks, same images, in one process.

    python scripts/bench_train.py --json scripts/results/bench_train.json
    python scripts/bench_train.py --student dearkd_tiny_patch16_224 --teacher regnety_160 --batch 8
    python scripts/bench_train.py --device cuda --student dearkd_tiny_patch16_224 \
        --teacher regnety_160 --batch 256 --json scripts/results/bench_train_cuda.json

"stage 1" is DearKD's step with label and feature distillation against timm's
``TokenDistillationTask`` (labels alone), in float32 and under its bf16 autocast; "cached" has the
teacher's labels from a folder, as ``--cache-labels`` keeps them. "plain" is cross-entropy against
``ClassificationTask``. "epoch" is so many stage-1 steps end to end, loader included, on pictures
of the student's size; its "waiting" is the share of the time that our loader keeps the loop. timm's
steps follow its train.py: its AdamW, and the loss read every step. ``--compile`` adds both sides
under torch.compile. Weights are random, which costs a step the same. Before anything is timed, the
losses of DeiT's hard distillation are compared: ours and timm's must be equal.
"""

import argparse
import atexit
import copy
import shutil
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import timm
import torch
from bench_data import BATCH
from bench_data import ours as our_batches
from bench_data import peer as timm_batches
from side_by_side import (
    WARM_UP,
    floors,
    in_turns,
    machine,
    own_peak_gigabytes,
    peak_gigabytes,
    print_rows,
    write,
)
from timm.optim import create_optimizer_v2
from timm.task import ClassificationTask, TokenDistillationTask
from torch import Tensor, nn

import dearkd.models  # noqa: F401 - registers the students with timm
from dearkd.labels.answers import Answers
from dearkd.labels.folder import LabelFolder
from dearkd.labels.memory import LabelMemory
from dearkd.models.attention import set_attention
from dearkd.models.cost import LAYOUTS, multiply_adds, parameter_count
from dearkd.models.pairs import AlignedPair, default_pair
from dearkd.models.precision import precision_context
from dearkd.models.teacher import Teacher
from dearkd.objectives import CrossEntropy, DearKD, Distillation
from dearkd.training.arithmetic import layout_rule, precision_rule
from dearkd.training.compiling import compile_step
from dearkd.training.optim import build_optimizer
from dearkd.training.settings import OptimConfig

Step = Callable[[], None]
Batch = Callable[[], tuple[Tensor, Tensor]]
"""What a step takes: always the same images, or the next ones of a loader."""

EPOCH_STEPS = 10
"""Steps of a call of the row "epoch"."""


def our_step(
    objective: nn.Module,
    batch: Batch,
    device: torch.device,
    cached: bool = False,
    compiled: bool = False,
) -> Step:
    """The step of ``dearkd.training.loop``, in the arithmetic that ``auto`` takes here."""
    objective.to(device).train()
    student: Any = objective.student
    precision = precision_rule(student, device)[0]
    student.to(memory_format=LAYOUTS[layout_rule(student, device, precision)[0]])
    set_attention(student, device)
    teacher = getattr(objective, "teacher", None)
    if teacher is not None:
        teacher.precision = precision_rule(teacher.model, device)[0]
        layout = layout_rule(teacher.model, device, teacher.precision)[0]
        teacher.set_memory_format(LAYOUTS[layout])
    optimizer = build_optimizer(objective, OptimConfig(lr=1e-4))
    if compiled:
        compile_step(objective, optimizer, device)
    views = None
    if cached and teacher is not None:
        views = torch.arange(len(batch()[0]))
        folder = Path(tempfile.mkdtemp())
        atexit.register(shutil.rmtree, folder, ignore_errors=True)
        answers = Answers("labels", student.num_classes)
        teacher.memory = LabelMemory(LabelFolder(folder, answers, len(views), "bench"))
        teacher.memory.recall(views, device)
        teacher(batch()[0], views=views)
        teacher.memory.save()

    def step() -> None:
        images, labels = batch()
        with precision_context(device, precision):
            loss = objective(images, labels, views)["loss"]
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()

    return step


def timm_step(
    task: Any, batch: Batch, device: torch.device, bf16: bool = False, compiled: bool = False
) -> Step:
    """The step of timm's train.py."""
    task.to(device).train()
    if compiled:  # as ours is: replayed as CUDA graphs where there is CUDA
        task.compile(mode="reduce-overhead" if device.type == "cuda" else None)
    optimizer: Any = create_optimizer_v2(task.trainable_module, opt="adamw", lr=1e-4)

    def step() -> None:
        images, labels = batch()
        with torch.autocast(device.type, torch.bfloat16, enabled=bf16):
            loss = task(images, labels)["loss"]
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        loss.item()

    return step


def earlier_tap(student: nn.Module, teacher: Teacher) -> DearKD:
    """DearKD that aligns the stage before its default one, on a grid twice as fine."""
    pair = default_pair(student, teacher)
    return DearKD(student, teacher, pairs=[AlignedPair(pair.block, pair.stage - 1)])


def distillation_task(student: nn.Module, teacher: nn.Module, device: torch.device) -> Any:
    """Hard token distillation by timm, weighted as DeiT has it."""
    return TokenDistillationTask(
        copy.deepcopy(student),
        copy.deepcopy(teacher),
        criterion=nn.CrossEntropyLoss(),
        distill_type="hard",
        task_loss_weight=0.5,
        device=device,
        verbose=False,
    )


def steps(args: argparse.Namespace) -> tuple[dict[str, dict[str, Step]], dict[str, float]]:
    """The steps of each row by path, and what was compared before."""
    torch.manual_seed(0)
    device = torch.device(args.device)
    student: Any = timm.create_model(args.student).to(device)
    teacher: Any = timm.create_model(args.teacher, num_classes=student.num_classes).to(device)
    cfg = student.pretrained_cfg
    images = torch.randn(args.batch, *cfg["input_size"], device=device)
    labels = torch.randint(0, student.num_classes, (args.batch,), device=device)

    def guide() -> Teacher:
        return Teacher(
            copy.deepcopy(teacher),
            student_mean=cfg["mean"],
            student_std=cfg["std"],
            img_size=cfg["input_size"][-1],
        )

    hard = Distillation(copy.deepcopy(student), guide()).to(device).train()
    with torch.no_grad():
        ours = hard(images, labels)["loss"].item()
        theirs = distillation_task(student, teacher, device).train()(images, labels)["loss"].item()
    if abs(ours - theirs) > 1e-5 * abs(theirs):
        raise SystemExit(f"the losses differ: ours {ours}, timm's {theirs}")

    def task() -> Any:
        return distillation_task(student, teacher, device)

    def plain() -> Any:
        criterion = nn.CrossEntropyLoss()
        bare = copy.deepcopy(student)
        bare.set_distilled_training(False)
        return ClassificationTask(bare, criterion, device=device, verbose=False)

    own = copy.deepcopy
    fixed: Batch = lambda: (images, labels)  # noqa: E731
    rows = {
        "stage 1": {
            "ours": our_step(DearKD(own(student), guide()), fixed, device),
            "ours, cached": our_step(DearKD(own(student), guide()), fixed, device, cached=True),
            "ours, cached, tap one stage earlier": our_step(
                earlier_tap(own(student), guide()), fixed, device, cached=True
            ),
            "ours, labels alone": our_step(Distillation(own(student), guide()), fixed, device),
            "ours, labels alone, cached": our_step(
                Distillation(own(student), guide()), fixed, device, cached=True
            ),
            "timm, fp32": timm_step(task(), fixed, device),
            "timm, bf16 autocast": timm_step(task(), fixed, device, bf16=True),
        },
        "plain": {
            "ours": our_step(CrossEntropy(own(student)), fixed, device),
            "timm, fp32": timm_step(plain(), fixed, device),
            "timm, bf16 autocast": timm_step(plain(), fixed, device, bf16=True),
        },
    }
    if args.compile:
        compiled: dict[str, Any] = {"batch": fixed, "device": device, "compiled": True}
        rows["stage 1"] |= {
            "ours, compiled": our_step(DearKD(own(student), guide()), **compiled),
            "ours, cached, compiled": our_step(
                DearKD(own(student), guide()), cached=True, **compiled
            ),
            "timm, fp32, compiled": timm_step(task(), **compiled),
            "timm, bf16 autocast, compiled": timm_step(task(), bf16=True, **compiled),
        }
        rows["plain"] |= {
            "ours, compiled": our_step(CrossEntropy(own(student)), **compiled),
            "timm, fp32, compiled": timm_step(plain(), **compiled),
            "timm, bf16 autocast, compiled": timm_step(plain(), bf16=True, **compiled),
        }
    if cfg["input_size"][-1] <= 64 and args.batch == BATCH:
        rows["epoch"] = epoch_paths(args, lambda: DearKD(own(student), guide()), task, device)
    return rows, {"loss_ours": ours, "loss_timm": theirs}


def epoch_paths(
    args: argparse.Namespace,
    objective: Callable[[], nn.Module],
    task: Callable[[], Any],
    device: Any,
) -> dict[str, Step]:
    """Steps with their loaders: pad, crop and mirror."""
    size = timm.get_pretrained_cfg(args.student).input_size[-1]
    waited = args.waited = {"ours": 0.0, "timm": 0.0}

    def drawn(batches: Iterator[Any], name: str) -> Batch:
        labels = torch.randint(0, 10, (args.batch,), device=device)

        def batch() -> tuple[Tensor, Tensor]:
            started = time.perf_counter()
            images = next(batches)
            waited[name] += time.perf_counter() - started
            return images.to(device), labels

        return batch

    def often(step: Step) -> Step:
        def steps() -> None:
            for _ in range(EPOCH_STEPS):
                step()

        return steps

    theirs = timm_batches("light", size, 0, device)
    return {
        "ours": often(
            our_step(
                objective(), drawn(our_batches("light", size, None, 0, device), "ours"), device
            )
        ),
        "timm, fp32": often(timm_step(task(), drawn(theirs, "timm"), device)),
    }


def least(args: argparse.Namespace, row: str) -> dict[str, float]:
    """The floors of a step: three passes of the student, one of the teacher; AdamW's numbers."""
    student = timm.create_model(args.student).to(args.device)
    size = student.pretrained_cfg["input_size"][-1]
    operations = 6 * multiply_adds(student, size) * args.batch
    if row == "stage 1":
        teacher = timm.create_model(args.teacher).to(args.device)
        operations += 2 * multiply_adds(teacher, size) * args.batch
    return floors(operations, 7 * parameter_count(student), args.device)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--student", default="dearkd_mini_patch4_32")
    parser.add_argument("--teacher", default="dearkd_cnn8_32")
    parser.add_argument("--batch", type=int, default=64)
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    parser.add_argument("--compile", action="store_true", help="both sides under torch.compile too")
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--row", choices=("stage 1", "plain", "epoch"), help="one row alone")
    parser.add_argument("--path", help="one path of the row alone, for its memory")
    parser.add_argument("--only-memory", action="store_true", help="two steps, then the peak in GB")
    parser.add_argument("--json", type=Path, help="where to write the numbers")
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    rows, compared = steps(args)
    if args.only_memory:
        for _ in range(2):
            rows[args.row][args.path]()
        print(own_peak_gigabytes())
        return
    result: dict[str, Any] = {
        "machine": machine(args.device),
        "settings": vars(args),
        "compared": compared,
        "rows": [],
    }
    for name, paths in rows.items():
        if args.row in (None, name):
            seconds = in_turns(paths, args.rounds, args.device)
            row = {"work": name, "seconds": seconds}
            if name == "epoch":
                calls = args.rounds + WARM_UP
                row["waiting"] = {
                    path: args.waited[path.split(",")[0]] / (calls * times["median"])
                    for path, times in seconds.items()
                }
            else:
                row["floor"] = least(args, name)
            result["rows"].append(row)
    if args.device == "cpu" and not args.compile:  # a compiler's own memory is no step's
        same = ["--student", args.student, "--teacher", args.teacher, "--batch", str(args.batch)]
        for row in result["rows"]:
            row["peak_gigabytes"] = {
                path: peak_gigabytes(__file__, *same, "--row", row["work"], "--path", path)
                for path in row["seconds"]
            }
    print_rows(result["rows"])
    write(args.json, result)


if __name__ == "__main__":
    main()

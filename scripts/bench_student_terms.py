"""Seconds of an inversion step whose student competes: its linear layers in bf16 and in float32.

    python scripts/bench_student_terms.py --json scripts/results/bench_student_terms_cpu.json

The teacher is in bf16 in both. Networks have random weights, which costs a step the same; both take
turns in one process, and their gradients are compared before anything is timed.
"""

import argparse
from collections.abc import Callable
from pathlib import Path

import timm
import torch
from side_by_side import in_turns, machine, print_rows, write

import dearkd.models  # noqa: F401 - registers our networks with timm
from synth.classifier import Classifier
from synth.groups import Group
from synth.objective import Objective, targets_of
from synth.objective_settings import ObjectiveConfig

CLASSES, IMAGES_A_CLASS = 10, 10
CONFIG = ObjectiveConfig(adversary_weight=1.1)
GROUP = Group(id=0, targets=tuple(c for c in range(CLASSES) for _ in range(IMAGES_A_CLASS)))
CLOSE = 0.05
"""Largest difference of the gradients, as a share of their own size."""


def main() -> None:
    """Prints a row of the whole step and one of the CNN's part alone."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--teacher", default="dearkd_cnn8_32")
    parser.add_argument("--student", default="dearkd_mini_patch4_32")
    parser.add_argument("--size", type=int, default=32, help="pixels a side")
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--json", type=Path)
    given = parser.parse_args()
    torch.manual_seed(0)
    teacher, student = (_classifier(name, given.size) for name in (given.teacher, given.student))
    images = torch.randn(len(GROUP.targets), 3, given.size, given.size, requires_grad=True)
    ours, exact = (
        Objective(teacher, CONFIG, dtype=torch.bfloat16, student=student) for _ in range(2)
    )
    exact.dtype = torch.float32  # of the student alone: the teacher's copy stays in bf16
    calls = {"ours": _step(ours, images), "float32 student": _step(exact, images)}
    gradients = [call() for call in calls.values()]
    assert (gradients[0] - gradients[1]).norm() <= CLOSE * gradients[1].norm()
    alone = Objective(teacher, ObjectiveConfig(), dtype=torch.bfloat16)
    calls["no student"] = _step(alone, images)
    row = {
        "work": f"{given.teacher} and {given.student}, {len(images)} images of {given.size} px",
        "seconds": in_turns(calls, given.rounds),
    }
    print_rows([row])
    write(given.json, {"machine": machine(), "rows": [row]})


def _classifier(name: str, size: int) -> Classifier:
    network = timm.create_model(name, num_classes=CLASSES).eval()
    half = (0.5, 0.5, 0.5)
    return Classifier(
        name=name, network=network, mean=half, std=half, img_size=size, num_classes=CLASSES
    )


def _step(objective: Objective, images: torch.Tensor) -> Callable[[], torch.Tensor]:
    """The gradient of the objective with respect to the images."""
    targets = targets_of((GROUP,), objective.config, "cpu")

    def call() -> torch.Tensor:
        total = objective(images, targets)["objective"].sum()
        return torch.autograd.grad(total, images)[0]

    return call


if __name__ == "__main__":
    main()

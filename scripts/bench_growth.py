r"""How the cost of a training step grows with tokens, batch, classes, images and processes.

    python scripts/bench_growth.py --json scripts/results/growth_cpu.json \
        --svg scripts/results/growth_cpu.svg

Each point is a process of its own: DearKD's first stage of the micro student under
`dearkd_cnn8_32`, 16 images, its median seconds a step and its peak memory, process included.
"images" is how long an image folder of so many files (links) takes to open. "processes" are that
many single-threaded runs of the same step side by side; seconds are of one step of each.
"""

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import timm
import torch
from PIL import Image
from side_by_side import machine, own_peak_gigabytes, write

import dearkd.models  # noqa: F401 - registers the students with timm
from dearkd.data.datasets import open_data
from dearkd.models.attention import set_attention
from dearkd.models.cost import LAYOUTS
from dearkd.models.precision import precision_context
from dearkd.models.teacher import Teacher
from dearkd.objectives import DearKD
from dearkd.training.arithmetic import layout_rule, precision_rule
from dearkd.training.optim import build_optimizer
from dearkd.training.settings import OptimConfig

POINTS = {
    "tokens": (32, 56, 80, 104, 128),  # pixels a side: 66 to 1,026 tokens
    "batch": (16, 32, 64, 128),
    "classes": (10, 100, 1000, 10_000),
    "images": (1_000, 10_000, 100_000),
    "processes": (1, 2),
}
FIXED = {"tokens": 32, "batch": 16, "classes": 10}
STEPS = 3


def training_step(side: int, batch: int, classes: int) -> Callable[[], None]:
    """A step of DearKD's first stage: forward, backward and optimizer."""
    torch.manual_seed(0)
    device = torch.device("cpu")
    student: Any = timm.create_model(
        "dearkd_mini_patch4_32", img_size=side, num_classes=classes
    ).train()
    teacher = Teacher(
        timm.create_model("dearkd_cnn8_32", num_classes=classes),
        student_mean=student.pretrained_cfg["mean"],
        student_std=student.pretrained_cfg["std"],
        img_size=side,
    )
    objective = DearKD(student, teacher).train()
    precision = precision_rule(student, device)[0]
    teacher.precision = precision_rule(teacher.model, device)[0]
    teacher.set_memory_format(LAYOUTS[layout_rule(teacher.model, device, teacher.precision)[0]])
    set_attention(student, device)
    optimizer = build_optimizer(objective, OptimConfig(lr=1e-4))
    images, labels = torch.randn(batch, 3, side, side), torch.randint(0, classes, (batch,))

    def step() -> None:
        with precision_context(device, precision):
            loss = objective(images, labels)["loss"]
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()

    return step


def step_cost(side: int, batch: int, classes: int) -> dict[str, float]:
    """Median seconds of a step, and the peak memory of this process in GB."""
    step, seconds = training_step(side, batch, classes), []
    for _ in range(STEPS + 1):
        started = time.perf_counter()
        step()
        seconds.append(time.perf_counter() - started)
    return {"seconds": statistics.median(seconds[1:]), "gigabytes": own_peak_gigabytes()}


def opening_cost(count: int) -> dict[str, float]:
    """Seconds to open an image folder of so many files, and the peak memory in GB."""
    with tempfile.TemporaryDirectory() as folder:
        picture = Path(folder) / "picture.png"
        Image.new("RGB", (32, 32)).save(picture)
        for number in range(count):
            target = Path(folder) / "data" / f"class{number % 10}" / f"{number}.png"
            target.parent.mkdir(parents=True, exist_ok=True)
            target.symlink_to(picture)
        started = time.perf_counter()
        source, _ = open_data(str(Path(folder) / "data"), None)
        source.image(count - 1)
        return {"seconds": time.perf_counter() - started, "gigabytes": own_peak_gigabytes()}


def measured(axis: str, value: int) -> dict[str, float]:
    """One point, in a process or several side by side."""
    side_by_side = value if axis == "processes" else 1
    command = [sys.executable, __file__, "--point", axis, str(value)]
    running = [
        subprocess.Popen(command, stdout=subprocess.PIPE, text=True) for _ in range(side_by_side)
    ]
    found = [json.loads(child.communicate()[0]) for child in running]
    return {
        "value": value,
        "seconds": statistics.mean(point["seconds"] for point in found),
        "gigabytes": sum(point["gigabytes"] for point in found),
    }


def point(axis: str, value: int) -> dict[str, float]:
    """What a child process measures."""
    torch.set_num_threads(1)
    if axis == "images":
        return opening_cost(value)
    sizes = FIXED | ({axis: value} if axis in FIXED else {})
    return step_cost(sizes["tokens"], sizes["batch"], sizes["classes"])


def svg(rows: dict[str, list[dict[str, float]]]) -> str:
    """A panel an axis: seconds above, memory below; points stand at equal steps, from 0 up."""
    width, height, gap = 190, 120, 40
    parts = []
    for column, (axis, points) in enumerate(rows.items()):
        for line, (key, unit) in enumerate((("seconds", "s"), ("gigabytes", "GB"))):
            left, top = gap + column * (width + gap), gap + line * (height + 2 * gap)
            most = max(found[key] for found in points)
            step = width / max(1, len(points) - 1)
            places = [
                (left + step * index, top + height * (1 - found[key] / most))
                for index, found in enumerate(points)
            ]
            path = " ".join(f"{x:.1f},{y:.1f}" for x, y in places)
            parts.append(f'<text x="{left}" y="{top - 10}">{unit} against {axis}</text>')
            parts.append(
                f'<path d="M{left},{top}v{height}h{width}" fill="none" stroke="#8792a2"/>'
                f'<polyline points="{path}" fill="none" stroke="#3f7fd9" stroke-width="2"/>'
            )
            for (x, y), found in zip(places, points, strict=True):
                parts.append(f'<circle cx="{x:.1f}" cy="{y:.1f}" r="3" fill="#3f7fd9"/>')
                parts.append(
                    f'<text x="{x:.1f}" y="{y - 6:.1f}" font-size="9" text-anchor="middle">'
                    f"{found[key]:.2g}</text>"
                )
                name = (int(found["value"]) // 4) ** 2 + 2 if axis == "tokens" else found["value"]
                parts.append(
                    f'<text x="{x:.1f}" y="{top + height + 14}" font-size="9" '
                    f'text-anchor="middle">{name:,}</text>'
                )
    whole = (gap + len(rows) * (width + gap), 2 * (height + 2 * gap))
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {whole[0]} {whole[1]}" '
        'font-family="sans-serif" font-size="12" fill="#1c2430">'
        f'<rect width="100%" height="100%" fill="#ffffff"/>{"".join(parts)}</svg>\n'
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--point", nargs=2, metavar=("AXIS", "VALUE"), help="one point, as JSON")
    parser.add_argument("--json", type=Path, help="where to write the numbers")
    parser.add_argument("--svg", type=Path, help="where to draw them")
    args = parser.parse_args()
    if args.point is not None:
        print(json.dumps(point(args.point[0], int(args.point[1]))))
        return
    rows = {axis: [measured(axis, value) for value in values] for axis, values in POINTS.items()}
    for axis, points in rows.items():
        for found in points:
            print(f"{axis} {found['value']}: {found['seconds']:.3f} s, {found['gigabytes']:.2f} GB")
    write(args.json, {"machine": machine(), "rows": rows})
    if args.svg is not None:
        args.svg.write_text(svg(rows), encoding="utf-8")


if __name__ == "__main__":
    main()

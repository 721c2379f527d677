r"""How long OpenMP's waiting threads should spin before they sleep: training steps of each way.

    python scripts/bench_threads.py --json scripts/results/threads_spin.json

A point is a process of its own, or two side by side: DearKD's first stage of the default student
under `dearkd_cnn8_32`, median seconds a step. "as OpenMP likes" is GNU's default, 3 ms of spinning;
PASSIVE sleeps at once; a count is of GNU's GOMP_SPINCOUNT, about 100,000 a millisecond. Points take
turns, so that what else the machine does meets all of them.
"""

import argparse
import os
import statistics
import subprocess
import sys
from pathlib import Path

from side_by_side import in_turns, machine, write

WAYS: dict[str, dict[str, str]] = {
    "as OpenMP likes": {},
    "PASSIVE": {"OMP_WAIT_POLICY": "PASSIVE"},
    **{count: {"GOMP_SPINCOUNT": count} for count in ("1000", "2000", "5000")},
}
SIZES = {"16 px, 32 images": (16, 32, 16), "32 px, 64 images": (32, 64, 4)}
"""Pixels a side, images and steps of a point."""


def measured(processes: int, threads: int, way: str, size: str) -> list[float]:
    """Seconds a step of each of so many processes, which run side by side."""
    clean = {k: v for k, v in os.environ.items() if not k.startswith(("OMP", "GOMP", "KMP"))}
    environment = {**clean, **WAYS[way], "OMP_NUM_THREADS": str(threads)}
    line = [sys.executable, __file__, "--point", size]
    children = [
        subprocess.Popen(line, stdout=subprocess.PIPE, text=True, env=environment)
        for _ in range(processes)
    ]
    return [float(child.communicate()[0]) for child in children]


def point(size: str) -> float:
    """What a child process measures: median seconds of a step."""
    from bench_growth import training_step

    side, batch, steps = SIZES[size]
    step = training_step(side, batch, classes=10)
    return in_turns({"step": step}, steps)["step"]["median"]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=3, help="how often each point is measured")
    parser.add_argument("--json", type=Path, help="where to store the numbers")
    parser.add_argument("--point", choices=SIZES, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.point:
        print(point(args.point))
        return
    rows = [(1, 1, "PASSIVE")] + [(n, 2, way) for n in (1, 2) for way in WAYS] + [(2, 1, "PASSIVE")]
    found: dict[tuple[str, tuple[int, int, str]], list[float]] = {}
    for _ in range(args.rounds):
        for size in SIZES:
            for row in rows:
                if row != (2, 2, "as OpenMP likes"):  # a hundred times as slow (LAB.md)
                    found.setdefault((size, row), []).extend(measured(*row, size))
    table = []
    for (size, (processes, threads, way)), seconds in found.items():
        rate = processes * SIZES[size][1] / statistics.median(seconds)
        print(f"{size:18} {processes} x {threads} {way:16} {rate:6.1f} images/s")
        table.append(
            {
                "size": size,
                "processes": processes,
                "threads": threads,
                "way": way,
                "seconds": seconds,
                "images_per_s": rate,
            }
        )
    write(args.json, {"machine": machine(), "rows": table})


if __name__ == "__main__":
    main()

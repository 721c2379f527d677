"""What the benchmarks share: calls timed in turns, their floors, peak memory, facts of the machine.

Every benchmark runs ours and the peer's path on the same inputs in one process. Calls take turns,
so that a busy machine slows all of them alike, and ratios are of medians.
"""

import json
import os
import platform
import resource
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import timm
import torch

from dearkd.run_folder.provenance import commit

__all__ = [
    "floors",
    "in_turns",
    "machine",
    "own_peak_gigabytes",
    "peak_gigabytes",
    "print_rows",
    "wait",
    "write",
]

WARM_UP = 2
"""Rounds that are not counted."""


def in_turns(
    calls: dict[str, Callable[[], Any]], rounds: int, device: str = "cpu"
) -> dict[str, dict[str, float]]:
    """Seconds of each call: median, lowest and highest of ``rounds``, and median of CPU time.

    CPU time is of this process alone: other work on the machine disturbs it less.
    """
    wall: dict[str, list[float]] = {name: [] for name in calls}
    cpu: dict[str, list[float]] = {name: [] for name in calls}
    for turn in range(rounds + WARM_UP):
        for name, call in calls.items():
            started, busy = time.perf_counter(), time.process_time()
            call()
            wait(device)
            if turn >= WARM_UP:
                wall[name].append(time.perf_counter() - started)
                cpu[name].append(time.process_time() - busy)
    return {
        name: {
            "median": statistics.median(times),
            "low": min(times),
            "high": max(times),
            "cpu": statistics.median(cpu[name]),
        }
        for name, times in wall.items()
    }


def wait(device: str) -> None:
    """Returns when the device has done what it was given."""
    if device == "cuda":
        torch.cuda.synchronize()


def floors(flops: float, numbers: float, device: str = "cpu") -> dict[str, float]:
    """Least seconds for so many operations and so many float32 numbers read or written once.

    The rates are measured here: a product of two 1024 x 1024 matrices and a copy of 64 MB.
    """
    a, b = (torch.randn(1024, 1024, device=device) for _ in range(2))
    source = torch.randn(16_000_000, device=device)
    target = torch.empty_like(source)
    times = in_turns({"product": lambda: a @ b, "copy": lambda: target.copy_(source)}, 5, device)
    flop_rate = 2 * 1024**3 / times["product"]["low"]
    number_rate = 2 * source.numel() / times["copy"]["low"]
    return {
        "arithmetic": flops / flop_rate,
        "memory": numbers / number_rate,
        "gflops_per_second": flop_rate / 1e9,
        "gigabytes_per_second": 4 * number_rate / 1e9,
    }


def peak_gigabytes(script: str, *arguments: str) -> float:
    """Peak resident memory of ``script`` run in a process of its own."""
    command = [sys.executable, script, *arguments, "--only-memory"]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    return float(done.stdout.split()[-1])


def own_peak_gigabytes() -> float:
    """Peak resident memory of this process so far.

    Linux counts a parent's pages in ``ru_maxrss`` of a child it started, and not in VmHWM.
    """
    status = Path("/proc/self/status")
    if status.exists():
        lines = status.read_text(encoding="utf-8").splitlines()
        return int(next(line for line in lines if line.startswith("VmHWM")).split()[1]) / 2**20
    kilobytes = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return kilobytes / 2 ** (30 if sys.platform == "darwin" else 20)


def machine(device: str = "cpu") -> dict[str, Any]:
    """What the numbers depend on: processor, threads, versions, commit."""
    able = torch.cpu.get_capabilities()
    known = ("avx2", "avx512_f", "avx512_bf16", "amx_bf16")
    return {
        "device": torch.cuda.get_device_name() if device == "cuda" else platform.machine(),
        "cpu": able.get("cpu_name") or platform.processor(),
        "units": [name for name in known if able.get(name)],
        "cores": os.cpu_count(),
        "load": os.getloadavg()[0],
        "threads": torch.get_num_threads(),
        "torch": torch.__version__,
        "timm": timm.__version__,
        "commit": commit(),
    }


def print_rows(rows: list[dict[str, Any]]) -> None:
    """One line a row: what, the seconds of each path, and the ratios to ours."""
    for row in rows:
        ours = row["seconds"]["ours"]["median"]
        print(f"{row['work']}: ours {1e3 * ours:.1f} ms")
        for name, times in row["seconds"].items():
            if name != "ours":
                ratio = times["median"] / ours
                print(f"    {name:32} {1e3 * times['median']:10.1f} ms   {ratio:5.2f} x ours")


def write(path: Path | None, result: dict[str, Any]) -> None:
    """The result as JSON, where a file is named."""
    if path is not None:
        path.write_text(json.dumps(result, indent=1, default=str) + "\n", encoding="utf-8")

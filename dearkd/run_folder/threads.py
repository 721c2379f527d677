"""The cores and threads of a process, settled before torch is loaded.

torch's threads are OpenMP's (GNU's on Linux). OpenMP counts the cores that the process may run on,
but not the share of them that a container allows. Its waiting threads spin: where another process
wants the core, they hold it for nothing. ``scripts/results/LAB.md`` has what that costs.
"""

import math
import os
import sys
from collections.abc import Iterator, MutableMapping
from pathlib import Path

__all__ = ["cpu_quota", "settle_threads", "usable_cores", "waiting"]

WAITING = ("OMP_WAIT_POLICY", "GOMP_SPINCOUNT", "KMP_BLOCKTIME")
"""Variables by which a user says how waiting threads wait."""
CGROUPS = Path("/sys/fs/cgroup")


def settle_threads(environment: MutableMapping[str, str] = os.environ) -> None:
    """Sets OpenMP's variables for this process and its children, where nobody has set them.

    Waiting threads sleep. Where a quota or other processes of the run leave this one fewer cores
    than it may run on, it has that many threads; else torch chooses (the physical cores, where MKL
    counts). It has no effect once torch is loaded.
    """
    if not any(name in environment for name in WAITING):
        environment["OMP_WAIT_POLICY"] = "PASSIVE"
    if "OMP_NUM_THREADS" not in environment:
        share = max(1, usable_cores() // int(environment.get("LOCAL_WORLD_SIZE", 1)))
        if share < _cores_by_affinity():
            environment["OMP_NUM_THREADS"] = str(share)


def usable_cores() -> int:
    """Cores that this process may use: those it may run on, at most its control group's quota.

    ``taskset`` or a batch system sets the first, a container (``docker run --cpus``) the second.
    """
    quota = cpu_quota()
    cores = _cores_by_affinity()
    return cores if quota is None else min(cores, max(1, math.ceil(quota)))


def cpu_quota(root: Path = CGROUPS, groups: Path = Path("/proc/self/cgroup")) -> float | None:
    """Cores' worth of time that the control groups (v2) allow this process; None: no limit.

    A group's limit holds for the groups in it, so the least of all counts.

    Source:
        https://docs.kernel.org/admin-guide/cgroup-v2.html, ``cpu.max``: quota and period, in
        microseconds.
    """
    limits = [limit for file in _limit_files(root, groups) if (limit := _limit(file)) is not None]
    return min(limits, default=None)


def waiting() -> str:
    """How OpenMP's waiting threads wait, by the variable that says so; empty: as it likes."""
    return ", ".join(f"{name}={os.environ[name]}" for name in WAITING if name in os.environ)


def _cores_by_affinity() -> int:
    if sys.version_info >= (3, 13):
        return os.process_cpu_count() or 1
    if hasattr(os, "sched_getaffinity"):  # neither macOS nor Windows has it
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def _limit_files(root: Path, groups: Path) -> Iterator[Path]:
    """``cpu.max`` of this process's group and of the groups around it."""
    try:
        lines = groups.read_text(encoding="utf-8").splitlines()
    except OSError:  # no Linux
        return
    for line in lines:
        if line.startswith("0::/"):  # version 2
            group = root / line.removeprefix("0::/")
            yield from (place / "cpu.max" for place in (group, *group.parents) if root <= place)


def _limit(file: Path) -> float | None:
    try:
        quota, period = file.read_text(encoding="utf-8").split()
    except OSError:  # the root group has none
        return None
    return None if quota == "max" else int(quota) / int(period)

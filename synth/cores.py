"""The cores that a process may use: what torch counts, but for the share a container allows."""

import math
import os
import sys
from collections.abc import Iterator
from pathlib import Path

__all__ = ["cores_by_affinity", "cpu_quota", "usable_cores"]

CGROUPS = Path("/sys/fs/cgroup")


def usable_cores() -> int:
    """Cores that this process may use: those it may run on, at most its control group's quota.

    ``taskset`` or a batch system sets the first, a container (``docker run --cpus``) the second.
    """
    quota = cpu_quota()
    cores = cores_by_affinity()
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


def cores_by_affinity() -> int:
    """Cores that the system lets this process run on."""
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

"""The cores and threads of a process, settled before torch is loaded.

torch's threads are OpenMP's (GNU's on Linux). OpenMP counts the cores that the process may run on,
but not the share of them that a container allows. Its waiting threads spin for 3 ms: where another
process wants the core, they hold it for nothing. Where they sleep at once, waking them takes as
long as many an operation of a small network. ``scripts/results/LAB.md`` has what either costs.
"""

import os
from collections.abc import MutableMapping

from synth import cores

__all__ = ["settle_threads", "waiting"]

WAITING = ("OMP_WAIT_POLICY", "GOMP_SPINCOUNT", "KMP_BLOCKTIME")
"""Variables by which a user says how waiting threads wait."""
BRIEFLY = {"OMP_WAIT_POLICY": "PASSIVE", "GOMP_SPINCOUNT": "2000"}
"""GNU's threads spin for about 20 microseconds and sleep then; others' sleep at once."""


def settle_threads(environment: MutableMapping[str, str] = os.environ) -> None:
    """Sets OpenMP's variables for this process and its children, where nobody has set them.

    Waiting threads spin briefly. Where a quota or other processes of the run leave this one fewer
    cores than it may run on, it has that many threads; else torch chooses (the physical cores,
    where MKL counts). It has no effect once torch is loaded.
    """
    if not any(name in environment for name in WAITING):
        environment.update(BRIEFLY)
    if "OMP_NUM_THREADS" not in environment:
        share = max(1, cores.usable_cores() // int(environment.get("LOCAL_WORLD_SIZE", 1)))
        if share < cores.cores_by_affinity():
            environment["OMP_NUM_THREADS"] = str(share)


def waiting() -> str:
    """How OpenMP's waiting threads wait, by the variable that says so; empty: as it likes."""
    return ", ".join(f"{name}={os.environ[name]}" for name in WAITING if name in os.environ)

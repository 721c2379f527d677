"""Loader processes: as many as this process may use cores, not as many as the machine has."""

import os

import pytest
import torch

from dearkd.data.feed import worker_count

needs_affinity = pytest.mark.skipif(
    not hasattr(os, "sched_setaffinity"), reason="no affinity on this system"
)


@needs_affinity
def test_workers_are_counted_by_the_cores_this_process_may_use():
    cores = os.sched_getaffinity(0)
    try:
        os.sched_setaffinity(0, {min(cores)})
        assert worker_count(None, 224, torch.device("cuda")) == 1
    finally:
        os.sched_setaffinity(0, cores)

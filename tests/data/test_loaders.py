"""Loader processes: a signal to the group is the parent's affair, and none outlives the loader."""

import os
import signal
import time

import pytest

from dearkd.data.augment import eval_augment
from dearkd.data.datasets import open_data
from dearkd.data.loaders import eval_loader
from dearkd.errors import UserError

VIEW = {"mean": (0.5,) * 3, "std": (0.5,) * 3, "crop_pct": 1.0, "interpolation": "bicubic"}


def test_workers_survive_sigterm_and_end_with_the_loader():
    source, _ = open_data("digits")
    loader = eval_loader(source, eval_augment(16, **VIEW), 64, workers=1)
    batches = iter(loader)
    seen = len(next(batches)["label"])
    (worker,) = loader._loader._iterator._workers
    os.kill(worker.pid, signal.SIGTERM)
    time.sleep(0.2)
    seen += sum(len(batch["label"]) for batch in batches)
    assert seen == len(source)
    assert worker.is_alive()
    loader.close()
    worker.join(timeout=10)
    assert not worker.is_alive()


class Dying:
    """In place of torch's loader: it fails with the first batch."""

    def __init__(self, error, workers=1):
        self.error, self.num_workers = error, workers

    def __iter__(self):
        raise self.error
        yield


KILLED = "DataLoader worker (pid 123) is killed by signal: Killed."
INSIDE = "Caught RuntimeError in DataLoader worker process 0.\nOriginal Traceback"


@pytest.mark.parametrize(
    ("error", "told"),
    [
        (Dying(ConnectionResetError(104, "Connection reset by peer")), True),
        (Dying(EOFError("no more")), True),
        (Dying(RuntimeError(KILLED)), True),
        (Dying(RuntimeError(INSIDE)), False),
        (Dying(RuntimeError("a bug of ours")), False),
        (Dying(EOFError("a file that is cut short"), workers=0), False),
    ],
)
def test_a_loader_process_that_is_gone_is_told_and_a_bug_in_it_is_none(error, told):
    source, _ = open_data("digits")
    loader = eval_loader(source, eval_augment(16, **VIEW), 64, workers=0)
    loader._loader = error
    if told:
        with pytest.raises(UserError, match=r"a loader process died \(.*for want of memory"):
            list(loader)
    else:
        with pytest.raises(type(error.error)) as caught:
            list(loader)
        assert not isinstance(caught.value, UserError)

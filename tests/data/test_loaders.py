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


@pytest.mark.parametrize(
    "error", [ConnectionResetError(104, "Connection reset by peer"), EOFError("no more")]
)
def test_a_loader_process_that_dies_while_it_hands_over_a_batch_is_told(error):
    source, _ = open_data("digits")
    loader = eval_loader(source, eval_augment(16, **VIEW), 64, workers=0)

    def dying():
        raise error
        yield

    loader._loader = dying()
    with pytest.raises(UserError, match=r"a loader process died \(.*for want of memory"):
        list(loader)

"""Loader processes: a signal to the group is the parent's affair, and none outlives the loader."""

import os
import signal
import time

from dearkd.data.augment import eval_augment
from dearkd.data.datasets import open_data
from dearkd.data.loaders import eval_loader


def test_workers_survive_sigterm_and_end_with_the_loader():
    source, _ = open_data("digits")
    augment = eval_augment(
        16, mean=(0.5,) * 3, std=(0.5,) * 3, crop_pct=1.0, interpolation="bicubic"
    )
    loader = eval_loader(source, augment, 64, workers=1)
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

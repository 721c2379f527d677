"""How many views of its images a run saw, from its files."""

from collections.abc import Mapping
from typing import Any

from dearkd.report.contents import Run

__all__ = ["epoch_views"]


def epoch_views(run: Run) -> list[int]:
    """The views of each epoch of a finished run: a run in rounds had ever more."""
    if not run.rounds:
        return [_views(run, run.summary)] * (len(run.metrics) or run.summary.get("epochs") or 0)
    return [_views(run, one) for one in run.rounds for _ in range(one["epochs"])]


def _views(run: Run, part: Mapping[str, Any]) -> int:
    """The views of an epoch, as the summary of a run or of a round has them.

    Older ones do not: there it is the images, or as many as all the data has if the run kept the
    steps of these, in whole batches.
    """
    if (known := part.get("epoch_views")) is not None:
        return int(known)
    images, batch = part.get("train_images") or 0, run.setting("data.batch_size") or 1
    if run.setting("data.keep_steps"):
        images = round(images / (run.setting("data.fraction") or 1))
    return int(images // batch * batch)

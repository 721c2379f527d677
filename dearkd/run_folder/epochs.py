"""The lines of ``metrics.jsonl`` that are epochs as training writes them: it may hold anything."""

from typing import Any

import numpy as np

from dearkd.misfit import misfit
from dearkd.run_folder.folder import RunFolder
from dearkd.said import counted
from dearkd.shapes import EPOCH

__all__ = ["sound_epochs"]


def sound_epochs(folder: RunFolder) -> tuple[list[dict[str, Any]], str]:
    """The epochs of a run, and a sentence on the lines that are none; empty where all are sound.

    Measures by block and head must have as many of both as the first that were logged.
    """
    lines, first = folder.read_metrics(), dict[str, tuple[int, ...]]()
    sound = []
    for line in lines:
        if misfit(line, EPOCH) is not None:
            continue
        shapes = {key: np.shape(line[key]) for key in line if isinstance(line[key], list)}
        if all(first.setdefault(key, shape) == shape for key, shape in shapes.items()):
            sound.append(line)
    odd = len(lines) - len(sound)
    none = "is no epoch as training writes it" if odd == 1 else "are no epochs as training has them"
    return sound, f"{counted(odd, 'line')} of metrics.jsonl {none}: left out" if odd else ""

"""Several synthetic sets as one source of images: those of all rounds of `dearkd distill`."""

import bisect
from collections.abc import Sequence
from itertools import accumulate

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from dearkd.data.sources import ImageSource, digest
from dearkd.errors import UserError

__all__ = ["JoinedSource"]


class JoinedSource:
    """The images of several sources of the same classes, source after source.

    ``places`` are what the user calls the sources.

    Raises:
        UserError: If the classes of two sources differ.
    """

    def __init__(self, sources: Sequence[ImageSource], places: Sequence[object]) -> None:
        self.sources = tuple(sources)
        self.classes = self.sources[0].classes
        for source, place in zip(sources, places, strict=True):
            if source.classes != self.classes:
                raise UserError(
                    f"{places[0]} and {place} are not of the same classes, or one of them lacks "
                    "images or its manifest; train on sets of one teacher and one choice of "
                    "classes, and finish each: dearkd synthesize --resume --out SET"
                )
        self._starts = [0, *accumulate(map(len, self.sources))]
        self.labels: NDArray[np.int64] = np.concatenate([source.labels for source in sources])

    def __len__(self) -> int:
        return self._starts[-1]

    def image(self, index: int) -> Image.Image:
        """The decoded image."""
        source, row = self._locate(index)
        return source.image(row)

    def name(self, index: int) -> str:
        """Its name in its own source."""
        source, row = self._locate(index)
        return source.name(row)

    def fingerprint(self) -> str:
        """Hash of the sources and their order."""
        return digest([source.fingerprint() for source in self.sources])

    def _locate(self, index: int) -> tuple[ImageSource, int]:
        place = bisect.bisect_right(self._starts, index) - 1
        return self.sources[place], index - self._starts[place]

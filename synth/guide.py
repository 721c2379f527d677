"""A teacher as the objective uses it: a frozen copy whose BatchNorms report what they see."""

from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from synth.bn_statistics import frozen, with_statistics
from synth.classifier import Classifier, renormalise

__all__ = ["Guide", "size_for"]


class Guide:
    """A frozen copy of ``teacher``, which sees images that are normalised for ``first``.

    Convolutions run in ``dtype``, embedding and logits in float32 (float64 with it). ``recorder``
    has the statistics of the last forward; it is None if there is no BatchNorm2d.
    """

    def __init__(
        self, teacher: Classifier, first: Classifier, dtype: torch.dtype, channels_last: bool
    ) -> None:
        self.teacher, self.first, self.dtype = teacher, first, dtype
        self.memory_format = torch.channels_last if channels_last else torch.contiguous_format
        network, self.recorder = with_statistics(teacher.network, dtype)
        self.network: Any = network.to(memory_format=self.memory_format)
        self.exact = torch.float64 if dtype == torch.float64 else torch.float32
        self.classifier = frozen(teacher.last_layer()).to(self.exact)  # not by way of bf16

    def __call__(
        self, images: Float[Tensor, "batch channels height width"], groups: int
    ) -> tuple[Float[Tensor, "batch dim"], Float[Tensor, "batch classes"]]:
        """Embedding and logits; the recorder sees the statistics of each group."""
        if self.recorder is not None:
            self.recorder.start(groups)
        seen = images if self.teacher is self.first else self._view(images)
        inputs = seen.to(self.dtype).contiguous(memory_format=self.memory_format)
        features = self.network.forward_features(inputs)
        embedding = self.network.forward_head(features, pre_logits=True).to(self.exact)
        return embedding, self.classifier(embedding)

    def _view(self, images: Tensor) -> Tensor:
        """The images in this teacher's normalisation and, where it differs, its own size."""
        seen = renormalise(images, self.first, self.teacher)
        side = size_for(self.teacher, self.first, images.shape[-1])
        if side == images.shape[-1]:
            return seen
        return F.interpolate(seen, size=(side, side), mode="bilinear", align_corners=False)


def size_for(teacher: Classifier, first: Classifier, size: int) -> int:
    """Pixels a side at which a teacher sees images that the first one sees at ``size``.

    Departure:
        Ours: the same share of the size that each learned at, so that objects keep their scale.
    """
    return max(1, round(size * teacher.img_size / first.img_size))

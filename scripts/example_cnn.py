"""A CNN of your own as the teacher: copy this file and put your network in.

    FILE=scripts/example_cnn.py
    dearkd teacher example_cnn --import $FILE --data digits --epochs 12 --out runs/cnn
    dearkd train --import $FILE --data digits --teacher runs/cnn
    dearkd synthesize --import $FILE --teacher runs/cnn --res 16 --recipe balanced

If you have trained weights already, leave the first command out and give the other two
``--teacher example_cnn --teacher-weights WEIGHTS`` (a state dict, safetensors or ``.pth``).

What each method asks of the network (all: three channels in, logits of (images, classes) out):

- DeiT's methods: ``forward`` and the attribute ``num_classes``.
- DearKD, which also learns the teacher's hidden features: ``forward_intermediates``, and a
  ``forward_head`` that turns the first thing it returns into the logits.
- ``dearkd synthesize``: BatchNorm layers, ``forward_features``, ``forward_head`` with
  ``pre_logits``, and ``get_classifier``.
"""

from collections.abc import Sequence
from typing import Any

from timm.models import build_model_with_cfg, generate_default_cfgs, register_model
from torch import Tensor, nn


class ExampleCNN(nn.Module):
    """Four stages of two convolutions; each halves the grid but the first."""

    def __init__(
        self, num_classes: int = 10, in_chans: int = 3, widths: Sequence[int] = (16, 32, 64, 64)
    ) -> None:
        super().__init__()
        self.num_classes = num_classes
        channels = (in_chans, *widths)
        self.stages = nn.ModuleList(
            _stage(channels[index], channels[index + 1], stride=1 if index == 0 else 2)
            for index in range(len(widths))
        )
        self.pool = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten())
        self.fc = nn.Linear(widths[-1], num_classes)

    def forward(self, images: Tensor) -> Tensor:
        """Logits of normalised images."""
        return self.forward_head(self.forward_features(images))

    def forward_features(self, images: Tensor) -> Tensor:
        """The last feature map."""
        for stage in self.stages:
            images = stage(images)
        return images

    def forward_head(self, features: Tensor, pre_logits: bool = False) -> Tensor:
        """Logits of the last feature map; with ``pre_logits`` what the last layer is fed with."""
        pooled = self.pool(features)
        return pooled if pre_logits else self.fc(pooled)

    def get_classifier(self) -> nn.Module:
        """The layer that makes logits of the pooled features."""
        return self.fc

    def forward_intermediates(
        self, images: Tensor, indices: Sequence[int] | None = None
    ) -> tuple[Tensor, list[Tensor]]:
        """The last feature map, and the maps of the stages in ``indices`` (None: all of them)."""
        maps = []
        for stage in self.stages:
            images = stage(images)
            maps.append(images)
        wanted = range(len(maps)) if indices is None else indices
        return images, [maps[index] for index in wanted]


def _stage(inputs: int, outputs: int, stride: int) -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(inputs, outputs, 3, stride=stride, padding=1, bias=False),
        nn.BatchNorm2d(outputs),
        nn.ReLU(),
        nn.Conv2d(outputs, outputs, 3, padding=1, bias=False),
        nn.BatchNorm2d(outputs),
        nn.ReLU(),
    )


default_cfgs = generate_default_cfgs(
    {
        "example_cnn": {
            "input_size": (3, 32, 32),  # a CNN takes other sizes too; --img-size says which
            "mean": (0.5, 0.5, 0.5),  # what your network was trained with
            "std": (0.5, 0.5, 0.5),
            "crop_pct": 1.0,  # share of the side that evaluation keeps of an image
            "interpolation": "bicubic",
            "classifier": "fc",  # name of the last layer
            # "label_names": ["cat", "dog", ...],  # its classes in its order; without it the data's
            # are taken in the order of their names, and a run of `dearkd teacher` keeps its data's
            # "fixed_input_size": True,  # of its own size alone; __init__ then takes img_size too
        }
    }
)


@register_model
def example_cnn(pretrained: bool = False, **kwargs: Any) -> nn.Module:
    """The network under the name that the commands take."""
    return build_model_with_cfg(ExampleCNN, "example_cnn", pretrained, **kwargs)

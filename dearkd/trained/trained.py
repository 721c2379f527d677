"""The value that a trained network is passed around as, whatever it was opened from."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from torch import nn

from dearkd.models.heads import heads_note

__all__ = ["VIEW", "Trained", "described"]

VIEW: dict[str, Any] = {
    "mean": None,
    "std": None,
    "interpolation": "bicubic",
    "crop_pct": None,
    "crop_mode": "center",
}
"""timm's settings of how a network sees an image, each with its value where timm gives none."""


@dataclass(frozen=True, kw_only=True)
class Trained:
    """A trained network and what is needed to use it."""

    name: str
    """The name or path that was typed."""
    architecture: str
    """timm's name; of an exported graph, the kind of file."""
    arguments: Mapping[str, Any] = field(default_factory=dict)
    """Arguments of the architecture, besides the number of classes and the image size."""
    network: Any
    """In eval mode, on the CPU: normalised images (batch, 3, size, size) to logits."""
    num_classes: int
    class_names: tuple[str, ...] | None
    """Names of the classes by index; None where they are not known."""
    view: Mapping[str, Any]
    """How it sees an image: the keys of ``VIEW``, as timm names them."""
    img_size: int
    """Pixels a side of its images."""
    precision: str = "fp32"
    """Arithmetic in which its run evaluated it."""
    memory_format: str = "contiguous"
    heads: tuple[str, ...] = ()
    """The heads of a student of two that were trained and that it answers by; empty: not known."""
    head_scales: Mapping[str, float] = field(default_factory=dict)
    """Factors that the logits of its heads were multiplied by, as no loss gave them a scale."""

    @property
    def metadata(self) -> dict[str, Any]:
        """What is stored beside the weights, so that the network can be built again and used."""
        arguments = {"args": dict(self.arguments)} if self.arguments else {}
        return {
            "arch": self.architecture,
            **arguments,
            "num_classes": self.num_classes,
            "class_names": None if self.class_names is None else list(self.class_names),
            "img_size": self.img_size,
            **{key: _plain(self.view.get(key, VIEW[key])) for key in VIEW},
            **({"heads": list(self.heads)} if self.heads else {}),
            **({"head_scales": dict(self.head_scales)} if self.head_scales else {}),
        }

    @property
    def heads_note(self) -> str | None:
        """What to say of its answers where not all of its heads learned; else None."""
        return heads_note(self.heads)


def described(
    name: str,
    network: nn.Module,
    architecture: str,
    description: Mapping[str, Any],
    **arithmetic: str,
) -> Trained:
    """A network as a ``Trained``, from a description with the keys of ``Trained.metadata``.

    ``arithmetic``: ``precision`` and ``memory_format``, where its run chose them.
    """
    names = description.get("class_names")
    return Trained(
        name=name,
        architecture=architecture,
        arguments=description.get("args") or {},
        network=network.eval(),
        num_classes=int(description["num_classes"]),
        class_names=tuple(names) if names else None,
        view={key: description.get(key, default) for key, default in VIEW.items()},
        img_size=int(description["img_size"]),
        heads=tuple(description.get("heads") or ()),
        head_scales=description.get("head_scales") or {},
        **arithmetic,
    )


def _plain(value: Any) -> Any:
    return list(value) if isinstance(value, tuple) else value

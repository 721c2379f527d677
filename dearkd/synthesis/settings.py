"""The configuration of `dearkd synthesize`: the library's settings and what they are applied to."""

from dataclasses import dataclass, field
from typing import Literal

from dearkd.errors import UserError
from synth.settings import SynthesisConfig

__all__ = ["NetworkConfig", "SynthesizeConfig"]


@dataclass(frozen=True, kw_only=True)
class NetworkConfig:
    """A trained classifier, by name."""

    name: str | None = None
    """timm name, run folder, or ``digits`` (embedded)."""
    weights: str | None = None
    """Local weights for a timm name: safetensors, or a ``.pth`` state dict."""


@dataclass(frozen=True, kw_only=True)
class SynthesizeConfig(SynthesisConfig):
    """One run of ``dearkd synthesize``: the library's settings and what they are applied to."""

    teacher: NetworkConfig = field(default_factory=NetworkConfig)
    """The network whose knowledge is turned into images; none: the embedded digits CNN."""
    other_teachers: list[NetworkConfig] = field(default_factory=list)
    """Further networks of the same classes, which the images are made for too."""
    verifier: NetworkConfig = field(default_factory=NetworkConfig)
    """Another network trained on the same classes, to judge the images; none: no judge."""
    student: NetworkConfig = field(default_factory=NetworkConfig)
    """Competes with the teacher (Adaptive DeepInversion); none: no competition."""
    recipe: Literal["paper", "balanced"] | None = None
    """Weights of the objective, and lr, where none are given. ``paper``: DF-DearKD's, for ImageNet.
    ``balanced`` (ours): R_BN in units of each layer's stored statistics, the other terms to match;
    small images by their spectrum.
    None: the paper's, but balanced for the embedded digits."""
    fast: bool = False
    """An eighth of the iterations, with ``balanced`` weights that suit so few, or of small images
    by their spectrum an eighth of the images: for a first look."""
    select: str = "all"
    """Classes as text: ``all``, ``0-99``, ``3,5-7``, or a file with a class name a line."""
    images_per_batch: int | None = None
    """Images that are optimised together at most; images and classes a group and groups a batch
    follow."""
    out: str | None = None
    """Folder of the set. None: a fresh one under ``runs/``."""
    imports: tuple[str, ...] = ()
    """Python files that are run first; they may register models with timm."""

    def __post_init__(self) -> None:
        """Check the ranges."""
        super().__post_init__()
        object.__setattr__(self, "imports", tuple(self.imports))
        if self.classes is not None and self.select != "all":
            raise UserError(f"classes and select={self.select} name classes twice; leave one out")
        batch = self.images_per_class * self.classes_per_group * self.groups_per_batch
        if self.images_per_batch is not None and batch > self.images_per_batch:
            raise UserError(
                f"images_per_batch {self.images_per_batch} is less than {batch}, images_per_class "
                "x classes_per_group x groups_per_batch; leave one of them out"
            )

"""What ``dearkd eval`` is asked to measure of a set of images; options that fit together."""

from dataclasses import dataclass
from pathlib import Path
from typing import get_args

from dearkd.data.feed import EVALUATION_BATCH
from dearkd.errors import UserError
from dearkd.measures.lpips_embedding import LpipsNet

__all__ = ["SetRequest"]


@dataclass(frozen=True, kw_only=True)
class SetRequest:
    """What to measure of a set of images, with which networks, on which images."""

    target: str | None = None
    """Any data that `dearkd.data.datasets` opens; None: the newest synthetic set under runs/."""
    lpips: bool | None = None
    lpips_net: str | None = None
    lpips_weights: Path | None = None
    against: str | None = None
    """Real images, which are measured too and compared with."""
    features: str | None = None
    """A network whose pooled features are compared."""
    features_weights: Path | None = None
    verifier: str | None = None
    verifier_weights: Path | None = None
    limit: int | None = None
    """Images of a class that are measured at most; None: all. A probe student learns from all."""
    probe: bool | None = None
    """Whether to train a small student on the set and read it on ``against``."""
    teacher: str | None = None
    """The probe student's teacher; None: the network that a synthetic set was made from."""
    teacher_weights: Path | None = None
    seed: int | None = None
    """Chooses the images where ``limit`` leaves some out, and is the probe's seed; None: 0."""
    img_size: int | None = None
    """Pixels a side for LPIPS; other networks have a size of their own."""
    batch_size: int | None = None
    """None: 128. A probe student has its own, as its budget is fixed."""
    on_bad_image: str | None = None
    trust: bool = False
    """Whether to run the Python files that a network's run imports."""

    @property
    def images_a_pass(self) -> int:
        """Images of a forward pass."""
        return self.batch_size or EVALUATION_BATCH

    def __post_init__(self) -> None:
        """Refuses unknown values and options that would have no effect."""
        if not (self.lpips or self.features or self.verifier or self.probe):
            raise UserError(
                "nothing to measure; add --lpips or --features NET (with --against also Frechet "
                "distance, density, coverage), --verifier NET or --probe"
            )
        embedding = {"--lpips": self.lpips, "--features": self.features}
        judging = {**embedding, "--verifier": self.verifier}
        known = get_args(LpipsNet)
        if self.lpips_net is not None and self.lpips_net not in known:
            raise UserError(f"--lpips-net must be {', '.join(known)}, got {self.lpips_net!r}")
        for option, value, needed in (
            ("--lpips-net", self.lpips_net, {"--lpips": self.lpips}),
            ("--lpips-weights", self.lpips_weights, {"--lpips": self.lpips}),
            ("--img-size", self.img_size, {"--lpips": self.lpips}),
            ("--features-weights", self.features_weights, {"--features": self.features}),
            ("--verifier-weights", self.verifier_weights, {"--verifier": self.verifier}),
            ("--against", self.against, {**embedding, "--probe": self.probe}),
            ("--limit", self.limit, judging),
            ("--batch-size", self.batch_size, judging),
            ("--teacher", self.teacher, {"--probe": self.probe}),
            ("--teacher-weights", self.teacher_weights, {"--teacher": self.teacher}),
            ("--seed", self.seed, {"--limit": self.limit, "--probe": self.probe}),
        ):
            if value is not None and not any(needed.values()):
                raise UserError(
                    f"{option} {value} has no effect without {' or '.join(needed)}; add "
                    f"{'it' if len(needed) == 1 else 'one'}, or leave {option} out"
                )
        if self.limit is not None and self.limit < 2:
            raise UserError(f"--limit must be at least 2 images a class, got {self.limit}")
        if self.probe and self.against is None:
            raise UserError(
                "--probe reads its student on real labelled images; name them by --against"
            )

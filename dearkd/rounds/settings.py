"""The configuration of `dearkd distill`, and what of it goes to each of its two parts.

Departure:
    The paper makes its images once. Rounds are ours, after data-free methods whose images and
    student take turns (Fang et al. 2022, https://arxiv.org/abs/2112.15278).
"""

from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any, cast

from omegaconf import DictConfig, OmegaConf

from dearkd.config import TrainConfig, load_config
from dearkd.config_file import check_range, flattened, nulls
from dearkd.data.sizes import is_small
from dearkd.errors import UserError
from dearkd.rounds.folder import ROUNDS, Round, sets_up_to
from dearkd.synthesis.class_selection import is_range
from dearkd.synthesis.settings import NetworkConfig
from dearkd.training.paths import from_root, rooted

__all__ = ["RoundsConfig", "image_options", "training", "with_recipe", "with_rooted_paths"]

ROUND_SEED = 1_000_000
"""Added to the seed for each further round, so that no round repeats another's draws."""
DECIDED = {
    "synth.teacher": "--teacher names it",
    "synth.other_teachers": "--teacher, given again, names them",
    "synth.student": "it is the student of the round before",
    "synth.objective.adversary_weight": "set adversary_weight",
    "synth.objective.compete_weight": "the first round has no student; set adversary_weight",
    "synth.per_class": "give --per-class",
    "synth.resolutions": "give --res",
    "synth.seed": "give --seed",
    "synth.out": "give --out",
    "synth.imports": "give --import",
    "train.teacher.name": "--teacher names it",
    "train.teacher.weights": "give --teacher-weights",
    "train.student": "give --student",
    "train.stage1": "give --epochs",
    "train.init": "it is the student of the round before",
    "train.data.train": "it is the sets of all rounds so far",
    "train.data.evaluation": "give --eval-data",
    "train.data.validation": "it would hold back made images; give --eval-data",
    "train.data.img_size": "give --res",
    "train.seed": "give --seed",
    "train.out": "give --out",
    "train.imports": "give --import",
}
"""Settings of the parts that the rounds decide, and how."""
PATHS = (
    *("teacher.name", "teacher.weights", "evaluation", "out"),
    *("synth.verifier.name", "synth.verifier.weights"),
)
"""Settings that are paths, or names."""


@dataclass(frozen=True, kw_only=True)
class RoundsConfig:
    """One run of `dearkd distill`. What is None is chosen when the run is planned."""

    teacher: NetworkConfig = field(default_factory=NetworkConfig)
    """The CNN that the images are made from, and that the student learns from; none: the embedded
    digits CNN."""
    other_teachers: list[NetworkConfig] = field(default_factory=list)
    """Further networks of the same classes, which the images are made for too."""
    student: str | None = None
    """timm name; None: as `dearkd train` chooses it."""
    rounds: int = ROUNDS
    """How often images are made and trained on; those of a finished run may be raised. Images
    against a student take several times as long, and showed no gain in our studies (RESULTS.md)."""
    per_class: int | None = None
    """Images of each class that a round adds. None: as many as `dearkd synthesize` makes."""
    res: int | None = None
    """Pixels a side, of the images and of the student."""
    epochs: int | None = None
    """Epochs of each round, on all images so far. None: the recipe's."""
    adversary_weight: float = 1.1
    """Weight of L_adv from the second round on (Fang et al., CIFAR-10). 0: further images are made
    as the first ones are."""
    evaluation: str | None = None
    """Real images that each round is judged on; None: the student's agreement with the teacher on
    training views is shown instead."""
    seed: int = 0
    synth: dict[str, Any] = field(default_factory=dict)
    """Settings of `dearkd synthesize`, for every round."""
    train: dict[str, Any] = field(default_factory=dict)
    """Settings of `dearkd train`, for every round; over those of the recipe ``best``."""
    out: str | None = None
    """Folder of the run. None: a fresh one under ``runs/``."""
    imports: tuple[str, ...] = ()
    """Python files run first; they may register models with timm."""

    def __post_init__(self) -> None:
        object.__setattr__(self, "imports", tuple(self.imports))
        check_range("rounds", self.rounds, 1, 1000)
        check_range("adversary_weight", self.adversary_weight, 0, 1e6)
        check_range("seed", self.seed, 0, 2**62)
        for name in ("per_class", "res", "epochs"):
            if (value := getattr(self, name)) is not None:
                check_range(name, value, 1, 1_000_000)
        given = flattened({"synth": self.synth, "train": self.train})
        for key, reason in DECIDED.items():
            if any(f"{name}.".startswith(f"{key}.") for name in given):
                raise UserError(f"{key} is decided by the rounds ({reason}); leave it out there")


def with_rooted_paths(given: DictConfig) -> DictConfig:
    """What was given, with paths that exist from the root: a run goes on from any folder."""
    found: DictConfig = given.copy()
    given_by_name = flattened(cast(dict[str, Any], OmegaConf.to_container(found)))
    for key in PATHS:
        if (text := given_by_name.get(key)) is not None:
            OmegaConf.update(found, key, rooted(str(text)))
    select = given_by_name.get("synth.select")
    if select is not None and not is_range(select := str(select)):
        OmegaConf.update(found, "synth.select", rooted(select))
    if (folder := given_by_name.get("train.cache_labels")) is not None:
        OmegaConf.update(found, "train.cache_labels", from_root(str(folder)))
    _root_lists(found)
    return found


def with_recipe(config: RoundsConfig) -> RoundsConfig:
    """Images are inverted by the recipe ``balanced``, where ``synth`` says nothing else.

    On digits they teach more than a generator's (RESULTS.md); elsewhere that was not compared.
    """
    if config.synth.get("engine") == "generator" or "recipe" in config.synth:
        return config
    return replace(config, synth={"recipe": "balanced", **config.synth})


def image_options(config: RoundsConfig, part: Round) -> tuple[list[str], dict[str, Any]]:
    """Settings and options of a round's set, as `dearkd synthesize` takes them.

    From the second round on the student of the round before takes part: L_adv looks for images on
    whose class it agrees with the teacher, while their distributions are far apart.
    """
    given = flattened(config.synth)
    competes = part.number > 1 and config.adversary_weight > 0
    options = {
        **given,
        "teacher.name": config.teacher.name,
        "teacher.weights": config.teacher.weights,
        "other_teachers": [asdict(one) for one in config.other_teachers] or None,
        "per_class": config.per_class,
        "resolutions": None if config.res is None else _stages(config, config.res, competes),
        "seed": _seed(config, part),
        "imports": list(config.imports) or None,
    }
    if competes:
        options["student.name"] = str(part.before.student.path)
        options["objective.adversary_weight"] = config.adversary_weight
        options["objective.compete_weight"] = 0.0
        options["canvas"] = None  # all stages have the student's size, where it has no effect
    return nulls(given), options


def _root_lists(found: DictConfig) -> None:
    """Makes the paths of further teachers and of imported files absolute."""
    for key in ("other_teachers", "imports"):
        if found.get(key):
            found[key] = rooted(found[key])


def _stages(config: RoundsConfig, size: int, competes: bool) -> list[int]:
    """Large images are inverted in two stages, as `dearkd synthesize` does by default.

    A transformer takes images of one size. Where the student competes both stages have it: they
    are as many as in the first round, as ``synth.iterations`` has an entry for each.
    """
    if config.synth.get("engine") == "generator" or is_small(size):
        return [size]
    return [size if competes else size // 2, size]


def training(config: RoundsConfig, part: Round, data: Path | None = None) -> TrainConfig:
    """The training of a round, on the sets of all rounds so far or on ``data``.

    Raises:
        UserError: If a setting is unknown or out of range.
    """
    given = flattened(config.train)
    recipe = {} if given.keys() & {"recipe", "method"} else {"recipe": "best"}
    kept = given.get("cache_labels")  # of a run's images and seed, which each round has of its own
    options = {
        **recipe,
        **given,
        "cache_labels": None if kept is None else str(Path(str(kept), f"round-{part.number}")),
        "teacher.name": config.teacher.name,
        "teacher.weights": config.teacher.weights,
        "student": config.student,
        "stage1": config.epochs,
        "init": str(part.before.student.path) if part.number > 1 else None,
        "data.train": sets_up_to(part) if data is None else str(data),
        "data.evaluation": config.evaluation,
        "data.img_size": config.res,
        "seed": _seed(config, part),
        "imports": list(config.imports) or None,
        "out": str(part.student.path),
    }
    return load_config(None, nulls(given), options)


def _seed(config: RoundsConfig, part: Round) -> int:
    return config.seed + ROUND_SEED * (part.number - 1)

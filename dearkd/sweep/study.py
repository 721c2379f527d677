"""The file of a study: one base configuration, and the arms, seeds and fractions to compare.

base: ../train/cifar10_cpu.yaml       # optional; from this file's folder
settings: {stage1: 48, stage2: 12}    # over the base, as in a configuration or dotted
seeds: [0, 1, 2]
fractions: [0.02, 0.1]                # optional: every arm on each
arms:                                 # name: its settings over all of the above
  labels: {method: ce}
  hard labels: {method: deit-hard}
compare: {hard labels: [labels]}      # optional; default: every arm against the first
differs: [data.batch_size]            # optional: what arms may differ in besides what is learned

In ``data.train``, ``{seed}`` stands for the run's seed, as in ``runs/set-{seed}``.
"""

import difflib
import re
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from omegaconf import DictConfig, OmegaConf

from dearkd.config import TrainConfig, train_config
from dearkd.config_file import complete, user_tree
from dearkd.data.splits import from_home
from dearkd.errors import UserError
from dearkd.run_folder.record import Study
from dearkd.trained.imports import import_files
from dearkd.training.methods import METHODS

__all__ = ["StudyConfig", "StudyFile", "folder_name", "name_hint", "read_study"]

FOR_TAUGHT = ("teacher", "cache_labels")
"""Shared settings that go to the arms with a teacher alone; the others would refuse them."""
SEED = "{seed}"
"""What a run's seed stands for in ``data.train``: each seed then has images of its own."""
OF_THE_STUDY = {
    "seed": "seeds has the study's",
    "out": "each run has a folder of its own",
    "data.fraction": "fractions has the study's",
}
"""Settings that an arm may not have, and why."""


@dataclass(frozen=True, kw_only=True)
class StudyConfig:
    """The content of a study's file."""

    base: str | None = None
    """A configuration of `dearkd train`, seen from the file's folder. None: all defaults."""
    settings: dict[str, Any] = field(default_factory=dict)
    """Of every arm, over the base."""
    seeds: list[int] = field(default_factory=lambda: [0, 1, 2])
    fractions: list[float] = field(default_factory=list)
    """Shares of each class to train on. Empty: the base's own. With ``data.keep_steps`` all have
    the steps of the whole set."""
    arms: dict[str, dict[str, Any]] = field(default_factory=dict)
    """Settings of each arm, by the name that tables show."""
    compare: dict[str, list[str]] = field(default_factory=dict)
    """For an arm, those that it is held against. Empty: every arm against the first."""
    differs: list[str] = field(default_factory=list)
    """What arms may differ in besides method, student, distillation and the stages' lengths."""

    def __post_init__(self) -> None:
        if not self.arms:
            raise UserError("a study needs arms; write arms: {NAME: {method: ce}, ...}")
        if not self.seeds or len(set(self.seeds)) < len(self.seeds) or min(self.seeds) < 0:
            raise UserError(
                f"seeds must be different whole numbers from 0 on, at least one, got {self.seeds}"
            )
        if len(set(self.fractions)) < len(self.fractions):
            raise UserError(f"fractions has one twice: {self.fractions}; leave it out once")
        for fraction in self.fractions:
            if not 0 < fraction <= 1:
                raise UserError(f"fractions must be above 0 and at most 1, got {fraction}")
        self._check_compare()
        self._check_folders()

    def _check_compare(self) -> None:
        for arm, others in self.compare.items():
            for name in (arm, *others):
                if name not in self.arms:
                    raise UserError(f"compare names {name!r}; {name_hint(name, self.arms)}")
            if arm in others:
                raise UserError(f"compare holds {arm!r} against itself; leave it out there")
            if not others or len(set(others)) < len(others):
                raise UserError(
                    f"compare must hold {arm!r} against one or more arms, each once, got {others}"
                )

    def _check_folders(self) -> None:
        names: dict[str, str] = {}
        for arm in self.arms:
            other = names.setdefault(folder_name(arm), arm)
            if other != arm:
                raise UserError(
                    f"arms {other!r} and {arm!r} would have one folder, {folder_name(arm)}; "
                    "rename one of them"
                )
            if not folder_name(arm):
                raise UserError(
                    f"arm {arm!r} has no letter of a-z and no digit, of which its folder's name is "
                    "made; rename it"
                )
        shares: dict[str, float] = {}
        for fraction in self.fractions:
            earlier = shares.setdefault(f"{fraction:g}", fraction)
            if earlier != fraction:
                raise UserError(
                    f"fractions {earlier} and {fraction} would have one folder, {fraction:g}; "
                    "round one to six digits, or leave it out"
                )


@dataclass(frozen=True)
class StudyFile:
    """A study as it was read, with what was typed beside it."""

    path: Path
    config: StudyConfig
    shared: DictConfig
    """Settings of every arm: the base's, the study's, then those typed."""

    @property
    def name(self) -> str:
        """The file's name without its ending."""
        return self.path.stem

    def described(self) -> Study:
        """What its record says of it."""
        config, arms = self.config, tuple(self.config.arms)
        compare = {arm: tuple(others) for arm, others in config.compare.items()}
        return Study(
            name=self.name,
            arms=arms,
            seeds=tuple(config.seeds),
            fractions=tuple(config.fractions) or (None,),
            compare=compare or dict.fromkeys(arms[1:], arms[:1]),
        )

    def of_arm(self, arm: str, fraction: float | None, seed: int) -> TrainConfig:
        """The configuration of a run, without its folder.

        Raises:
            UserError: Unknown key, wrong type or value out of range, with the arm's name.
        """
        own = _tree(self.config.arms[arm], f"arm {arm!r}")
        for key, reason in OF_THE_STUDY.items():
            if OmegaConf.select(own, key) is not None:
                raise UserError(f"arm {arm!r} sets {key}: {reason}; leave it out")
        shared = _of_seed(self.shared, seed)
        place: dict[str, Any] = {"seed": seed}
        if fraction is not None:
            place["data"] = {"fraction": fraction}
        try:
            if not self._has_teacher(own):
                for key in FOR_TAUGHT:
                    shared.pop(key, None)
            if fraction == 1 and "data" in shared:
                shared.data.pop("keep_steps", None)
            return train_config(shared, _of_seed(own, seed), OmegaConf.create(place))
        except UserError as error:
            raise UserError(f"arm {arm!r}: {error}") from error

    def check_teacher(self) -> None:
        """Refuses settings of every arm that no arm would get.

        Raises:
            UserError: Naming the setting.
        """
        arms = [_tree(own, f"arm {arm!r}") for arm, own in self.config.arms.items()]
        if any(map(self._has_teacher, arms)):
            return
        for key in FOR_TAUGHT:
            if self.shared.get(key):
                raise UserError(
                    f"the study sets {key}, which has no effect: no arm has a teacher; leave it out"
                )

    def _has_teacher(self, own: DictConfig) -> bool:
        """Whether a teacher takes part in an arm of these settings; one not known yet may have."""
        method = str(
            OmegaConf.select(OmegaConf.merge(self.shared, own), "method", default="dearkd")
        )
        return method not in METHODS or METHODS[method].has_teacher


def read_study(
    path: Path, settings: Sequence[str] = (), options: Mapping[str, Any] | None = None
) -> StudyFile:
    """The study in a YAML file; ``options`` and then ``a.b=c`` settings go over its own.

    Raises:
        UserError: A key or arm that stands there twice, an unknown key (with the nearest known
            one), or a value that can't be.
        MissingFileError: If the file or its base does not exist.
    """
    config = complete(StudyConfig, user_tree(StudyConfig, path, (), None))
    base = None if config.base is None else path.parent / from_home(config.base)
    own = OmegaConf.merge(
        _tree(config.settings, "settings"),
        user_tree(TrainConfig, None, settings, dict(options or {})),
    )
    shared = OmegaConf.merge(user_tree(TrainConfig, base, (), None), own)
    assert isinstance(shared, DictConfig)
    for key, reason in OF_THE_STUDY.items():
        known = OmegaConf.select(own if key == "data.fraction" else shared, key) is not None
        if known and (key != "data.fraction" or config.fractions):
            raise UserError(f"the study sets {key}: {reason}; leave it out")
    import_files(map(str, shared.get("imports", ())))
    study = StudyFile(path, config, shared)
    study.check_teacher()
    return study


def folder_name(arm: str) -> str:
    """The arm's name as a part of a folder's: ``hard labels, MHSA`` gives hard-labels-mhsa."""
    return re.sub("[^a-z0-9.]+", "-", arm.lower()).strip("-.")


def name_hint(name: str, known: Collection[str]) -> str:
    """The name that is probably meant, or all that there are."""
    near = difflib.get_close_matches(name, known, n=1, cutoff=0.5)
    return f"did you mean {near[0]!r}?" if near else f"there are {', '.join(map(repr, known))}"


def _of_seed(settings: DictConfig, seed: int) -> DictConfig:
    """The settings with the seed's own ``data.train``: a set that lies there brings its recipe."""
    given = settings.copy()
    if (named := OmegaConf.select(given, "data.train")) is not None:
        given.data.train = str(named).replace(SEED, str(seed))
    return given


def _tree(settings: Mapping[str, Any], where: str) -> DictConfig:
    """Settings with dotted or nested keys, checked against the fields there are."""
    tree, flat = OmegaConf.create({}), dict[str, Any]()
    for key, value in _dotted(settings):
        if key in flat:
            raise UserError(f"{where} has {key} twice; leave it out once")
        flat[key] = value
        OmegaConf.update(tree, key, value, force_add=True)
    try:
        user_tree(TrainConfig, None, (), flat)  # for its checks
    except UserError as error:
        raise UserError(f"{where}: {error}") from error
    return tree


def _dotted(settings: Mapping[str, Any], prefix: str = "") -> list[tuple[str, Any]]:
    """Every setting by its dotted name; lists and empty mappings are values."""
    found = []
    for key, value in settings.items():
        name = f"{prefix}{key}"
        found += (
            _dotted(value, f"{name}.") if isinstance(value, Mapping) and value else [(name, value)]
        )
    return found

"""What a study is going to run, resolved before anything is trained, and whether it is fair.

Each arm is built once a fraction, as `dearkd train` would build it: what is left open is decided by
the same rules, and every mistake is met here. Runs are then held against each other: they may
differ in what is compared, and in nothing else.
"""

import dataclasses
import json
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations, product
from pathlib import Path
from typing import Any

from dearkd.config import WITHOUT_EFFECT, TrainConfig
from dearkd.config_file import flattened
from dearkd.errors import UserError
from dearkd.labels.identity import key_of
from dearkd.run_folder.files import file_hash
from dearkd.run_folder.processes import process_state
from dearkd.run_folder.record import Entry, Key
from dearkd.sweep.study import StudyFile, folder_name
from dearkd.trained.open import open_trained
from dearkd.trained.resolve import Resolved, refuse_idle_trust
from dearkd.trained.trained import VIEW
from dearkd.trained.weights import hash_of_weights
from dearkd.training.arithmetic import place_models, with_arithmetic
from dearkd.training.batches import epoch_order
from dearkd.training.build import Parts, build
from dearkd.training.dry_run import estimate
from dearkd.training.fingerprints import fingerprints
from dearkd.training.label_cache import kept_of

__all__ = ["BY_RULE", "PlannedRun", "difference", "plan", "settings_of"]

COMPARED = (
    *("method", "method_args", "student", "student_args", "distill", "stage1", "stage2"),
    "switch",
)
"""What arms of a study may differ in; a group's name stands for its fields."""
BY_RULE = (
    *("precision", "memory_format"),
    *("teacher.precision", "teacher.memory_format", "data.views"),
)
"""Settings that a rule chooses by the machine, where they are left open."""
LATER = ("init.weights", "imports.content", "crop_mode")
"""Facts that records of older versions do not have: of files they have the names alone."""
OF_IMAGES = ("data.train", "train_images", "steps")
"""What may change from seed to seed where each seed has images of its own."""


@dataclass(frozen=True)
class PlannedRun:
    """One run of a study."""

    arm: str
    fraction: float | None
    seed: int
    config: TrainConfig
    """As the study says, with labels kept by what they are of; what is left open is left open."""
    resolved: TrainConfig
    """As the run's folder will have it."""
    settings: dict[str, Any]
    """What its numbers depend on, the seed aside, by name: settings and facts."""
    fingerprints: dict[str, str | None]
    """Those of its images and teacher, as its folder notes them."""
    networks: tuple[Resolved, ...]
    """Those that it opens."""
    seconds: float | None
    """What it would take; None where nobody asked."""
    answers: str | None
    """Name of the folder of its teacher's answers in that of its seed; None where none are kept."""

    @property
    def name(self) -> str:
        """Its folder's name; `dearkd report` takes the seed off its end."""
        share = "" if self.fraction is None else f"-{self.fraction:g}"
        return f"{folder_name(self.arm)}{share}-seed{self.seed}"

    @property
    def needs_trust(self) -> bool:
        """Whether a network that it opens brings code along, which ``--trust`` lets run."""
        return any(network.used_trust for network in self.networks)

    @property
    def key(self) -> Key:
        """Its arm, fraction and seed."""
        return self.arm, self.fraction, self.seed


def plan(
    study: StudyFile,
    *,
    only: Collection[Key] | None = None,
    recorded: Collection[Entry] = (),
    trust: bool = False,
    costs: bool = False,
) -> list[PlannedRun]:
    """The runs of a study: seed after seed, so that every arm has one before any has two.

    ``only``: plan these runs; what only the others need may be missing. They are held against what
    is ``recorded`` of others. ``costs``: a few steps of each arm are really made, to know what
    it takes.

    Raises:
        UserError: What `dearkd train` would refuse in an arm; two arms that are the same; arms
            that differ in what should be equal; an arm that another of its seeds had otherwise.
    """
    keys = [key for key in study.described().keys if only is None or key in only]
    built = dict[tuple[str, float | None], PlannedRun]()
    for arm, fraction, seed in keys:
        if (arm, fraction) not in built:
            built[arm, fraction] = _built(study, arm, fraction, seed, trust, costs)
    if len(built) == len(study.config.arms) * len(study.described().fractions):
        _check_differs(study.config.differs, list(built.values()))
    _check_trust(trust, list(built.values()))
    runs = [_with_seed(study, built[arm, f], seed, trust, costs) for arm, f, seed in keys]
    for first, second in combinations(runs, 2):
        if first.key[1:] == second.key[1:]:
            _check_pair(first, second, study.config.differs)
    for run, entry in product(runs, recorded):
        _check_recorded(study, run, entry)
    return runs


def difference(stored: dict[str, Any], wanted: dict[str, Any]) -> tuple[str, Any, Any] | None:
    """The first setting with another value, and both; what is not stored had its default.

    ``LATER`` facts are compared where they are stored.
    """
    defaults = flattened(_plain(TrainConfig()))
    arguments = {key: None for key in stored if key.startswith(("student_args.", "method_args."))}
    for key, value in (arguments | wanted).items():
        if key in LATER and key not in stored:
            continue
        old = stored.get(key, defaults.get(key))
        if old != value:
            return key, old, value
    return None


def settings_of(config: TrainConfig) -> dict[str, Any]:
    """The settings of a resolved configuration that its numbers depend on, the seed aside."""
    flat = flattened(_plain(config))
    return {key: value for key, value in flat.items() if key not in WITHOUT_EFFECT}


def _plain(config: TrainConfig) -> dict[str, Any]:
    """The configuration as JSON holds it."""
    plain: dict[str, Any] = json.loads(json.dumps(dataclasses.asdict(config)))
    return plain


def _built(
    study: StudyFile, arm: str, fraction: float | None, seed: int, trust: bool, costs: bool
) -> PlannedRun:
    config, answers = study.of_arm(arm, fraction, seed), None
    try:
        parts = build(config, trust=trust)
        _check_arithmetic(config)
        state = process_state()
        parts, _ = with_arithmetic(parts, state.device, state.num_processes)
        order, accumulate = epoch_order(parts, state.process_index, state.num_processes)
        if config.cache_labels is not None:
            of, form = kept_of(parts)
            answers = key_of(of | {"seed": None}, form)
            config = _keeping_labels(config, answers)
    except UserError as error:
        raise UserError(f"arm {arm!r}: {error}") from error
    if parts.evaluation is None:
        raise UserError(
            f"a study compares top-1, and {config.data.train} has no evaluation images; "
            "name some by --eval-data, or cut them off by data.validation"
        )
    settings = {"epochs": parts.config.epochs} | settings_of(parts.config)
    settings |= _facts(parts, order.steps_per_epoch // accumulate)
    found, seconds = fingerprints(parts), None
    if costs:
        place_models(parts, state.device)
        seconds = estimate(parts, state).seconds
    return PlannedRun(
        *(arm, fraction, seed, config, parts.config, settings, found, parts.networks, seconds),
        answers,
    )


def _with_seed(
    study: StudyFile, run: PlannedRun, seed: int, trust: bool, costs: bool
) -> PlannedRun:
    """The run with another seed; built anew where that seed has images of its own."""
    if seed == run.seed:
        return run
    config = study.of_arm(run.arm, run.fraction, seed)
    if config.data.train != run.config.data.train:
        return _built(study, run.arm, run.fraction, seed, trust, costs)
    if run.answers is not None:
        config = _keeping_labels(config, run.answers)
    return dataclasses.replace(
        run,
        seed=seed,
        config=config,
        resolved=dataclasses.replace(run.resolved, seed=seed),
    )


def _keeping_labels(config: TrainConfig, name: str) -> TrainConfig:
    """The run with a folder of its seed and of that name for its teacher's answers.

    One folder holds those of one seed, one choice of images and one form, and refuses others.
    """
    assert config.cache_labels is not None
    kept = Path(config.cache_labels, f"seed-{config.seed}", name)
    return dataclasses.replace(config, cache_labels=str(kept))


def _facts(parts: Parts, steps: int) -> dict[str, Any]:
    """What else the numbers depend on; places give way to what lies there."""
    assert parts.evaluation is not None
    view, teacher = parts.student.pretrained_cfg, parts.teacher
    return {
        "data.train": parts.train.fingerprint(),
        "data.evaluation": parts.evaluation.fingerprint(),
        "teacher.name": None if teacher is None else hash_of_weights(teacher.model)[:16],
        "teacher.weights": None,
        "init": parts.config.init and Path(parts.config.init).name,
        "init.weights": _init_weights(parts),
        "imports": [Path(file).name for file in parts.config.imports],
        "imports.content": [file_hash(Path(file))[:16] for file in parts.config.imports],
        "steps": steps,
        "train_images": len(parts.train),
        "eval_images": len(parts.evaluation),
        "interpolation": view["interpolation"],
        "crop_pct": view["crop_pct"],
        "crop_mode": view.get("crop_mode") or VIEW["crop_mode"],
    }


def _init_weights(parts: Parts) -> str | None:
    """The hash of the weights that the student starts from, if it starts from any."""
    init = next((network for network in parts.networks if network.role == "--init"), None)
    return None if init is None else hash_of_weights(open_trained(init).network)[:16]


def _check_trust(trust: bool, runs: Sequence[PlannedRun]) -> None:
    """Refuses ``--trust`` where no arm opens a network that brings code along."""
    networks = {network.text: network for run in runs for network in run.networks}
    if trust and not networks:
        raise UserError("--trust has no effect: no arm opens a network; leave it out")
    refuse_idle_trust(trust, *networks.values())


def _check_arithmetic(config: TrainConfig) -> None:
    """Refuses arithmetic that is measured, as each run might choose another one."""
    settings = flattened(_plain(config))
    for key, value in settings.items():
        if value == "fastest":
            raise UserError(
                f"{key}=fastest may choose otherwise in each run of a study; leave it out, or "
                "name what it should be"
            )


def _check_pair(first: PlannedRun, second: PlannedRun, differs: Sequence[str]) -> None:
    """Refuses two arms that are the same, or differ in what should be equal."""
    if not any(_unlike(first.settings, second.settings)):
        raise UserError(
            f"arms {first.arm!r} and {second.arm!r} are the same; leave one out, or let them "
            "differ in a setting"
        )
    _check_equal(first, second.arm, second.settings, differs)


def _check_equal(
    run: PlannedRun,
    arm: str,
    settings: Mapping[str, Any],
    differs: Sequence[str],
    recorded: bool = False,
) -> None:
    """Refuses a run that differs from one of another arm in what should be equal."""
    for key in _unlike(run.settings, settings):
        if not any(_covers(name, key) for name in (*COMPARED, *differs)):
            own, other, remedy = run.settings.get(key), settings.get(key), "set it for both"
            if recorded and key in BY_RULE:
                remedy = f"where this machine's rule chose that, --set {key}={other}"
            raise UserError(
                f"arms {run.arm!r} and {arm!r} differ in {key} ({own} and {other}), which a "
                f"comparison wants equal; {remedy}, or name it in the study's differs"
            )


def _check_recorded(study: StudyFile, run: PlannedRun, entry: Entry) -> None:
    """Refuses a run that does not go with a recorded one: of another arm, or of another seed."""
    if run.key[1:] == (entry["fraction"], entry["seed"]):
        # What it lacks is a setting or a fact that came later.
        stored = {key: entry["settings"].get(key, value) for key, value in run.settings.items()}
        _check_equal(run, entry["arm"], stored, study.config.differs, recorded=True)
    if run.key[:2] == (entry["arm"], entry["fraction"]):
        _check_other_seed(study, run, entry)


def _check_other_seed(study: StudyFile, run: PlannedRun, entry: Entry) -> None:
    """Refuses a run whose arm had other settings at a recorded seed: one row would mix both."""
    config = study.of_arm(run.arm, run.fraction, entry["seed"])
    own_images = config.data.train != run.config.data.train
    free = (*BY_RULE, *(OF_IMAGES if own_images else ()))
    stored = {key: value for key, value in entry["settings"].items() if key not in free}
    wanted = {key: value for key, value in run.settings.items() if key not in free}
    if (found := difference(stored, wanted)) is not None:
        key, old, new = found
        raise UserError(
            f"arm {run.arm!r}, seed {run.seed}: the record has {key}={old} at seed "
            f"{entry['seed']}, and the study says {new}; take the study's change back, or name "
            "another --record"
        )


def _unlike(first: Mapping[str, Any], second: Mapping[str, Any]) -> Iterator[str]:
    """What two arms differ in; a teacher's name and arithmetic count where both have one."""
    alone = None in (first["teacher.name"], second["teacher.name"])
    for key, value in first.items():
        if second.get(key) != value and not (alone and key.startswith("teacher.")):
            yield key
    yield from second.keys() - first.keys()


def _covers(name: str, key: str) -> bool:
    return key == name or key.startswith(f"{name}.")


def _check_differs(differs: Sequence[str], runs: Sequence[PlannedRun]) -> None:
    """Refuses a name in ``differs`` that no two arms need, on whatever machine."""
    pairs = [pair for pair in combinations(runs, 2) if pair[0].fraction == pair[1].fraction]
    for name in differs:
        if name in BY_RULE:
            continue
        if not any(_covers(name, key) for a, b in pairs for key in _unlike(a.settings, b.settings)):
            raise UserError(
                f"differs names {name}, in which no arms differ; leave it out (known: settings, "
                "epochs, steps, train_images, eval_images, interpolation, crop_pct, crop_mode)"
            )

"""What `dearkd distill` does: a CNN in, a trained student out, by rounds of images and training.

Every round makes a set by the door of `dearkd synthesize` and trains on all sets so far by that of
`dearkd train`. What is finished is skipped and what is begun goes on, by what lies in the folder.
"""

import errno
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from omegaconf import DictConfig, OmegaConf
from rich.console import Console

from dearkd.config import TrainConfig
from dearkd.config_file import complete, to_yaml, user_tree
from dearkd.data.synthetic_set import CONFIG_FILE
from dearkd.errors import UserError, WriteError
from dearkd.rounds.folder import (
    LOCK,
    ROUNDS,
    ROUNDS_FILE,
    Round,
    check_name,
    check_new,
    finished_rounds,
    newest_unfinished_rounds,
    sets_up_to,
)
from dearkd.rounds.plan import NEW, as_typed, plan
from dearkd.rounds.progress import RoundsRun, print_plan, say_part, say_result
from dearkd.rounds.result import write_result
from dearkd.rounds.settings import RoundsConfig, image_options, training, with_rooted_paths
from dearkd.run_folder.files import remove_leftovers
from dearkd.run_folder.folder import next_folder
from dearkd.run_folder.going_on import changed, check_begun, leave_former_weights
from dearkd.run_folder.lock import held
from dearkd.run_folder.moved import naming_the_new_place
from dearkd.run_folder.output import write_text
from dearkd.run_folder.processes import process_state
from dearkd.run_folder.stop import Interrupted, RequeueSignal, raising_on_signals
from dearkd.said import command, counted
from dearkd.synthesis.settings import SynthesizeConfig
from dearkd.synthesis.setup import classifier_of
from dearkd.synthesis.synthesize import synthesize
from dearkd.trained.imports import import_files
from dearkd.trained.resolve import EMBEDDED, resolve
from dearkd.training.paths import rooted
from dearkd.training.train import train

__all__ = ["distill"]

FULL = (errno.ENOSPC, errno.EDQUOT)
MOVABLE = ("teacher.name", "teacher.weights", "other_teachers", "evaluation")
"""Settings that a run may have otherwise when it goes on: teachers are known by their weights, and
a student that is begun knows its evaluation images."""


def distill(
    path: Path | None,
    settings: Sequence[str],
    options: dict[str, Any],
    *,
    console: Console,
    out: Path | None = None,
    resume: bool = False,
    dry_run: bool = False,
    trust: bool = False,
) -> Path | None:
    """Makes images and trains on them, round after round; returns the run's folder.

    A folder that holds the run already goes on, ``resume`` or not: what is given must agree with
    it, but for more rounds, for where teachers and evaluation images lie now and for what it leaves
    open. A dry run shows what all would take, and writes nothing.

    Raises:
        UserError: Anything wrong with the configuration, a network, the data or the folder.
        WriteError: If the disk is full; what is finished stays.
        Interrupted: After Ctrl-C or SIGTERM, with the state saved.
    """
    state = process_state()
    if state.num_processes > 1:
        raise UserError(
            f"dearkd distill is one process, got {state.num_processes}; start it without a launcher"
        )
    given = with_rooted_paths(user_tree(RoundsConfig, path, settings, options))
    named = given.pop("out", None)
    folder = out or (Path(str(named)) if named else newest_unfinished_rounds() if resume else None)
    check_name(folder or Path("runs"))
    config = _configuration(given, folder, resume)
    if folder is not None and finished_rounds(folder) == config.rounds:
        console.print(f"{folder} is finished; there is nothing left to do")
        return folder
    begun = folder if folder is not None and Round(folder, 1).teachers else None
    if begun is not None:
        _check_teachers(config, begun, trust)
    planned = plan(config, state, trust=trust, begun=begun)
    console.print(f"chosen: {'; '.join(planned.notes)}")
    if dry_run:
        shown = replace(planned.config, out=None if folder is None else str(folder))
        console.print(to_yaml(shown), markup=False)
        print_plan(RoundsRun(planned, folder or Path("runs") / "new", console, trust))
        return None
    if folder is None:
        folder = next_folder(f"distill-{Path(str(planned.config.teacher.name)).stem}")
    _run(RoundsRun(planned, folder, console, trust), given, resume)
    return folder


def _run(run: RoundsRun, given: DictConfig, resume: bool) -> None:
    """Makes and trains what is left, and prints what came out."""
    with held(run.folder, LOCK), raising_on_signals(), _told_how_to_go_on(run):
        _configuration(given, run.folder, resume)  # another command may have begun it meanwhile
        remove_leftovers(run.folder)
        config = replace(run.plan.config, out=str(run.folder.resolve()))
        write_text(run.folder / ROUNDS_FILE, to_yaml(config))
        print_plan(run)
        for part in run.rounds:
            if not part.has_student:
                _make_images(run, part)
                _train(run, part)
            say_result(run, part)
        summary = write_result(run.rounds)
    reached = f"top-1 {summary['top1']:.2f} %" if summary["top1"] is not None else "no top-1"
    run.console.print(f"done in {counted(len(run.rounds), 'round')}: {reached}: {run.folder}")
    run.console.print(f"next: {command('dearkd', 'report', run.folder)}")


def _configuration(given: DictConfig, folder: Path | None, resume: bool) -> RoundsConfig:
    """What was given, or what the folder's run was begun with, with more rounds if they are wanted.

    Raises:
        UserError: If they differ otherwise, or there is nothing to resume.
    """
    kind = RoundsConfig
    file = None if folder is None else folder / ROUNDS_FILE
    if file is None or not file.is_file():
        if resume:
            check_begun(folder or Path("runs"), ROUNDS_FILE)
        if folder is not None:
            check_new(folder)
        return complete(kind, given)
    stored = user_tree(kind, file, (), {})
    if not stored.get("synth", {}).keys() & {"engine", "recipe"}:
        OmegaConf.update(stored, "synth.engine", "generator")  # begun when rounds had no other
    unlike = changed(kind, stored, given, rooted)
    rounds = unlike.pop("rounds", (0, 0))
    most = max(rounds[1], int(stored.get("rounds", ROUNDS)))  # in quotes it is text
    if Round(file.parent, 1).teachers and finished_rounds(file.parent) < most:
        _move(stored, given, unlike)
    if rounds[1] < rounds[0]:
        unlike["rounds"] = rounds
    if unlike:
        pairs = [f"{key}={new} (stored: {old})" for key, (old, new) in unlike.items()]
        raise UserError(
            f"{folder} keeps the settings that it was begun with, which differ from "
            f"{', '.join(pairs)}; leave them out or choose another --out"
        )
    return complete(kind, stored, OmegaConf.create({"rounds": most}))


def _move(stored: DictConfig, given: DictConfig, unlike: dict[str, tuple[Any, Any]]) -> None:
    """Takes the new places of teachers and evaluation images from what is unlike."""
    moved = {key: rooted(unlike.pop(key)[1]) for key in MOVABLE if key in unlike}
    leave_former_weights(moved, given)
    for key, value in moved.items():
        OmegaConf.update(stored, key, value)


def _check_teachers(config: RoundsConfig, folder: Path, trust: bool) -> None:
    """Refuses to go on with other teachers than those of the first round's images.

    Raises:
        UserError: Naming the teacher.
        MissingFileError: If one is gone, with the command that names its new place.
    """
    known = Round(folder, 1).teachers
    import_files(config.imports)
    for number, one in enumerate((config.teacher, *config.other_teachers)):
        name = EMBEDDED if one.name is None else one.name
        weights = None if one.weights is None else Path(one.weights)
        with naming_the_new_place("distill", folder, NEW):
            found = resolve(name, weights=weights, trust=trust)
        if classifier_of(found).weights_hash() not in known[number : number + 1]:
            raise UserError(
                f"--teacher {found.text} is not the network that {folder} began with; name that, "
                "or start anew with another --out"
            )


def _make_images(run: RoundsRun, part: Round) -> None:
    """Makes a round's set or goes on with it; what the sets so far have lost is made again."""
    for one in run.rounds[: part.number]:
        lost = one.lost
        if lost is None:
            continue
        if one.has_set or one.number < part.number:
            run.console.print(f"round {one.number} has lost {lost}, which is made again")
        else:
            say_part(run, one, "images")
        _synthesize(run, one)


def _synthesize(run: RoundsRun, part: Round) -> None:
    begun = part.has_begun_set
    settings, options = ((), {}) if begun else image_options(run.plan.config, part)
    with as_typed("synth"):
        if begun:
            _name_networks(run, part)
        synthesize(
            None,
            settings,
            options,
            console=run.console,
            out=part.set,
            resume=begun,
            again=run.again,
        )


def _name_networks(run: RoundsRun, part: Round) -> None:
    """Names the networks of a begun set by their paths of today, as they may have moved."""
    file, config = part.set / CONFIG_FILE, run.plan.config
    stored = user_tree(SynthesizeConfig, file, (), {})
    before = stored.copy()
    if OmegaConf.select(stored, "student.name") is not None:
        stored.student.name = str(part.before.student.path)
    stored.teacher = asdict(config.teacher)
    stored.other_teachers = [asdict(one) for one in config.other_teachers]
    if stored != before:
        write_text(file, OmegaConf.to_yaml(stored))


def _train(run: RoundsRun, part: Round) -> None:
    """Trains a round's student on all sets so far, or goes on with it."""
    say_part(run, part, "training")
    begun = part.has_begun_student
    with as_typed("train"):
        train(
            _gone_on_with(run, part) if begun else training(run.plan.config, part),
            console=run.console,
            folder=part.student if begun else None,
            resume=begun,
            again=run.again,
        )


def _gone_on_with(run: RoundsRun, part: Round) -> TrainConfig:
    """The configuration of a begun student, with paths of today, as all may have moved."""
    stored, teacher = part.student.read_config(), run.plan.config.teacher
    return replace(
        stored,
        init=None if stored.init is None else str(part.before.student.path),
        data=replace(stored.data, train=sets_up_to(part), evaluation=run.plan.config.evaluation),
        teacher=replace(stored.teacher, name=teacher.name, weights=teacher.weights),
    )


@contextmanager
def _told_how_to_go_on(run: RoundsRun) -> Iterator[None]:
    """Ends in one line that says how to go on, whatever part was stopped."""
    try:
        yield
    except KeyboardInterrupt as asked:  # between two parts, which say so themselves
        run.console.print(f"stopped; go on with: {run.again}")
        raise Interrupted(requeue=isinstance(asked, RequeueSignal)) from None
    except OSError as error:
        if isinstance(error, UserError) or error.errno not in FULL:
            raise
        reason = error.strerror
        raise WriteError(
            f"cannot go on in {run.folder} ({reason}); make room and go on with: {run.again}"
        ) from error

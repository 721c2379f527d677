"""``dearkd synthesize``: makes a folder of training images from a trained network alone."""

import re
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from accelerate import PartialState
from rich.console import Console

from dearkd.config_file import nulls, to_yaml, user_tree
from dearkd.data.synthetic_set import CONFIG_FILE, MANIFEST_FILE, SETTINGS_FILE
from dearkd.errors import UserError, WriteError
from dearkd.run_folder.going_on import check_begun, check_typed, goes_on
from dearkd.run_folder.moved import naming_the_new_place
from dearkd.run_folder.processes import process_state, said_by_main
from dearkd.run_folder.stop import Interrupted, RequeueSignal, raising_on_signals
from dearkd.said import command, counted
from dearkd.synthesis.conclusion import conclude, say_next
from dearkd.synthesis.forecast import describe
from dearkd.synthesis.live import SynthesisProgress
from dearkd.synthesis.moved import NEW, moved_settings, with_rooted_paths
from dearkd.synthesis.set_folder import (
    await_manifest,
    claimed,
    manifest_time,
    new_folder,
    newest_unfinished_set,
)
from dearkd.synthesis.settings import SynthesizeConfig
from dearkd.synthesis.setup import Setup, prepare
from synth import synthesis as library
from synth.files import write_whole

__all__ = ["synthesize"]

EXAMPLES = {"--res": "112,224", "--iters": "2000,2000"}


def synthesize(
    path: Path | None,
    settings: Sequence[str],
    options: dict[str, Any],
    *,
    console: Console,
    out: Path | None = None,
    resume: bool = False,
    go_on: bool = False,
    dry_run: bool = False,
    trust: bool = False,
    again: str = "",
) -> Path | None:
    """Makes the images that a configuration describes and returns their folder.

    ``dry_run`` forecasts time, memory and disk instead, and returns None. ``go_on``: resumes a set
    that was begun, leaves one that is finished, and begins it otherwise. ``again`` is the command
    that goes on after an interruption, where another verb makes the set: it trains on it next.

    Raises:
        UserError, WriteError: If the configuration, a network or the folder can't be used.
        FloatingPointError: If an objective is no longer finite.
        Interrupted: After Ctrl-C, SIGTERM or SIGUSR1; finished groups are on disk.
    """
    state = process_state()
    say = said_by_main(console, state)
    options = {**options, **_numbers(options, resolutions="--res", iterations="--iters")}
    if go_on:
        if out is None and (
            typed := user_tree(SynthesizeConfig, path, settings, options).get("out")
        ):
            out = Path(str(typed))
        resume = goes_on(out, CONFIG_FILE, resume=resume)
    if resume:
        check_typed(path, go_on=go_on)
        folder = out or newest_unfinished_set()
        check_begun(folder, CONFIG_FILE)
        given = user_tree(SynthesizeConfig, path, settings, options)
        moved = moved_settings(folder, given, go_on=go_on)
        if go_on and not dry_run and (folder / MANIFEST_FILE).is_file():
            say(f"{folder} is finished; there is nothing left to do")
            return folder
        with naming_the_new_place("synthesize", None if again else folder, NEW):
            setup = prepare(
                folder / CONFIG_FILE,
                nulls(moved),
                moved,
                trust=trust,
                world=state.num_processes,
                stored=True,
            )
    else:
        options = options if out is None else {**options, "out": str(out)}
        setup = prepare(path, settings, options, trust=trust, world=state.num_processes)
        for line in _foreword(setup):
            say(line)
        folder, moved = Path() if dry_run else new_folder(setup.config, state), {}
    if dry_run:
        if state.is_main_process:
            begun = folder if resume and (folder / SETTINGS_FILE).is_file() else None
            describe(setup, state.device, console, state.num_processes, begun)
        return None
    with claimed(folder, state), raising_on_signals():
        say(f"{_title(setup)} -> {folder}")
        _run(setup, folder, resume, bool(moved), state, console, again)
    return folder


def _numbers(options: dict[str, Any], **flags: str) -> dict[str, list[int]]:
    """The options that are typed as ``112,224``, as numbers; ``flags`` has their names.

    From Python they may be a number or several, too.
    """
    numbers = {}
    for key, flag in flags.items():
        value = options.get(key)
        if value is None:
            continue
        parts = value if isinstance(value, list | tuple) else [value]
        text = ",".join(map(str, parts))
        if not re.fullmatch(r"\d+(,\d+)*", text):
            raise UserError(
                f"{flag} wants whole numbers, one a stage, as in {EXAMPLES[flag]}; got {text!r}"
            )
        numbers[key] = [int(part) for part in text.split(",")]
    return numbers


def _run(
    setup: Setup,
    folder: Path,
    resume: bool,
    moved: bool,
    state: PartialState,
    console: Console,
    again: str,
) -> None:
    """Makes the images and prints what came out; if it is stopped, prints how to go on."""
    say = said_by_main(console, state)
    started = time.monotonic()
    try:
        standing = manifest_time(folder)
        if state.is_main_process and not resume:  # before all else: a killed run is resumed by it
            _store_config(setup, folder)
        merged = _make(setup, folder, resume, moved, state, console)
        if state.is_main_process:
            if not merged:
                say("this process's share is done; waiting for the others")
                await_manifest(folder, since=standing)
            conclude(folder, setup, time.monotonic() - started, say)
            if not again:
                say_next(folder, setup, say)
    except KeyboardInterrupt as asked:
        say(f"stopped{_way_on(folder, again)}")
        raise Interrupted(requeue=isinstance(asked, RequeueSignal)) from None
    except OSError as error:  # a full disk, as a rule
        reason = error.strerror or error
        raise WriteError(f"cannot go on in {folder} ({reason}){_way_on(folder, again)}") from error


def _make(
    setup: Setup, folder: Path, resume: bool, moved: bool, state: PartialState, console: Console
) -> bool:
    """Makes this process's share of the images; returns whether it was the last to finish."""
    main = state.is_main_process
    events = library.synthesize(
        setup.synthesis,
        setup.teacher,
        folder,
        verifier=setup.verifier,
        student=setup.student,
        others=setup.others,
        device=state.device.type,  # the process's own card is the current one
        rank=state.process_index,
        world=state.num_processes,
        resume=resume,
    )
    with SynthesisProgress(console, setup.synthesis.stages, visible=main) as progress:
        for event in events:
            match event:
                case library.Prepared():
                    if main and moved:  # they are the set's networks: it has compared them
                        _store_config(setup, folder)
                    if main:
                        console.print(_prepared(event, setup, state.num_processes))
                    progress.begin(event)
                case library.Progress():
                    warming_up = not event.groups
                    progress.step(event.step, event.iterations_done, warming_up=warming_up)
                case library.GroupDone():
                    progress.group(len(event.images))
                case library.Finished():
                    return event.manifest is not None
    raise AssertionError("synthesis ended without a last event")


def _store_config(setup: Setup, folder: Path) -> None:
    """Writes the configuration that the set goes on with, from any folder.

    The library names the unfinished file, so that a folder with what a kill left of it counts as
    free.
    """
    write_whole(folder / CONFIG_FILE, to_yaml(with_rooted_paths(setup.config)).encode())


def _way_on(folder: Path, again: str) -> str:
    """The command that resumes a run that was stopped; empty if nothing is stored yet."""
    begun = (folder / CONFIG_FILE).exists()
    own = command("dearkd", "synthesize", "--resume", "--out", folder)
    return f"; go on with: {again or own}" if again or begun else ""


def _prepared(event: library.Prepared, setup: Setup, processes: int) -> str:
    """Precision, layout and compiler with their reason, and how many images are done already."""
    kernels = event.kernels
    layout = "channels_last" if kernels.channels_last else "contiguous"
    tuned = f", bn_weight {event.bn_weight:.3g}" if setup.config.objective.auto_weights else ""
    done = event.images - event.images_here
    others = " or another process's" if processes > 1 else ""
    share = f"{done:,} of {counted(event.images, 'image')} are done{others}" if done else ""
    compiled = ", compiled" if kernels.compile else ""
    reason = f" ({kernels.reason})" if kernels.reason else ""
    parts = [f"{kernels.precision}, {layout}{compiled} on {kernels.device}{reason}{tuned}", share]
    return "; ".join(part for part in parts if part)


def _foreword(setup: Setup) -> Iterator[str]:
    """The defaults that were taken, and what may be wrong with images of this size.

    Far below its size a teacher may not know its own images: EfficientNet-Lite0, of 224 px, knew
    15 % of those of 64 px and 95 % of those of 128 (LAB.md).
    """
    if setup.notes:
        yield f"defaults taken: {'; '.join(setup.notes)}"
    size, own = setup.config.resolutions[-1], setup.teacher.img_size
    if 2 * size < own:
        yield (
            f"note: {setup.teacher.name} was trained at {own} px, of images of {size} px it may "
            f"not know its own; for a student of {size} px make them at {own} and train on them "
            f"with --img-size {size}"
        )


def _title(setup: Setup) -> str:
    """Number of images, teacher and stages, in a line."""
    config = setup.synthesis
    images = counted(sum(len(group.targets) for group in setup.groups), "image")
    stages = " -> ".join(f"{size} px x {iterations}" for size, iterations in config.stages)
    teachers = " and ".join(one.name for one in (setup.teacher, *setup.others))
    return f"{images} from {teachers}, {stages}"

"""``--resume`` and ``--go-on``: whether a folder is begun, and whether it is what was typed."""

from collections.abc import Callable, Collection
from pathlib import Path
from typing import Any

from omegaconf import DictConfig, OmegaConf

from dearkd.config_file import differences, user_tree
from dearkd.errors import UserError
from dearkd.said import command

__all__ = [
    "changed",
    "check_begun",
    "check_stored",
    "check_typed",
    "goes_on",
    "leave_former_weights",
]

LEFT_OPEN = (None, "auto", "fastest", "cnn")
"""Values that say "choose for me": a folder stores what was chosen."""
NEVER_OPEN = ("stage1",)
"""Settings whose ``auto`` is stored as it is."""
OFF_BY_NONE = (
    *("optim.clip_grad", "optim.ema_decay", "init", "cache_labels"),
    *("data.validation", "data.evaluation", "evaluation"),
)
"""Settings whose None says "without", and is stored as it is."""


def goes_on(out: Path | None, config_name: str, *, resume: bool) -> bool:
    """Whether ``--go-on`` finds a folder that was begun.

    Raises:
        UserError: If no folder is named, or ``--resume`` is typed besides.
    """
    if out is None:
        raise UserError("--go-on needs --out FOLDER, to find its work again the next time")
    if resume:
        raise UserError("--go-on resumes what was begun; leave --resume out")
    return (out / config_name).is_file()


def check_typed(path: Path | None, *, go_on: bool) -> None:
    """Refuses to resume with a configuration ``path``, as the folder has its own.

    With ``go_on`` the whole command was typed again, its configuration too.

    Raises:
        UserError: Naming the path.
    """
    if path is None or go_on:
        return
    remedy = f"leave {path} out"
    if path.is_dir():
        remedy = f"the folder to resume is named by {command('--out', path)}"
    raise UserError(f"--resume takes the config stored in the folder; {remedy}")


def check_begun(folder: Path, config_name: str) -> None:
    """Refuses to resume where nothing was begun.

    Raises:
        UserError: Naming the folder.
    """
    fault = None if folder.exists() else "it does not exist"
    if fault is None and not (folder / config_name).is_file():
        fault = f"it has no {config_name}"
    if fault is not None:
        raise UserError(
            f"nothing to resume in {folder}: {fault}; name another folder with --out, or leave "
            "--resume out to begin one"
        )


def changed(
    kind: type,
    stored: DictConfig,
    given: DictConfig,
    rooted: Callable[[Any], Any] = lambda value: value,
) -> dict[str, tuple[Any, Any]]:
    """The settings of a command typed again that are not as stored: (stored, given).

    What it leaves open has been chosen since, and ``rooted`` makes its paths absolute.
    """
    return {
        key: (old, new)
        for key, (old, new) in differences(kind, stored, given).items()
        if not _is_open(key, new) and rooted(new) != old
    }


def check_stored(
    kind: type,
    file: Path,
    given: DictConfig,
    *,
    go_on: bool,
    rooted: Callable[[Any], Any] = lambda value: value,
    movable: Collection[str] = (),
) -> dict[str, Any]:
    """Compares the settings that were typed with those that the folder of ``file`` stores.

    With ``go_on`` the whole command was typed again: what it leaves open has been chosen since, and
    its paths may be relative; ``rooted`` makes them absolute. Returns the ``movable`` settings that
    differ: new paths, where the same data may be.

    Raises:
        UserError: If others differ, naming each and both values.
    """
    given = given.copy()
    given.pop("out", None)
    stored = user_tree(kind, file, (), {})
    unlike = changed(kind, stored, given, rooted) if go_on else differences(kind, stored, given)
    moved = {key: rooted(unlike.pop(key)[1]) for key in [*unlike] if key in movable}
    if not unlike:
        return moved
    pairs = ", ".join(f"{key}={new} (stored: {old})" for key, (old, new) in unlike.items())
    word, remedy = "--resume", "leave them out or start anew with another --out"
    if go_on:
        word, remedy = "--go-on", "take them back or start anew with another --out"
    raise UserError(
        f"{word} keeps the settings stored in {file.parent}, which differ from {pairs}; {remedy}"
    )


def leave_former_weights(moved: dict[str, Any], given: DictConfig, role: str = "teacher") -> None:
    """Empties the weights of a network that has another name, where none are ``given`` for it."""
    if f"{role}.name" in moved and OmegaConf.select(given, f"{role}.weights") is None:
        moved[f"{role}.weights"] = None


def _is_open(key: str, value: Any) -> bool:
    if value is None and key.removeprefix("train.") in OFF_BY_NONE:
        return False
    return value in LEFT_OPEN and key not in NEVER_OPEN

"""The folder that a synthetic set is made in: finding it, making it, holding its lock."""

import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

from accelerate import PartialState

from dearkd.data.synthetic_set import CONFIG_FILE, MANIFEST_FILE, SETTINGS_FILE
from dearkd.errors import UserError
from dearkd.run_folder.folder import next_folder
from dearkd.run_folder.lock import held, is_held
from dearkd.run_folder.processes import from_main
from dearkd.synthesis.settings import SynthesizeConfig

__all__ = [
    "await_manifest",
    "claimed",
    "manifest_time",
    "new_folder",
    "newest_unfinished_set",
]

LOCK_FILE = ".lock.tmp"  # the library ignores .tmp and .yaml files of its caller
WAIT_SECONDS = 0.5


def newest_unfinished_set(root: Path = Path("runs")) -> Path:
    """The folder of the set that was begun last and has no manifest yet.

    Sets that another process is working on are skipped.

    Raises:
        UserError: If there is none.
    """
    begun = [
        file
        for file in root.glob(f"*/{CONFIG_FILE}")
        if not (file.parent / MANIFEST_FILE).exists() and not is_held(file.parent, LOCK_FILE)
    ]
    if not begun:
        raise UserError(f"no unfinished synthetic set under {root}/; name one with --out FOLDER")
    return max(begun, key=lambda file: file.stat().st_mtime).parent


def new_folder(config: SynthesizeConfig, state: PartialState) -> Path:
    """The folder that ``config.out`` names, or a new one: the same on every process.

    Raises:
        UserError: On every process, if the folder is taken or cannot be made.
    """
    return from_main(state, lambda: _free_folder(config))


@contextmanager
def claimed(folder: Path, state: PartialState) -> Iterator[None]:
    """Holds the folder's lock in the main process, for all processes.

    Raises:
        UserError: On every process, before any of them writes, if another run holds the lock.
    """
    with ExitStack() as stack:
        from_main(state, lambda: stack.enter_context(held(folder, LOCK_FILE)))
        yield


def manifest_time(folder: Path) -> int | None:
    """When the manifest was written, in nanoseconds since 1970; None if there is none."""
    file = folder / MANIFEST_FILE
    return file.stat().st_mtime_ns if file.exists() else None


def await_manifest(folder: Path, since: int | None) -> None:
    """Waits until another process has written the manifest; ``since`` is the time of an older one.

    The main process waits so that it keeps the folder's lock; a barrier would time out. Launchers
    end it if another process dies.
    """
    while manifest_time(folder) in (None, since):
        time.sleep(WAIT_SECONDS)


def _free_folder(config: SynthesizeConfig) -> Path:
    """The folder for a new set.

    Raises:
        UserError: If the one that is named is taken.
    """
    assert config.teacher.name is not None
    if config.out is None:
        return next_folder(f"synth-{Path(config.teacher.name).stem}")
    folder = Path(config.out)
    refusal = _occupied(folder)
    if refusal is not None:
        raise UserError(refusal)
    return folder


def _occupied(folder: Path) -> str | None:
    """Why a new set can't be made in the folder; None if it can."""
    if not folder.exists():
        return None
    if not folder.is_dir():
        return f"--out {folder} is a file; choose a folder"
    if (folder / SETTINGS_FILE).exists():
        return (
            f"{folder} already holds a synthetic set; go on with it by --resume or choose "
            "another --out"
        )
    if any(file.suffix != ".tmp" and file.name != CONFIG_FILE for file in folder.iterdir()):
        return f"{folder} is not empty and holds no synthetic set; choose another --out"
    return None

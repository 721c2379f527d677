"""The folder a synthetic set is made in: the newest, the next free one, and who holds it."""

import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

from accelerate import PartialState
from accelerate.utils import broadcast_object_list

from dearkd.run_folder.folder import held, next_folder
from dearkd.synthesis.setup import SynthesizeConfig

__all__ = [
    "CONFIG_FILE",
    "await_manifest",
    "claimed",
    "manifest_time",
    "new_folder",
    "newest_unfinished_set",
]

CONFIG_FILE = "synthesize.yaml"
LOCK_FILE = ".lock.tmp"  # the library takes .tmp and .yaml files for none of its own
WAIT_SECONDS = 0.5


def newest_unfinished_set(root: Path = Path("runs")) -> Path:
    """The folder of the set that was begun last and has no manifest yet.

    Raises:
        ValueError: If there is none.
    """
    begun = [
        file
        for file in root.glob(f"*/{CONFIG_FILE}")
        if not (file.parent / "manifest.json").exists()
    ]
    if not begun:
        raise ValueError(f"no unfinished synthetic set under {root}/; name one with --out FOLDER")
    return max(begun, key=lambda file: file.stat().st_mtime).parent


def new_folder(config: SynthesizeConfig, state: PartialState) -> Path:
    """The named folder, or the next free one, the same on every process.

    Raises:
        ValueError: If it is taken; every process then hears of it.
    """
    assert config.teacher.name is not None
    folder = Path(config.out or next_folder(f"synth-{Path(config.teacher.name).stem}"))
    answer = [str(folder), _occupied(folder)]
    if state.num_processes > 1:  # the main process looks, before any of them writes
        broadcast_object_list(answer)
    if answer[1] is not None:
        raise ValueError(answer[1])
    assert answer[0] is not None
    return Path(answer[0])


@contextmanager
def claimed(folder: Path, state: PartialState) -> Iterator[None]:
    """The folder held by the main process for all of them.

    Raises:
        ValueError: If it can't be held; every process then hears of it, before any of them writes.
    """
    refusal: list[str | None] = [None]
    with ExitStack() as stack:
        if state.is_main_process:
            try:
                stack.enter_context(held(folder, LOCK_FILE))
            except (ValueError, OSError) as error:
                refusal = [str(error)]
        if state.num_processes > 1:
            broadcast_object_list(refusal)
        if refusal[0] is not None:
            raise ValueError(refusal[0])
        yield


def manifest_time(folder: Path) -> int | None:
    """When the manifest was written, in nanoseconds; None: there is none."""
    file = folder / "manifest.json"
    return file.stat().st_mtime_ns if file.exists() else None


def await_manifest(folder: Path, since: int | None) -> None:
    """Returns once the last process has written the manifest anew.

    The main process waits so that the folder stays held; a barrier would time out. Launchers end
    it if another process dies.
    """
    while manifest_time(folder) in (None, since):
        time.sleep(WAIT_SECONDS)


def _occupied(folder: Path) -> str | None:
    """Why a new set can't go there."""
    if not folder.exists():
        return None
    if not folder.is_dir():
        return f"--out {folder} is a file; choose a folder"
    if (folder / "settings.json").exists():
        return (
            f"{folder} already holds a synthetic set; go on with it by --resume or choose "
            "another --out"
        )
    if any(file.suffix != ".tmp" and file.name != CONFIG_FILE for file in folder.iterdir()):
        return f"{folder} is not empty and holds no synthetic set; choose another --out"
    return None

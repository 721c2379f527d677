"""A lock on a folder for one process at a time, which the system frees when the process ends."""

import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any

from dearkd.errors import UserError, WriteError

__all__ = ["held", "is_held", "one_at_a_time"]

LOOKING_SECONDS = 0.3
"""Time in which a process that only looks whether a folder is held (`is_held`) lets it go."""
POLL_SECONDS = 0.02
"""Time between two tries to get a lock that another process holds for a moment."""


@contextmanager
def held(folder: Path, lock_name: str) -> Iterator[None]:
    """Makes a folder and holds it for this process by a lock on a file in it.

    Raises:
        UserError: If another process holds it.
        WriteError: If it cannot be written to, or its file system has no locks.
    """
    file = folder / lock_name
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        lock = file.open("ab")
    except OSError as error:
        raise WriteError(
            f"cannot write to {folder} ({error.strerror}); choose another folder with --out"
        ) from error
    with lock:
        try:
            is_ours = _lock_soon(lock)
        except OSError as error:  # as of NFS and Lustre, where these are mounted without locks
            raise WriteError(
                f"cannot lock {file} ({error.strerror}): its file system has no locks; choose a "
                "folder on another one with --out"
            ) from error
        if not is_ours:
            raise UserError(
                f"{folder} is in use by another running process; wait for it or "
                "choose another --out"
            )
        yield


@contextmanager
def one_at_a_time(file: Path) -> Iterator[None]:
    """Has processes that write the same file do so one after another: waits for the others.

    The lock lies beside it, as ``.NAME.lock``, and stays there.

    Raises:
        OSError: If the lock cannot be written.
    """
    file.parent.mkdir(parents=True, exist_ok=True)
    with file.with_name(f".{file.name}.lock").open("ab") as lock:
        while not _lock(lock):
            time.sleep(POLL_SECONDS)
        yield


def is_held(folder: Path, lock_name: str) -> bool:
    """Whether another process holds the folder now."""
    file = folder / lock_name
    if not file.is_file():
        return False
    try:
        with file.open("ab") as lock:
            return not _lock(lock)
    except OSError:  # not ours to write to
        return False


def _lock_soon(file: IO[Any]) -> bool:
    """Locks a file as `_lock` does, also where another process only looks at the lock."""
    end = time.monotonic() + LOOKING_SECONDS
    while not (is_ours := _lock(file)) and time.monotonic() < end:
        time.sleep(POLL_SECONDS)
    return is_ours


def _lock(file: IO[Any]) -> bool:
    """Locks an open file until it is closed, and returns whether that succeeded."""
    try:
        import fcntl
    except ImportError:
        return _lock_on_windows(file)
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def _lock_on_windows(file: IO[Any]) -> bool:
    """The same on Windows, where a range of bytes is locked: here the first byte."""
    import msvcrt

    windows: Any = msvcrt  # the type checker knows its functions on Windows alone
    file.seek(0)
    try:
        windows.locking(file.fileno(), windows.LK_NBLCK, 1)
    except OSError:  # another process has locked it
        return False
    return True

"""Checks the file that ``--out`` names before the work begins, and writes it as a whole."""

from collections.abc import Callable
from pathlib import Path

from dearkd.data.synthetic_set import is_set
from dearkd.errors import UserError, WriteError
from dearkd.run_folder.files import replace_text
from dearkd.run_folder.folder import ROUNDS_FILE, is_run
from dearkd.run_folder.record import COPY, is_record

__all__ = ["check_replaceable", "make_room", "owner_of", "unwritable", "write_text"]

CHOOSE = "choose another --out"


def check_replaceable(file: Path, is_own: Callable[[Path], bool]) -> None:
    """Refuses an existing file that something else than the verb at work has made.

    That is a study's record, wherever it lies, and any file in the folder of a run, a set or a
    study or one level below, but for those of which ``is_own`` says that the verb made them.

    Raises:
        UserError: Naming what the file belongs to.
    """
    if not file.is_file():
        return
    if is_record(file):
        raise UserError(f"--out {file} is the record of a study; name another file")
    here = file.resolve().parent
    owner = owner_of(here) or owner_of(here.parent)
    if owner is not None and not is_own(file):
        raise UserError(f"--out {file} is a file of a {owner}; name another one")


def owner_of(folder: Path) -> str | None:
    """What a folder holds, ``run``, ``synthetic set`` or ``study``; None: none of them."""
    if is_run(folder) or (folder / ROUNDS_FILE).is_file():
        return "run"
    if is_set(folder):
        return "synthetic set"
    return "study" if (folder / COPY).is_file() else None


def make_room(file: Path, remedy: str = CHOOSE) -> None:
    """Makes the folder of a file that is still to be computed, and tries to write there.

    ``remedy`` is what the user may do where that fails.

    Raises:
        UserError: If there is a folder of that name.
        WriteError: If its folder cannot be made or written to.
    """
    if file.is_dir():
        raise UserError(f"--out {file} is a folder; name a file in it")
    probe = file.with_name(f".{file.name}.probe")
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        probe.touch()
        probe.unlink(missing_ok=True)  # another process may have removed it
    except OSError as error:
        raise unwritable(file, error, remedy) from error


def write_text(file: Path, text: str) -> None:
    """Writes UTF-8 text; on an error the old file stays as it was.

    Raises:
        WriteError: If it cannot be written.
    """
    try:
        replace_text(file, text)
    except OSError as error:
        raise unwritable(file, error) from error


def unwritable(place: Path, error: OSError, remedy: str = CHOOSE) -> WriteError:
    """The operating system's error as a ``WriteError`` that names the place and the remedy."""
    return WriteError(f"cannot write {place} ({error.strerror or error}); {remedy}")

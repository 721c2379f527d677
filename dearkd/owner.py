"""Whose a file or a folder is: a run's, a synthetic set's or a study's."""

from collections.abc import Callable
from pathlib import Path

from dearkd.data.synthetic_set import is_set
from dearkd.errors import UserError
from dearkd.run_folder.folder import ROUNDS_FILE, is_run
from dearkd.run_folder.record import COPY, is_record

__all__ = ["check_replaceable", "owner_of"]


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

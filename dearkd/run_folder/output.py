"""Files that a verb was asked for with ``--out``: refused before the work, and written whole."""

from pathlib import Path

from dearkd.errors import UserError, WriteError
from dearkd.run_folder.files import write_atomically

__all__ = ["make_room", "unwritable", "write_text"]


def make_room(file: Path) -> None:
    """Makes the folder of a file that will be written once the work for it is done.

    Raises:
        UserError: If the place is taken by a folder.
        WriteError: If its folder cannot be made or written to.
    """
    if file.is_dir():
        raise UserError(f"--out {file} is a folder; name a file in it")
    probe = file.with_name(f".{file.name}.probe")
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        probe.touch()
        probe.unlink(missing_ok=True)  # another process may have looked here too
    except OSError as error:
        raise unwritable(file, error) from error


def write_text(file: Path, text: str) -> None:
    """Writes UTF-8 text: the whole of it, or what was there before stays.

    Raises:
        WriteError: If it cannot be written.
    """

    def write(target: Path) -> None:
        target.write_text(text, encoding="utf-8")

    try:
        write_atomically(file, write)
    except OSError as error:
        raise unwritable(file, error) from error


def unwritable(place: Path, error: OSError) -> WriteError:
    """An operating system's error as a line that names the place and the remedy."""
    return WriteError(f"cannot write {place} ({error.strerror or error}); choose another --out")

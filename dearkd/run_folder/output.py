"""Checks the file that ``--out`` names before the work begins, and writes it as a whole."""

from pathlib import Path

from dearkd.errors import UserError, WriteError
from dearkd.run_folder.files import replace_text

__all__ = ["make_room", "unwritable", "write_text"]

CHOOSE = "choose another --out"


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

    What is no text, as the bytes of some file names, is written as its escape.

    Raises:
        WriteError: If it cannot be written.
    """
    printable = text.encode(errors="backslashreplace").decode()
    try:
        replace_text(file, printable)
    except OSError as error:
        raise unwritable(file, error) from error


def unwritable(place: Path, error: OSError, remedy: str = CHOOSE) -> WriteError:
    """The operating system's error as a ``WriteError`` that names the place and the remedy."""
    return WriteError(f"cannot write {place} ({error.strerror or error}); {remedy}")

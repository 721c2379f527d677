"""Files that appear under their name only when whole."""

import json
import os
import secrets
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

__all__ = ["json_bytes", "read_json", "remove_leftovers", "write_first", "write_whole"]


def json_bytes(content: dict[str, Any]) -> bytes:
    """A JSON file of this content."""
    return (json.dumps(content, indent=1) + "\n").encode()


def read_json(path: Path) -> dict[str, Any]:
    """The object in a JSON file.

    Raises:
        ValueError: If it is no JSON, none of an object, or nested deeper than Python reads it.
    """
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except RecursionError as error:
        raise ValueError("its lists or mappings are nested too deeply") from error
    if not isinstance(content, dict):
        raise ValueError("it is no JSON object")
    return content


def write_whole(path: Path, content: bytes) -> None:
    """Write (or replace) a file that appears only when whole.

    What a killed process left of it is removed first. Where several processes write the same file
    at once, as when a set is merged, another may take ours for such a leftover: it is written again
    then. Each of them removes only once, so that this ends.
    """
    remove_leftovers(path)
    replaced = False
    while not replaced:
        with _temporary_file(path, content) as temporary, suppress(FileNotFoundError):
            temporary.replace(path)
            replaced = True


def write_first(path: Path, content: bytes) -> None:
    """Write a file that appears only when whole, unless there is one: the first writer's stays.

    Where the file system has no hard links, two that write at the same moment may replace it.
    """
    with _temporary_file(path, content) as temporary:
        try:
            os.link(temporary, path)  # unlike a rename this fails if another was first
        except FileExistsError:
            return
        except OSError:  # a file system without hard links
            if not path.exists():
                temporary.replace(path)


def remove_leftovers(path: Path) -> None:
    """Remove what killed processes left of a file."""
    for leftover in path.parent.glob(f".{path.name}.*.tmp"):
        leftover.unlink(missing_ok=True)


@contextmanager
def _temporary_file(path: Path, content: bytes) -> Iterator[Path]:
    """A new file beside ``path`` with this content, on the disk, with the umask's permissions.

    It is gone afterwards, after an error and a signal too: half a file takes room. Readers of image
    folders pass over it because of its suffix.
    """
    temporary = path.with_name(f".{path.name}.{secrets.token_hex(8)}.tmp")
    try:
        with temporary.open("xb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        yield temporary
    finally:
        temporary.unlink(missing_ok=True)

"""A run's checkpoint and the one before it, which takes its place where it can't be used."""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from dearkd.errors import MissingFileError, UserError
from dearkd.run_folder.files import load_checkpoint, save_checkpoint

__all__ = ["Checkpoints"]


class Checkpoints:
    """The two files. What replaces a checkpoint that could not be used does not keep it."""

    def __init__(self, folder: Path) -> None:
        self.last = folder / "last.pt"
        self.previous = folder / "previous.pt"
        self._keeps = True

    def save(self, state: dict[str, Any], run: Mapping[str, Any]) -> None:
        """Writes a checkpoint; ``run`` says of which run it is."""
        keep = self.previous if self._keeps else None
        save_checkpoint(self.last, {**state, "run": dict(run)}, keep)
        self._keeps = True

    def load(self, run: Mapping[str, Any], say: Callable[[str], object]) -> dict[str, Any]:
        """The last checkpoint that can be used, and a word if it is not the last one of all.

        Empty if there is none, as after a kill before the first one.

        Raises:
            UserError: If there are some, and each is damaged or of another run.
        """
        flaw: UserError | None = None
        for file in (self.last, self.previous):
            try:
                state = load_checkpoint(file)
                _check_run(file, state.pop("run", {}), run)
            except MissingFileError:
                continue
            except UserError as error:
                flaw, self._keeps = flaw or error, False
                continue
            if flaw is not None:
                say(f"warning: {_without_remedy(flaw)}; going on from {file}, the one before it")
            elif file is self.previous:
                say(f"warning: {self.last} is missing; going on from {file}")
            return state
        if flaw is not None:
            raise flaw
        return {}


def _check_run(file: Path, found: Mapping[str, Any], run: Mapping[str, Any]) -> None:
    """Compares what a checkpoint says of its run; older ones say nothing.

    Raises:
        UserError: If it is of another run.
    """
    for name, value in run.items():
        if found.get(name, value) != value:
            raise UserError(
                f"{file} is of another run: its {name} is {found[name]}, and this one's is "
                f"{value}; copy it anew or start another run with another --out"
            )


def _without_remedy(error: UserError) -> str:
    return str(error).partition(";")[0]

"""The run folder: its files, how they are written and read, and who may write to it."""

import itertools
import json
import re
import shutil
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from dearkd.config import TrainConfig, load_config
from dearkd.config_file import to_yaml
from dearkd.data.synthetic_set import is_set
from dearkd.errors import UserError, WriteError, one_line
from dearkd.json_text import parsed
from dearkd.misfit import Shape, misfit, whole
from dearkd.run_folder.checkpoints import Checkpoints
from dearkd.run_folder.files import file_hash, remove_leftovers, replace_text
from dearkd.run_folder.going_on import check_begun
from dearkd.run_folder.lock import held, is_held
from dearkd.said import command
from dearkd.shapes import SUMMARY

__all__ = [
    *("CONFIG_FILE", "ROUNDS_FILE", "RUN_FILES", "RunFolder"),
    *("is_run", "newest_unfinished", "next_folder"),
]

CONFIG_FILE = "config.yaml"
ROUNDS_FILE = "distill.yaml"
"""What the folder of `dearkd distill` has from its beginning; a run folder like any at its end."""
RUN_FILES = (CONFIG_FILE, "metrics.jsonl", "summary.json")
"""A folder with any of these is a run."""
LOCK = "checkpoint/lock"
"""File that a process at work on the run holds."""


class RunFolder:
    """The paths of one run, and the small files among them.

    They are ``config.yaml`` (resolved), ``sessions.jsonl`` (a line each time that the run is begun
    or resumed), ``metrics.jsonl`` (a line an epoch), ``summary.json``, ``model.safetensors`` and
    ``checkpoint/{last.pt,previous.pt,best.safetensors}``. ``is_new``: the program has just made
    the folder.
    """

    def __init__(self, path: Path, *, is_new: bool = False) -> None:
        self.path = path
        self.is_new = is_new
        self.config_file = path / CONFIG_FILE
        self.metrics_file = path / "metrics.jsonl"
        self.sessions_file = path / "sessions.jsonl"
        self.summary_file = path / "summary.json"
        self.model_file = path / "model.safetensors"
        self.checkpoints = Checkpoints(path / "checkpoint")
        self.last_file = self.checkpoints.last
        self.best_file = path / "checkpoint" / "best.safetensors"

    @contextmanager
    def locked(self, resume: bool) -> Iterator[None]:
        """Holds the folder for this process; the system frees it when the process ends.

        A new run that fails before it has saved anything leaves no folder behind, or the user's own
        folder as it was.

        Raises:
            UserError: If another process holds it, or it has a run and ``resume`` is false.
            WriteError: If it cannot be written to.
        """
        self.check_free(resume)
        is_new = self.is_new or not self.path.exists()
        before = set(self.path.iterdir()) if self.path.exists() else set()
        with held(self.path, LOCK):
            self.check_free(resume)  # again: another run may have written it meanwhile
            for folder in (self.path, self.last_file.parent):
                remove_leftovers(folder)
            try:
                yield
            except BaseException:
                if not resume and not self._has_results():
                    self._clear(before, is_new)
                raise

    def check_free(self, resume: bool) -> None:
        """Refuses a folder that has a run already, unless it is to be resumed.

        Raises:
            UserError: If it has a run or a synthetic set, or if there is no run to resume.
        """
        if self.path.exists() and not self.path.is_dir():
            raise UserError(f"--out {self.path} is a file; choose a folder")
        is_done = resume and self.summary_file.exists()
        if (self.path / ROUNDS_FILE).exists() and not is_done:
            again = command("dearkd", "distill", "--resume", "--out", self.path)
            raise UserError(
                f"{self.path} holds a run in rounds; go on with it by {again}, or choose "
                "another --out"
            )
        if self.config_file.exists() and not resume:
            raise UserError(
                f"{self.path} already holds a run; go on with it by --resume or "
                "choose another --out"
            )
        if self.summary_file.exists() and not resume:
            raise UserError(
                f"{self.path} has a summary.json, but no config.yaml that says of which run; "
                "restore that, remove the folder or choose another --out"
            )
        if not resume and is_set(self.path):
            raise UserError(f"{self.path} holds a synthetic set; choose another --out")
        if resume:
            check_begun(self.path, CONFIG_FILE)

    def _has_results(self) -> bool:
        """Whether a run has saved anything that it learned."""
        files = (self.last_file, self.best_file, self.model_file, self.summary_file)
        return bool(self.read_metrics()) or any(file.exists() for file in files)

    def _clear(self, before: set[Path], is_new: bool) -> None:
        """Removes what a run writes before it learns, but for the entries that were there before.

        What can't be removed stays: the error that ended the run is the one to be told.
        """
        files = (self.config_file, self.sessions_file, self.metrics_file)
        written = {*files, self.last_file.parent, self.path / "logs"}
        for entry in written - before:
            with suppress(OSError):
                shutil.rmtree(entry) if entry.is_dir() else entry.unlink(missing_ok=True)
        if is_new:
            with suppress(OSError):  # something else is in it
                self.path.rmdir()

    def write_config(self, config: TrainConfig) -> None:
        """Stores the resolved configuration."""
        replace_text(self.config_file, to_yaml(config))

    def read_config(self) -> TrainConfig:
        """The configuration of the run.

        Raises:
            FileNotFoundError: If the folder holds no run.
        """
        return load_config(self.config_file)

    def write_summary(self, summary: dict[str, Any]) -> None:
        """Stores the results of the finished run as ``summary.json``."""
        text = json.dumps(summary, indent=2) + "\n"
        replace_text(self.summary_file, text)

    def hashes(self) -> dict[str, str]:
        """SHA-256 of the files that a finished run does not change any more, by relative path."""
        files = (self.config_file, self.metrics_file, self.model_file, self.best_file)
        return {
            file.relative_to(self.path).as_posix(): file_hash(file)
            for file in files
            if file.is_file()
        }

    def append_session(self, session: dict[str, Any]) -> None:
        """Appends the commit, versions and device with which the run is begun or resumed."""
        lines = [json.dumps(line) + "\n" for line in [*self.sessions(), session]]
        replace_text(self.sessions_file, "".join(lines))

    def sessions(self) -> list[dict[str, Any]]:
        """The sessions that ``append_session`` wrote, in order."""
        return _read_lines(self.sessions_file)

    def append_metrics(self, line: dict[str, Any]) -> None:
        """Appends the line of one epoch."""
        with self.metrics_file.open("a", encoding="utf-8") as file:
            file.write(json.dumps(line) + "\n")

    def read_summary(self) -> dict[str, Any]:
        """Result, cost and origin of a finished run.

        Raises:
            FileNotFoundError: If it is not finished.
            ValueError: If the file is damaged.
        """
        content: dict[str, Any] = parsed(self.summary_file.read_text(encoding="utf-8"))
        return content

    def sound_summary(self, shape: Shape = SUMMARY) -> dict[str, Any]:
        """The same, checked for what dearkd writes.

        Raises:
            FileNotFoundError: If the run is not finished.
            UserError: If the file is damaged.
        """
        file, remedy = self.summary_file, "restore it from a copy"
        try:
            summary = self.read_summary()
        except ValueError as error:
            raise UserError(f"{file} cannot be read ({one_line(error)}); {remedy}") from error
        if (fault := misfit(summary, shape)) is not None:
            raise UserError(f"{file} is not one that dearkd writes ({fault}); {remedy}")
        return summary

    def read_metrics(self) -> list[dict[str, Any]]:
        """The lines of all epochs; damaged ones, as a kill may leave the last, are skipped."""
        return _read_lines(self.metrics_file)

    def truncate_metrics(self, epochs: int) -> None:
        """Keeps the first ``epochs`` epochs: a resumed run writes the later ones again.

        A line that does not say its epoch is damaged, and is not kept.
        """
        kept = [
            json.dumps(line) + "\n"
            for line in self.read_metrics()
            if whole(line.get("epoch")) and line["epoch"] < epochs
        ]
        replace_text(self.metrics_file, "".join(kept))


def is_run(folder: Path) -> bool:
    """Whether a folder has a file of a run, finished or not; nothing is read."""
    return any((folder / name).is_file() for name in RUN_FILES)


def next_folder(stem: str, root: Path = Path("runs")) -> Path:
    """Makes the first of the folders ``stem-1``, ``stem-2``, ... under ``root`` that is not there.

    What a shell or a pattern of data reads otherwise, a space or a brace, becomes a hyphen.
    Processes that ask at the same time get a folder each.

    Raises:
        WriteError: If a folder cannot be made.
    """
    stem = re.sub(r"[^\w.-]+", "-", stem)
    try:
        root.mkdir(parents=True, exist_ok=True)
        for number in itertools.count(1):
            folder = root / f"{stem}-{number}"
            with suppress(FileExistsError):
                folder.mkdir()
                return folder
    except OSError as error:
        raise WriteError(
            f"cannot make a folder under {root} ({error.strerror or error}); name one with --out"
        ) from error
    raise AssertionError("counting does not end")


def newest_unfinished(root: Path = Path("runs")) -> Path:
    """The folder of the run that was written to last and has no summary yet.

    Runs that another process is working on are skipped.

    Raises:
        UserError: If there is none.
    """
    runs = [RunFolder(file.parent) for file in root.glob(f"*/{CONFIG_FILE}")]
    unfinished = [
        run for run in runs if not run.summary_file.exists() and not is_held(run.path, LOCK)
    ]
    if not unfinished:
        raise UserError(f"no unfinished run under {root}/; name one with --out FOLDER")

    def written(run: RunFolder) -> float:
        files = (run.config_file, run.last_file)
        return max(file.stat().st_mtime for file in files if file.exists())

    return max(unfinished, key=written).path


def _read_lines(file: Path) -> list[dict[str, Any]]:
    """JSON, an object a line; empty if there is no such file."""
    if not file.exists():
        return []
    lines = []
    for text in file.read_text(encoding="utf-8", errors="replace").splitlines():
        try:
            line = parsed(text)
        except ValueError:  # a kill or a full disk in the middle of the write
            continue
        if isinstance(line, dict):
            lines.append(line)
    return lines

"""The run folder: what a run leaves on disk, who may write to it, and how it is read back."""

import fcntl
import importlib.metadata
import json
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from dearkd.config import TrainConfig, load_config, to_yaml
from dearkd.run_folder.files import remove_leftovers, write_atomically

__all__ = ["RunFolder", "commit", "held", "newest_unfinished", "next_folder", "versions"]

PACKAGES = ("dearkd", "torch", "timm", "accelerate", "torchvision", "pillow", "numpy")


class RunFolder:
    """Paths of one run and the small files in it.

    ``config.yaml`` (resolved), ``metrics.jsonl`` (a line an epoch), ``summary.json``,
    ``model.safetensors`` and ``checkpoint/{last.pt,best.safetensors}``.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.config_file = path / "config.yaml"
        self.metrics_file = path / "metrics.jsonl"
        self.sessions_file = path / "sessions.jsonl"
        self.summary_file = path / "summary.json"
        self.model_file = path / "model.safetensors"
        self.last_file = path / "checkpoint" / "last.pt"
        self.best_file = path / "checkpoint" / "best.safetensors"

    @contextmanager
    def locked(self, resume: bool) -> Iterator[None]:
        """Holds the folder for one process; the system lets go of it when the process dies.

        Raises:
            ValueError: If another process holds it, or it has a run and ``resume`` is false.
            OSError: If it can't be written to.
        """
        self.check_free(resume)
        with held(self.path, "checkpoint/lock"):
            for folder in (self.path, self.last_file.parent):
                remove_leftovers(folder)
            yield

    def check_free(self, resume: bool) -> None:
        """Refuses a folder that has a run already, unless it is to be resumed.

        Raises:
            ValueError: Naming the folder and the two ways on.
        """
        if self.path.exists() and not self.path.is_dir():
            raise ValueError(f"--out {self.path} is a file; choose a folder")
        if self.config_file.exists() and not resume:
            raise ValueError(
                f"{self.path} already holds a run; go on with it by --resume or "
                "choose another --out"
            )
        if resume and not self.path.exists():
            raise ValueError(f"nothing to resume in {self.path}: it does not exist")
        if resume and not self.config_file.exists():
            raise ValueError(f"nothing to resume in {self.path}: it has no config.yaml")

    def write_config(self, config: TrainConfig) -> None:
        """Stores the resolved configuration."""
        write_atomically(self.config_file, lambda file: _write_text(file, to_yaml(config)))

    def read_config(self) -> TrainConfig:
        """The configuration of the run.

        Raises:
            FileNotFoundError: If the folder holds no run.
        """
        return load_config(self.config_file)

    def write_summary(self, summary: dict[str, Any]) -> None:
        """Stores the final numbers."""
        text = json.dumps(summary, indent=2) + "\n"
        write_atomically(self.summary_file, lambda file: _write_text(file, text))

    def append_session(self, session: dict[str, Any]) -> None:
        """Adds what the run is begun or gone on with: commit, versions, device."""
        with self.sessions_file.open("a") as file:
            file.write(json.dumps(session) + "\n")

    def sessions(self) -> list[dict[str, Any]]:
        """What the run was begun with and every time gone on with, in order."""
        return [json.loads(line) for line in self.sessions_file.read_text().splitlines()]

    def append_metrics(self, line: dict[str, Any]) -> None:
        """Adds an epoch's line."""
        with self.metrics_file.open("a") as file:
            file.write(json.dumps(line) + "\n")

    def read_metrics(self) -> list[dict[str, Any]]:
        """One dict an epoch, a torn last line left out."""
        if not self.metrics_file.exists():
            return []
        lines = []
        for text in self.metrics_file.read_text().splitlines():
            try:
                lines.append(json.loads(text))
            except json.JSONDecodeError:  # a kill in the middle of the write
                continue
        return lines

    def truncate_metrics(self, epochs: int) -> None:
        """Drops the lines of epochs from ``epochs`` on: a resumed run writes them again."""
        kept = [json.dumps(line) + "\n" for line in self.read_metrics() if line["epoch"] < epochs]
        write_atomically(self.metrics_file, lambda file: _write_text(file, "".join(kept)))


@contextmanager
def held(folder: Path, lock_name: str) -> Iterator[None]:
    """Makes a folder and holds it; the system lets go of it when the process dies.

    Raises:
        ValueError: If another process holds it.
        OSError: If it can't be written to.
    """
    file = folder / lock_name
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        lock = file.open("w")
    except OSError as error:
        raise OSError(
            f"cannot write to {folder} ({error.strerror}); choose another folder with --out"
        ) from error
    with lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise ValueError(
                f"{folder} is in use by another running process; wait for it or "
                "choose another --out"
            ) from None
        yield


def next_folder(stem: str, root: Path = Path("runs")) -> Path:
    """A folder under ``root`` that no run has taken: ``stem-1``, ``stem-2``, ..."""
    number = 1
    while (root / f"{stem}-{number}").exists():
        number += 1
    return root / f"{stem}-{number}"


def newest_unfinished(root: Path = Path("runs")) -> Path:
    """The folder of the run that was written to last and has no summary yet.

    Raises:
        ValueError: If there is none.
    """
    runs = [RunFolder(file.parent) for file in root.glob("*/config.yaml")]
    unfinished = [run for run in runs if not run.summary_file.exists()]
    if not unfinished:
        raise ValueError(f"no unfinished run under {root}/; name one with --out FOLDER")

    def written(run: RunFolder) -> float:
        files = (run.config_file, run.last_file)
        return max(file.stat().st_mtime for file in files if file.exists())

    return max(unfinished, key=written).path


def versions() -> dict[str, str]:
    """Versions of the packages that decide the numbers."""
    return {name: importlib.metadata.version(name) for name in PACKAGES}


def commit() -> str | None:
    """The commit of dearkd's source tree (``-dirty`` if changed); None outside a checkout."""
    here = Path(__file__).resolve().parent
    command = [
        "git",
        "-C",
        str(here),
        "describe",
        "--always",
        "--dirty",
        "--abbrev=12",
        "--exclude=*",
    ]
    try:
        top = subprocess.run(
            ["git", "-C", str(here), "ls-files", "--error-unmatch", Path(__file__).name],
            capture_output=True,
            check=False,
        )
        if top.returncode:
            return None
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()
    except (OSError, subprocess.CalledProcessError):
        return None


def _write_text(file: Path, text: str) -> None:
    file.write_text(text)

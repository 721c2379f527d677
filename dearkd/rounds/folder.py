"""The folder of a run in rounds, whose state is read from the sets and runs that are in it.

RUN/distill.yaml       the configuration; written first
RUN/round-1/set        the images that a round adds: a synthetic set
RUN/round-1/student    the student trained on all sets so far: a run folder
RUN/round-2/...
RUN/model.safetensors and the other files of a run, of the last student; written at the end
"""

from dataclasses import dataclass
from pathlib import Path

from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException
from yaml import YAMLError  # type: ignore[import-untyped, unused-ignore]

from dearkd.data.splits import is_pattern
from dearkd.data.synthetic_set import CONFIG_FILE, MANIFEST_FILE, SyntheticSet, read_set
from dearkd.errors import UserError
from dearkd.misfit import misfit
from dearkd.run_folder.folder import ROUNDS_FILE, RunFolder
from dearkd.run_folder.lock import is_held
from dearkd.said import counted
from dearkd.shapes import MANIFEST

__all__ = [
    "LOCK",
    "ROUNDS",
    "ROUNDS_FILE",
    "Round",
    "check_name",
    "check_new",
    "finished_rounds",
    "newest_unfinished_rounds",
    "sets_up_to",
]

LOCK = ".distill.lock"
"""File that a process at work on the run holds; no temporary one, which another verb may remove."""
SET, STUDENT = "set", "student"
ROUNDS = 1
"""Of a run whose configuration names no number."""


@dataclass(frozen=True)
class Round:
    """One round, by its number from 1, of the run in ``run``."""

    run: Path
    number: int

    @property
    def set(self) -> Path:
        """The folder of the images that it adds."""
        return self.run / f"round-{self.number}" / SET

    @property
    def student(self) -> RunFolder:
        """The run that trains on all images so far."""
        return RunFolder(self.run / f"round-{self.number}" / STUDENT)

    @property
    def before(self) -> "Round":
        """The round before."""
        return Round(self.run, self.number - 1)

    @property
    def has_set(self) -> bool:
        """Whether its images are made; some may be lost since."""
        return (self.set / MANIFEST_FILE).is_file()

    @property
    def has_begun_set(self) -> bool:
        """Whether there is a set to go on with."""
        return (self.set / CONFIG_FILE).is_file()

    @property
    def manifest_fault(self) -> str | None:
        """What is wrong with the manifest of its set; None: nothing, or there is none."""
        found = read_set(self.set) if self.has_set else None
        return None if found is None else _fault(found)

    @property
    def lost(self) -> str | None:
        """What of its set is not there, or was made and is gone; None: it is whole."""
        found = read_set(self.set) if self.has_set else None
        if found is None or _fault(found) is not None:
            return "its manifest"
        return counted(len(found.missing), "image") if found.missing else None

    @property
    def teachers(self) -> list[str]:
        """Hashes of the weights that its set is made from; empty where nothing says yet."""
        found = read_set(self.set)
        try:
            content = {} if found is None else found.settings
            named = [content["teacher"], *content.get("other_teachers", ())]
            return [str(one["weights_sha256"]) for one in named]
        except (KeyError, TypeError):
            return []

    @property
    def has_student(self) -> bool:
        """Whether its student is trained."""
        return self.student.summary_file.is_file() and self.student.model_file.is_file()

    @property
    def has_begun_student(self) -> bool:
        """Whether there is a training run to go on with."""
        return self.student.config_file.is_file()


def _fault(found: SyntheticSet) -> str | None:
    return found.damage or misfit(found.manifest, MANIFEST)


def sets_up_to(last: Round) -> str:
    """The sets of all rounds up to one, as training data: a pattern that counts them."""
    return str(last.run / f"round-{{1..{last.number}}}" / SET)


def finished_rounds(folder: Path) -> int:
    """How many rounds a finished run has; 0 where it is not finished."""
    try:
        return len(RunFolder(folder).read_summary()["rounds"])
    except (OSError, ValueError, KeyError, TypeError):
        return 0


def check_name(folder: Path) -> None:
    """Refuses a folder whose path would be read as a pattern where it names training data.

    Raises:
        UserError: Naming the folder.
    """
    if is_pattern(str(folder.resolve())):
        raise UserError(
            f"--out {folder.resolve()} has *, ?, [ or {{1..2}} in it, which name several folders; "
            "choose another --out"
        )


def check_new(folder: Path) -> None:
    """Refuses a folder for a new run that is a file, or holds something else.

    Raises:
        UserError: Naming the folder.
    """
    if folder.exists() and not folder.is_dir():
        raise UserError(f"--out {folder} is a file; choose a folder")
    if folder.exists() and any(not file.name.startswith(".") for file in folder.iterdir()):
        raise UserError(f"{folder} is not empty and holds no run in rounds; choose another --out")


def newest_unfinished_rounds(root: Path = Path("runs")) -> Path:
    """The folder of the run in rounds that was begun last and has no summary yet.

    Runs that another process is working on are skipped.

    Raises:
        UserError: If there is none.
    """
    begun = [
        file
        for file in root.glob(f"*/{ROUNDS_FILE}")
        if str(finished_rounds(file.parent)) != _wanted_rounds(file)
        and not is_held(file.parent, LOCK)
    ]
    if not begun:
        raise UserError(f"no unfinished run in rounds under {root}/; name one with --out FOLDER")
    return max(begun, key=lambda file: file.stat().st_mtime).parent


def _wanted_rounds(file: Path) -> str | None:
    """How many rounds a run was asked for last, as text, which they may be in its file."""
    try:
        return str(OmegaConf.select(OmegaConf.load(file), "rounds", default=ROUNDS))
    except (OmegaConfBaseException, YAMLError, UnicodeDecodeError, OSError, RecursionError):
        return None  # which going on with it tells; OSError is also OmegaConf's of a number alone

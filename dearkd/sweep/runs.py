"""The runs of a study as child processes of `dearkd train` and `dearkd eval`, into its record."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rich.console import Console

from dearkd.config_file import to_yaml
from dearkd.data.datasets import open_evaluation
from dearkd.errors import UserError
from dearkd.run_folder.folder import RunFolder
from dearkd.run_folder.moved import OPTIONS, noted_fingerprints
from dearkd.run_folder.output import write_text
from dearkd.run_folder.record import Entry, Record, entry_of
from dearkd.said import counted, seconds_text
from dearkd.sweep.children import Child, run_all
from dearkd.sweep.plan import BY_RULE, PlannedRun, difference, settings_of
from dearkd.training.fingerprints import check_fingerprints
from dearkd.training.paths import from_root

__all__ = ["Runs"]

OF_ONE_RUN = ("top1", "seconds")
"""Numbers of a summary by which one run is told from another."""
TENTHS = 10
"""Parts of a run; after each a line says how far it is and its last top-1."""


@dataclass(frozen=True)
class Runs:
    """The planned runs, what is known of them, and where they go."""

    planned: Sequence[PlannedRun]
    record: Record
    root: Path
    """The folder that the runs' folders are in."""
    jobs: int = 1
    trust: bool = False
    test: str | None = None
    """Test images that every finished run reads once."""

    def check(self) -> None:
        """Refuses what does not fit what is there: other settings, or other test images.

        Raises:
            UserError: Naming the arm, the setting and both values; or if the test images can't be
                read, or are others than those that the runs have read.
            MissingFileError: If there are no such test images.
        """
        for run in self.planned:
            self._check(run)
        if self.test is not None:
            self._check_test(self.test)

    @property
    def left(self) -> list[PlannedRun]:
        """Those to train now."""
        return [run for run in self.planned if not self.is_finished(run)]

    def is_finished(self, run: PlannedRun) -> bool:
        """Whether it needs no training: by the record, or by its folder."""
        known = self.record.find(*run.key) is not None
        return known or self.folder(run).summary_file.is_file()

    def folder(self, run: PlannedRun) -> RunFolder:
        """Its own folder, whether it is there or not."""
        return RunFolder(self.root / run.name)

    def gather(self) -> None:
        """Puts runs into the record that are finished and not in it."""
        for run in self.planned:
            if self.record.find(*run.key) is None and self.is_finished(run):
                self._take(run)

    def train(self, console: Console) -> list[str]:
        """Trains those that are left; returns a line for each that fails.

        Raises:
            Interrupted: After Ctrl-C, SIGTERM or SIGUSR1, with every run's state saved.
        """
        by_child = {self._training(run): run for run in self.left}
        failed: list[str] = []

        def begun(child: Child) -> None:
            console.print(f"  {child.name} begins; its lines go to {child.log}")

        def ended(child: Child, code: int) -> None:
            if code:
                console.print(f"  {child.name} ended with exit code {code}")
                failed.append(f"{child.name}: {child.last_words()} (exit code {code}, {child.log})")
                return
            summary = self._take(by_child[child])["summary"]
            took = seconds_text(summary["seconds"])
            console.print(f"  {child.name}: top-1 {summary['top1']:.2f} %, {took}")

        run_all(list(by_child), self.jobs, begun, ended, self._watch(by_child, console))
        return failed

    def read_test(self) -> list[str]:
        """Reads the test images with each finished run; returns a line for each that can't.

        Raises:
            Interrupted: After Ctrl-C, SIGTERM or SIGUSR1.
        """
        if self.test is None:
            return []
        images = open_evaluation(self.test).fingerprint()
        failed, by_child = list[str](), dict[Child, PlannedRun]()
        for run in self.planned:
            entry, folder = self.record.find(*run.key), self.folder(run)
            if entry is None or entry.get("test"):
                continue
            if not folder.model_file.is_file():
                failed.append(f"{run.name}: its weights are gone, so it can't read {self.test}")
                continue
            if not _is_recorded(entry, folder):
                failed.append(
                    f"{run.name}: {folder.path} has another run than the record, by top-1 or "
                    f"seconds, so it can't read {self.test}; bring back the recorded run's folder, "
                    f"or take its line out of {self.record.path}"
                )
                continue
            words = ["eval", str(folder.path), "--data", self.test, "--json"]
            words += [word for file in run.resolved.imports for word in ("--import", file)]
            by_child[Child(run.name, tuple(words), self._log(f"{run.name}-test"))] = run

        def ended(child: Child, code: int) -> None:
            result = None if code else child.last_object()
            if result is None:
                fault = child.last_words() if code else "it printed no result"
                failed.append(f"{child.name}, test: {fault} (exit code {code}, {child.log})")
                return
            entry = self.record.find(*by_child[child].key)
            assert entry is not None
            self.record.save(entry | {"test": {**_tested(result), "data": images}})

        run_all(list(by_child), self.jobs, lambda child: None, ended)
        return failed

    def _check_test(self, test: str) -> None:
        wanted = open_evaluation(test).fingerprint()
        for entry in self.record.of_study():
            if (entry.get("test") or {}).get("data", wanted) != wanted:  # older ones don't say
                raise UserError(
                    f"arm {entry['arm']!r}, seed {entry['seed']} has read other test images than "
                    f"--test {test}, in record {self.record.path}; name those, or another --record"
                )

    def _check(self, run: PlannedRun) -> None:
        entry, folder = self.record.find(*run.key), self.folder(run)
        if entry is not None:
            found, where = difference(entry["settings"], run.settings), f"record {self.record.path}"
            remedy = "take the study's change back, or name another --record"
        elif folder.config_file.is_file():
            stored, wanted = settings_of(folder.read_config()), settings_of(run.resolved)
            if noted := noted_fingerprints(folder.sessions()):  # they count, and not the paths
                self._check_fingerprints(run, noted)
                stored |= {key: wanted[key] for key in OPTIONS}
                if _names(stored["imports"]) == _names(wanted["imports"]):
                    stored["imports"] = wanted["imports"]
            found, where = difference(stored, wanted), f"{folder.path}"
            remedy = "take the study's change back, remove that folder, or choose another --out"
        else:
            folder.check_free(resume=False)
            return
        if found is not None:
            key, old, new = found
            if key in BY_RULE:
                remedy = f"where this machine's rule chose that, --set {key}={old}; else {remedy}"
            raise UserError(
                f"arm {run.arm!r}, seed {run.seed}: {where} has {key}={old}, and the study says "
                f"{new}; {remedy}"
            )

    def _check_fingerprints(self, run: PlannedRun, noted: Mapping[str, str | None]) -> None:
        try:
            check_fingerprints(run.fingerprints, noted)
        except UserError as error:
            raise UserError(f"arm {run.arm!r}, seed {run.seed}: {error}") from error

    def _take(self, run: PlannedRun) -> Entry:
        """Puts a finished run into the record, if it is what was planned."""
        self._check(run)
        entry = entry_of(self.folder(run), run.key, run.settings)
        self.record.save(entry)
        return entry

    def _training(self, run: PlannedRun) -> Child:
        """The command that trains a run, or goes on with it."""
        folder = self.folder(run)
        words = ["train", "--out", str(folder.path), *self._trust(run)]
        if folder.config_file.is_file():
            words += ["--resume", *_moved(folder, run)]
        else:
            file = self.root / "configs" / f"{run.name}.yaml"
            file.parent.mkdir(parents=True, exist_ok=True)
            write_text(file, to_yaml(run.config))
            words.append(str(file))
        return Child(run.name, tuple(words), self._log(run.name))

    def _trust(self, run: PlannedRun) -> tuple[str, ...]:
        """``--trust`` for a run that opens a network which brings code along."""
        return ("--trust",) if self.trust and run.needs_trust else ()

    def _log(self, name: str) -> Path:
        return self.root / "logs" / f"{name}.log"

    def _watch(self, by_child: dict[Child, PlannedRun], console: Console) -> Callable[..., None]:
        """Says where the runs are that go on, at each tenth of their epochs."""
        told: dict[Child, int] = {}

        def watch(running: Sequence[Child]) -> None:
            for child in running:
                run = by_child[child]
                total: int = run.settings["epochs"]
                lines = self.folder(run).read_metrics()
                tenth = len(lines) * TENTHS // total
                if lines and told.get(child, 0) < tenth < TENTHS:
                    told[child] = tenth
                    console.print(f"  {child.name}: {_so_far(lines, total)}")

        return watch


def _is_recorded(entry: Entry, folder: RunFolder) -> bool:
    """Whether the weights in a folder are those whose numbers the record has."""
    try:
        summary = folder.read_summary()
    except (OSError, ValueError):
        return False
    recorded = {key: entry["summary"].get(key) for key in OF_ONE_RUN}
    return isinstance(summary, dict) and recorded == {key: summary.get(key) for key in OF_ONE_RUN}


def _moved(folder: RunFolder, run: PlannedRun) -> list[str]:
    """Options that say where a begun run's images, teacher, its answers and imports lie now."""
    if not noted_fingerprints(folder.sessions()):
        return []
    config, kept = folder.read_config(), run.config.cache_labels
    stored, wanted = settings_of(config), settings_of(run.resolved)
    places = [(key, option, stored[key], wanted[key]) for key, option in OPTIONS.items()]
    kept = None if kept is None else from_root(kept)
    places.append(("cache_labels", "--cache-labels", config.cache_labels, kept))
    words = list[str]()
    for key, option, old, new in places:
        if new != old:
            words += ["--set", f"{key}=null"] if new is None else [option, new]
    if stored["imports"] != wanted["imports"]:
        words += [word for file in wanted["imports"] for word in ("--import", file)]
    return words


def _names(files: Sequence[str]) -> list[str]:
    return [Path(file).name for file in files]


def _so_far(lines: Sequence[dict[str, Any]], total: int) -> str:
    """Epochs done, the last top-1 and the time left."""
    done, last = len(lines), lines[-1]
    left = seconds_text(last["seconds"] / done * (total - done))
    read = [line["top1"] for line in lines if line.get("top1") is not None]
    top1 = f", top-1 {read[-1]:.2f} %" if read else ""
    return f"{counted(done, 'epoch')} of {total}{top1}, {left} left"


def _tested(result: Mapping[str, Any]) -> dict[str, Any]:
    """Top-1 of each head and the number of images, of what `dearkd eval --json` prints."""
    images = int(result["images"]["count"])
    heads = {head: values["top1"] for head, values in result.items() if head != "images"}
    return {"top1": heads["logits"], "heads": heads, "images": images}

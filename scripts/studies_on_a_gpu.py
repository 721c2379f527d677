"""What the studies of CIFAR-10 still lack, side by side on one GPU, into their records.

    python scripts/cifar10_sets.py --data cifar10/train.parquet --pictures photos/ --only spectrum-0
    nvidia-cuda-mps-control -d
    python scripts/studies_on_a_gpu.py --data cifar10/train.parquet --test cifar10/test.parquet \
        --jobs 13 --minutes 9

A small student leaves most of a GPU idle, so a dozen runs share it under NVIDIA's MPS (13 on an
H100: 57,000 views/s, SPEED.md). Runs that the records in scripts/results/studies have are skipped;
the others start in the order of STUDIES, seed after seed, each by a `dearkd sweep` of its own with
compile=true, and the sets of images that they want are made before. When the time is over all save
their state and end; the same command goes on. What has finished goes into the records at the end,
and with --gather that is all that is done (on the machine that has the repository, say).
"""

import argparse
import functools
import os
import shlex
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from cifar10_sets import SETS

from dearkd.run_folder.record import Key, Record, key_of, read_record
from dearkd.sweep.plan import BY_RULE
from dearkd.sweep.study import StudyFile, folder_name, read_study

ROOT = Path(__file__).resolve().parents[1]
RECORDS = ROOT / "scripts" / "results" / "studies"
STUDIES = (
    *("few_images_best", "few_images", "few_images_muon", "cifar10_data_free_main"),
    *("cifar10_boundary", "data_efficiency", "cifar10_data_free", "few_images_screens"),
    *("out_of_domain", "cifar10_data_free_long"),
)
"""In the order of what they would tell; the first has the longest runs."""


@dataclass(frozen=True)
class Job:
    """A command, and what it waits for."""

    name: str
    words: tuple[str, ...]
    images: Path | None = None
    """A folder or file that has to be there."""

    @property
    def is_ready(self) -> bool:
        """Whether its images are there, a set being whole."""
        if self.images is None:
            return True
        made = self.images.name in SETS
        return (self.images / "manifest.json").is_file() if made else self.images.exists()


def main() -> None:
    args = _arguments()
    if not args.gather:
        waiting = list(jobs(args))
        for job in waiting:
            print(f"{job.name}: {shlex.join(job.words)}" if args.dry_run else job.name)
        if args.dry_run:
            return
        side_by_side(waiting, args)
    gather(args.out / "records")


def jobs(args: argparse.Namespace) -> Iterator[Job]:
    """The runs that no record has, and after the first study's the sets that others wait for."""
    lacking = {study.name: lacked(study) for study in map(study_of, STUDIES)}
    wanted = dict[Path, None]()
    for name in STUDIES:
        wanted |= dict.fromkeys(filter(None, (images_of(study_of(name), k) for k in lacking[name])))
    for name in STUDIES:
        for key in lacking[name]:
            yield run(study_of(name), key, args)
        if name == STUDIES[0]:
            yield from map(making, (path for path in wanted if path.name in SETS))


def arithmetic(study: StudyFile, arm: str) -> list[str]:
    """That of the arm's recorded runs, so that all its seeds have one."""
    kept = next((e["settings"] for e in record_of(study.name).entries if e["arm"] == arm), None)
    if kept is None:
        return []
    keys = [key for key in BY_RULE if key.split(".")[0] != "teacher" or kept["teacher.name"]]
    return [f"{key}={kept[key]}" for key in keys if key != "data.views"]


def making(images: Path) -> Job:
    """The command that makes a set, goes on with it, or finds it whole."""
    script = str(ROOT / "scripts" / "cifar10_sets.py")
    return Job(images.name, (sys.executable, script, "--only", images.name, "--groups", "10"))


def run(study: StudyFile, key: Key, args: argparse.Namespace) -> Job:
    """The sweep of one run."""
    arm, fraction, seed = key
    share = [] if fraction is None else ["--fraction", f"{fraction:g}"]
    name = "-".join([study.name, folder_name(arm), *share[1:], str(seed)])
    line = [sys.executable, "-m", "dearkd", "sweep", str(study.path), "--only", arm]
    line += ["--seed", str(seed), *share, "--set", "compile=true", "--set", "data.workers=0"]
    line += [word for setting in arithmetic(study, arm) for word in ("--set", setting)]
    line += ["--out", str(args.out / name), "--record", str(args.out / "records" / f"{name}.json")]
    if study.config.base is not None:
        line += ["--data", args.data]
    if args.test is not None:
        line += ["--test", args.test]
    return Job(name, tuple(line), images_of(study, key))


@functools.cache
def study_of(name: str) -> StudyFile:
    return read_study(ROOT / "configs" / "studies" / f"{name}.yaml")


def lacked(study: StudyFile) -> list[Key]:
    """The runs of a study that its record has not."""
    record = record_of(study.name)
    return [key for key in study.described().keys if record.find(*key) is None]


@functools.cache
def record_of(study_name: str) -> Record:
    """A study's record; an empty one where it has none."""
    study = study_of(study_name)
    file = RECORDS / f"{study_name}.json"
    return Record(file, study.described(), read_record(file).entries if file.exists() else [])


def images_of(study: StudyFile, key: Key) -> Path | None:
    """The set or file that a run is trained on; None where it is CIFAR-10 itself."""
    arm, fraction, seed = key
    train = Path(study.of_arm(arm, fraction, seed).data.train)
    return train if train.parent.name else None


def side_by_side(waiting: list[Job], args: argparse.Namespace) -> None:
    """Runs the jobs, the first that is ready when a place is free, until the time is over."""
    (args.out / "logs").mkdir(parents=True, exist_ok=True)
    started, running = time.monotonic(), dict[Job, subprocess.Popen[bytes]]()
    ends, over = started + 60 * args.minutes, False
    while waiting or running:
        ready = [] if over else [job for job in waiting if job.is_ready]
        if not ready and not running:
            break
        for job in ready[: args.jobs - len(running)]:
            waiting.remove(job)
            running[job] = start(job, args.out / "logs")
        time.sleep(0.5)
        if not over and time.monotonic() > ends:
            over = True
            for process in running.values():  # once: a second signal ends it, with nothing saved
                os.killpg(process.pid, signal.SIGTERM)
        for job in [job for job, process in running.items() if process.poll() is not None]:
            code, seconds = running.pop(job).returncode, time.monotonic() - started
            print(f"{seconds:4.0f} s  {job.name}: exit code {code}", flush=True)
    for job in waiting:
        print(f"not begun: {job.name}")


def start(job: Job, logs: Path) -> "subprocess.Popen[bytes]":
    threads = {"OMP_NUM_THREADS": "1", "TORCHINDUCTOR_COMPILE_THREADS": "1"}
    with (logs / f"{job.name}.log").open("wb") as log:
        return subprocess.Popen(
            job.words,
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=subprocess.STDOUT,
            env={**os.environ, **threads},
            start_new_session=True,
        )


def gather(folder: Path) -> None:
    """Puts the finished runs of a folder of records into the studies' own."""
    for file in sorted(folder.glob("*.json")):
        made = read_record(file)
        record = record_of(made.study.name)
        for entry in made.entries:
            if record.find(*key_of(entry)) is not None:
                continue
            told = f"{made.study.name}: {entry['arm']}, seed {entry['seed']}"
            others = [e for e in record.entries if e["arm"] == entry["arm"]]
            unlike = {
                key
                for e in others
                for key in BY_RULE
                if e["settings"][key] != entry["settings"][key]
            }
            if unlike:
                print(f"{told}: left out, its {', '.join(sorted(unlike))} differ from other seeds")
                continue
            record.save(entry)
            print(f"{told}: {entry['summary']['top1']:.2f} %")


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", help="CIFAR-10's training images, a parquet file")
    parser.add_argument("--test", help="its test images, which each run reads once")
    parser.add_argument("--out", type=Path, default=Path("runs/on-a-gpu"))
    parser.add_argument("--jobs", type=int, default=13, help="runs side by side")
    parser.add_argument("--minutes", type=float, default=9.0, help="after that all save and end")
    parser.add_argument("--dry-run", action="store_true", help="print the commands")
    parser.add_argument("--gather", action="store_true", help="only fill the records")
    args = parser.parse_args()
    if args.data is None and not args.gather:
        parser.error("name CIFAR-10's training images by --data")
    return args


if __name__ == "__main__":
    main()

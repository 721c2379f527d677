"""The whole story on embedded data: a CNN teacher, three students, and one without a real image.

Runs the installed ``dearkd`` command, as a user would type it, two at a time once the teacher is
there; ends with a table and a page of all runs. A second call goes on where the first one stopped.
"""

import json
import os
import signal
import subprocess
import sys
import time
from concurrent.futures import Future, ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import TextIO

from rich.console import Console
from rich.table import Table

from dearkd.sweep.children import threads_each

ROOT = Path("runs/demo")
TEACHER, SET = ROOT / "teacher", ROOT / "synth"
PAGE = ROOT / "report.html"
CONFIGS = Path(__file__).resolve().parents[1] / "configs"
DEARKD = Path(sys.executable).parent / "dearkd"

FROM_TEACHER = ["--teacher", str(TEACHER)]
REAL = ["--data", "digits", "--stage1", "10", "--stage2", "2"]
# The views are of the kind that the real images have.
SYNTHETIC = ["--data", str(SET), "--recipe", "best", "--stage1", "48", "--eval-data", "digits"]
SYNTHETIC += ["--img-size", "16", "--set", "data.augment=digits", "--set", "eval_every=6"]
IMAGES = [str(CONFIGS / "synth" / "digits.yaml"), *FROM_TEACHER, "--verifier", "digits"]
IMAGES += [
    "--per-class",
    "40",
    "--iters",
    "400",
    "--set",
    "images_per_class=20",
    "--set",
    "compile=never",
]

CHAPTERS = {
    "teacher (CNN)": (
        TEACHER,
        ["teacher", "dearkd_resnet10t_32", "--data", "digits", "--epochs", "12"],
    ),
    "DearKD, two stages": (
        ROOT / "dearkd",
        ["train", "--method", "dearkd", *REAL, *FROM_TEACHER],
    ),
    "DeiT, hard distillation": (
        ROOT / "deit-hard",
        ["train", "--method", "deit-hard", *REAL, *FROM_TEACHER],
    ),
    "ViT from scratch": (ROOT / "ce", ["train", "--method", "ce", *REAL]),
    "images out of the teacher": (SET, ["synthesize", *IMAGES]),
    "no real image": (ROOT / "data-free", ["train", *SYNTHETIC, *FROM_TEACHER]),
}
FIRST, *OTHERS = CHAPTERS
STUDENTS, DATA_FREE = OTHERS[:3], OTHERS[3:]
"""Need the teacher and not each other: networks as small as these use two cores better so."""


class CommandError(Exception):
    """A command's exit code, which is this script's then."""


def main() -> None:
    started = time.monotonic()
    ROOT.mkdir(parents=True, exist_ok=True)
    signal.signal(signal.SIGINT, lambda *_: None)  # the commands hear it, save and end
    try:
        make([FIRST])
        make_side_by_side(ROOT / "data-free.log")
        run(["report", str(ROOT), "--out", str(PAGE)])
    except CommandError as error:
        print("the demo is not finished; make demo goes on with all of it", file=sys.stderr)
        raise SystemExit(error.args[0]) from None
    console = Console(highlight=False, soft_wrap=True)
    console.print(result())
    console.print(
        f"{time.monotonic() - started:.0f} s. One test image is 0.28 points: small differences are "
        f"noise (RESULTS.md has larger runs). Images to look at: {SET / 'contact_sheet.png'}. "
        f"All of it on one page, for a browser: {PAGE.resolve()}"
    )


def make_side_by_side(log: Path) -> None:
    """Makes what needs the teacher alone, two at a time; shows one after the other."""
    half = {**os.environ, "OMP_NUM_THREADS": str(threads_each(2))}
    with log.open("a", encoding="utf-8") as file, ThreadPoolExecutor(1) as beside:
        begin = file.tell()
        data_free = beside.submit(make, DATA_FREE, half, file)
        data_free.add_done_callback(partial(tell_failure, log=log))
        print(f"At the same time: {', '.join(DATA_FREE)}; shown below, {log} until then")
        try:
            make(STUDENTS, half)
        finally:
            follow(log, data_free, begin)
    data_free.result()


def tell_failure(lane: Future[None], log: Path) -> None:
    """Says at once that the lane whose lines are not in sight has failed."""
    if lane.exception() is not None:
        print(f"failed: {', '.join(DATA_FREE)}; see {log}", flush=True)


def make(
    names: list[str], environment: dict[str, str] | None = None, file: TextIO | None = None
) -> None:
    """Carries out chapters in turn, but for those that are finished.

    Raises:
        CommandError: With the exit code of the first command that fails.
    """
    for name in names:
        folder, line = CHAPTERS[name]
        title = f"{1 + list(CHAPTERS).index(name)}/{len(CHAPTERS)} {name}"
        Console(file=file, highlight=False).rule(title)
        if not any((folder / end).exists() for end in ("summary.json", "manifest.json")):
            run(command(folder, line), environment, file)


def follow(log: Path, writer: Future[None], begin: int) -> None:
    """Prints a file from there to its end, which is there when its writer has ended."""
    with log.open(encoding="utf-8") as file:
        file.seek(begin)
        while True:
            ended = writer.done()
            print(file.read(), end="", flush=True)
            if ended:
                return
            time.sleep(0.5)


def result() -> Table:
    """The runs, a row each."""
    columns = ("what", "trained on", "top-1 %", "parameters", "seconds")
    table = Table(*columns, title="digits, 359 test images")
    for name, (folder, _) in CHAPTERS.items():
        summary = folder / "summary.json"
        if summary.exists():
            table.add_row(name, *cells(json.loads(summary.read_text(encoding="utf-8"))))
    return table


def command(folder: Path, line: list[str]) -> list[str]:
    """The command line of one chapter; a folder that was begun is resumed."""
    begun = any((folder / file).exists() for file in ("config.yaml", "synthesize.yaml"))
    return [*([line[0], "--resume"] if begun else line), "--out", str(folder)]


def run(
    line: list[str], environment: dict[str, str] | None = None, file: TextIO | None = None
) -> None:
    """Runs a dearkd command, whose output goes to a file or is in sight.

    Raises:
        CommandError: With its exit code, if it fails.
    """
    Console(file=file, highlight=False, soft_wrap=True).print(
        "$ dearkd " + " ".join(line), style="bold"
    )
    (file or sys.stdout).flush()
    done = subprocess.run(
        [str(DEARKD), *line], stdout=file, stderr=file, env=environment, check=False
    )
    if done.returncode:
        raise CommandError(done.returncode)


def cells(summary: dict[str, object]) -> list[str]:
    """A run's row of the table."""
    kind = "real" if summary["data"] == "digits" else "synthetic"
    return [
        f"{summary['train_images']:,} {kind}",
        f"{summary['top1']:.2f}",
        f"{summary['parameters']:,}",
        f"{summary['seconds']:.0f}",
    ]


if __name__ == "__main__":
    main()

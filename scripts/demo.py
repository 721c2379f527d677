"""The whole story on embedded data: a CNN teacher, three students, and one without a real image.

Runs the installed ``dearkd`` command, as a user would type it; ends with a table and a page of all
runs. A second call goes on where the first one stopped.
"""

import json
import subprocess
import sys
import time
from pathlib import Path

from rich.console import Console
from rich.table import Table

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


def main() -> None:
    console = Console(highlight=False, soft_wrap=True)
    started = time.monotonic()
    columns = ("what", "trained on", "top-1 %", "parameters", "seconds")
    table = Table(*columns, title="digits, 359 test images")
    for number, (name, (folder, line)) in enumerate(CHAPTERS.items(), 1):
        console.rule(f"{number}/{len(CHAPTERS)} {name}")
        if not any((folder / file).exists() for file in ("summary.json", "manifest.json")):
            run(command(folder, line), console)
        if (folder / "summary.json").exists():
            table.add_row(
                name, *cells(json.loads((folder / "summary.json").read_text(encoding="utf-8")))
            )
    console.rule()
    run(["report", str(ROOT), "--out", str(PAGE)], console)
    console.print(table)
    console.print(
        f"{time.monotonic() - started:.0f} s. One test image is 0.28 points: small differences are "
        f"noise (RESULTS.md has larger runs). Images to look at: {SET / 'contact_sheet.png'}. "
        f"All of it on one page, for a browser: {PAGE.resolve()}"
    )


def command(folder: Path, line: list[str]) -> list[str]:
    """The command line of one chapter; a folder that was begun is resumed."""
    begun = any((folder / file).exists() for file in ("config.yaml", "synthesize.yaml"))
    return [*([line[0], "--resume"] if begun else line), "--out", str(folder)]


def run(line: list[str], console: Console) -> None:
    """Runs a dearkd command with its output in sight; leaves with its exit code if it fails."""
    console.print("$ dearkd " + " ".join(line), style="bold")
    code = subprocess.run([str(DEARKD), *line], check=False).returncode
    if code:
        raise SystemExit(code)


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

"""The whole story on embedded data: a CNN teacher, then three students that learn from it or not.

Runs the installed ``dearkd`` command, as a user would type it, and ends with one table. A second
call goes on where the first one stopped.
"""

import json
import subprocess
import sys
import time
from pathlib import Path

from rich.console import Console
from rich.table import Table

ROOT = Path("runs/demo")
DEARKD = Path(sys.executable).parent / "dearkd"
EPOCHS, STAGE1 = 15, 12

RUNS = {
    "teacher (CNN)": ["teacher", "dearkd_resnet10t_32", "--epochs", "12"],
    "DearKD, two stages": ["train", "--method", "dearkd"],
    "DeiT, hard distillation": ["train", "--method", "deit-hard"],
    "ViT from scratch": ["train", "--method", "ce"],
}


def main() -> None:
    console = Console(highlight=False, soft_wrap=True)
    started = time.monotonic()
    table = Table("what", "top-1 %", "parameters", "seconds", title="digits, 359 test images")
    folders = {
        name: ROOT / ("teacher" if "teacher" in args else args[-1]) for name, args in RUNS.items()
    }
    teacher = folders["teacher (CNN)"]
    for number, (name, args) in enumerate(RUNS.items(), 1):
        folder = folders[name]
        console.rule(f"{number}/{len(RUNS)} {name}")
        if not (folder / "summary.json").exists():
            run(command(args, folder, teacher), console)
        summary = json.loads((folder / "summary.json").read_text())
        table.add_row(
            name,
            f"{summary['top1']:.2f}",
            f"{summary['parameters']:,}",
            f"{summary['seconds']:.0f}",
        )
    console.rule()
    console.print(table)
    console.print(
        f"{time.monotonic() - started:.0f} s. Every run's numbers, curves and weights: {ROOT}/. "
        "One test image is 0.28 points: small differences are noise (RESULTS.md has larger runs)."
    )


def command(args: list[str], folder: Path, teacher: Path) -> list[str]:
    """The command line of one chapter; a folder that was begun is resumed."""
    if (folder / "config.yaml").exists():
        return [str(DEARKD), args[0], "--resume", "--out", str(folder)]
    full = [str(DEARKD), *args, "--data", "digits", "--out", str(folder)]
    if args[0] == "train":
        full += ["--stage1", str(STAGE1), "--stage2", str(EPOCHS - STAGE1)]
        full += [] if "ce" in args else ["--teacher", str(teacher)]
    return full


def run(line: list[str], console: Console) -> None:
    """Runs a command with its output in sight; leaves with its exit code if it fails."""
    console.print("$ dearkd " + " ".join(line[1:]), style="bold")
    code = subprocess.run(line, check=False).returncode
    if code:
        raise SystemExit(code)


if __name__ == "__main__":
    main()

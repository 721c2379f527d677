"""Kills DearKD runs with kill -9 in both stages and at the switch, resumes, compares checksums.

    python scripts/kill_and_resume.py --out scripts/results/kill_and_resume.json

Trains the default student on a tenth of the digits through the command line, checkpointing after
every step; each killed run is resumed and must end with the bytes of the uninterrupted one.
"""

import argparse
import hashlib
import json
import shlex
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

TRAIN = shlex.split(
    "train --fraction 0.1 --stage1 3 --stage2 3 --set data.batch_size=8 --set precision=fp32 "
    "--set checkpoint_minutes=1e-9 --set data.mixup=0.8 --set optim.drop_path=0.1 "
    "--set optim.ema_decay=0.99 --set teacher.precision=fp32 --set teacher.memory_format=contiguous"
)
# Killed once so many lines stand in metrics.jsonl, plus a while: 3 lines are the stage switch.
KILLS = {
    "stage 1": (1, 0.4),
    "end of stage 1": (3, 0.0),
    "stage switch": (3, 0.02),
    "just after the switch": (3, 0.2),
    "stage 2": (4, 0.4),
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path)
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        root = Path(name)
        start(root / "whole", TRAIN).wait()
        expected = checksum(root / "whole")
        rows = {"uninterrupted": {"sha256": expected}}
        for number, (where, (lines, pause)) in enumerate(KILLS.items()):
            folder = root / str(number)
            process = start(folder, TRAIN)
            wait_for(folder / "metrics.jsonl", lines)
            time.sleep(pause)
            process.send_signal(signal.SIGKILL)
            process.wait()
            killed = not (folder / "summary.json").exists()
            start(folder, ["train", "--resume"]).wait()
            same = checksum(folder) == expected
            rows[where] = {"killed": killed, "sha256": checksum(folder), "equal": same}
    text = json.dumps(rows, indent=1)
    if args.out is not None:
        args.out.write_text(text + "\n", encoding="utf-8")
    sys.stdout.write(text + "\n")
    checks = [row for row in rows.values() if "equal" in row]
    sys.exit(not all(row["equal"] and row["killed"] for row in checks))


def start(folder: Path, line: list[str]) -> "subprocess.Popen[bytes]":
    """The command with that run folder, silent."""
    command = [sys.executable, "-m", "dearkd", *line, "--out", str(folder)]
    return subprocess.Popen(command, stdout=subprocess.DEVNULL)


def wait_for(file: Path, lines: int) -> None:
    """Returns once the file has that many lines."""
    while not file.exists() or len(file.read_text(encoding="utf-8").splitlines()) < lines:
        time.sleep(0.005)


def checksum(folder: Path) -> str:
    """SHA-256 of the student's weights file."""
    return hashlib.sha256((folder / "model.safetensors").read_bytes()).hexdigest()


if __name__ == "__main__":
    main()

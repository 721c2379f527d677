"""Kills syntheses with kill -9, resumes them, and compares the SHA-256 of every image file.

    python scripts/synth_kill_and_resume.py --out scripts/results/synth_kill_and_resume.json

Images of the embedded digits CNN through the command line, by one process and by two (torchrun).
Every folder must end with the files of the uninterrupted run, those that stood before the kill
untouched. A second command on a folder at work must be refused without harm.
"""

import argparse
import hashlib
import json
import os
import shlex
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import psutil
import torch

from dearkd.run_folder.provenance import commit

SETTINGS = shlex.split(
    "--per-class 8 --iters 40 --set images_per_class=2 --set precision=fp32 "
    "--set layout=contiguous --set compile=never"
)
TORCHRUN = ["-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2"]
GROUPS = 4
# Processes at first, image format, finished groups at the kill, processes that resume.
KILLS = {
    "1 process, killed and resumed": (1, "png", 2, 1),
    "1 process, killed and resumed, parquet": (1, "parquet", 1, 1),
    "2 processes, killed and resumed": (2, "png", 1, 2),
    "2 processes, killed, resumed by 1": (2, "png", 2, 1),
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path)
    args = parser.parse_args()
    rows: dict[str, dict[str, object]] = {}
    with tempfile.TemporaryDirectory() as name:
        root = Path(name)
        expected = {}
        for image_format in ("png", "parquet"):
            folder = root / image_format
            start(folder, 1, [*SETTINGS, "--format", image_format]).wait()
            expected[image_format] = checksums(folder)
            title = f"uninterrupted, {image_format}"
            rows[title] = {"files": len(checksums(folder)), "sha256": digest(folder)}
        for where, (processes, image_format, groups, resumed_by) in KILLS.items():
            folder = root / where
            process = start(folder, processes, [*SETTINGS, "--format", image_format])
            rows[where] = kill(process, folder, groups)
            before = stamps(folder)
            code = start(folder, resumed_by, ["--resume"]).wait()
            rows[where] |= {
                "exit_code": code,
                "sha256": digest(folder),
                "equal": checksums(folder) == expected[image_format],
                "rewritten": [file for file in before if stamps(folder)[file] != before[file]],
                "leftovers": [
                    file.name for file in folder.rglob("*.tmp") if "lock" not in file.name
                ],
            }
        rows["2 commands, 1 folder"] = intruded(root / "twice", expected["png"])
    about = {"settings": SETTINGS, "torch": torch.__version__, "commit": commit()}
    text = json.dumps(about | rows, indent=1)
    if args.out is not None:
        args.out.write_text(text + "\n", encoding="utf-8")
    sys.stdout.write(text + "\n")
    sys.exit(not all(passed(row) for row in rows.values() if "equal" in row))


def start(folder: Path, processes: int, line: list[str]) -> "subprocess.Popen[bytes]":
    """The command on that folder, silent, in a process group of its own."""
    launcher = [] if processes == 1 else TORCHRUN
    command = [sys.executable, *launcher, "-m", "dearkd", "synthesize", *line, "--out", str(folder)]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "ACCELERATE_USE_CPU": "true"}
    return subprocess.Popen(
        command, stdout=subprocess.DEVNULL, env=environment, start_new_session=True
    )


def kill(process: "subprocess.Popen[bytes]", folder: Path, groups: int) -> dict[str, object]:
    """SIGKILL to all its processes once so many groups are finished, and a while later.

    torchrun gives its workers sessions of their own, so they are found as its children.
    """
    await_groups(process, folder, groups)
    time.sleep(0.1)
    family = psutil.Process(process.pid)
    doomed = [family, *family.children(recursive=True)]
    for each in doomed:
        each.kill()
    _, alive = psutil.wait_procs(doomed, timeout=30)
    if alive:
        raise SystemExit(f"{alive} outlived SIGKILL")
    return {
        "killed": not (folder / "manifest.json").exists() and finished(folder) < GROUPS,
        "processes_killed": len(doomed),
        "groups_at_the_kill": finished(folder),
        "files_at_the_kill": len(stamps(folder)),
    }


def await_groups(process: "subprocess.Popen[bytes]", folder: Path, groups: int) -> None:
    """Returns once so many groups are finished."""
    while finished(folder) < groups:
        if process.poll() is not None:
            raise SystemExit(f"{process.args} ended with {process.returncode} before its time")
        time.sleep(0.005)


def intruded(folder: Path, expected: dict[str, str]) -> dict[str, object]:
    """One process halted at work, two more told to resume its folder; then it goes on."""
    first = start(folder, 1, SETTINGS)
    await_groups(first, folder, 1)
    first.send_signal(signal.SIGSTOP)
    groups = finished(folder)
    second = start(folder, 2, ["--resume"]).wait()
    changed = finished(folder) != groups
    first.send_signal(signal.SIGCONT)
    return {
        "exit_code": first.wait(),
        "exit_code_of_the_second": second,
        "second_made_groups": changed,
        "equal": checksums(folder) == expected,
    }


def passed(row: dict[str, object]) -> bool:
    whole = row["equal"] and row["exit_code"] == 0
    clean = row.get("killed", True) and not row.get("rewritten") and not row.get("leftovers")
    alone = row.get("exit_code_of_the_second", 2) != 0 and not row.get("second_made_groups")
    return bool(whole and clean and alone)


def finished(folder: Path) -> int:
    """How many groups are done."""
    return len(list((folder / ".parts").glob("group_*.json")))


def images(folder: Path) -> list[Path]:
    """Image files, or parquet files, without the pictures beside them."""
    return sorted([*folder.glob("*/*.png"), *folder.glob("*/*.parquet")])


def checksums(folder: Path) -> dict[str, str]:
    """SHA-256 of each image file."""
    return {
        str(file.relative_to(folder)): hashlib.sha256(file.read_bytes()).hexdigest()
        for file in images(folder)
    }


def digest(folder: Path) -> str:
    """SHA-256 over names and checksums of all image files."""
    return hashlib.sha256(json.dumps(checksums(folder)).encode()).hexdigest()


def stamps(folder: Path) -> dict[str, int]:
    """When each image file was written."""
    return {str(file.relative_to(folder)): file.stat().st_mtime_ns for file in images(folder)}


if __name__ == "__main__":
    main()

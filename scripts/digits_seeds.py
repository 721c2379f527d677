"""The demo's three students over several seeds: which differences are more than luck.

    python scripts/digits_seeds.py --seeds 0 1 2 --out scripts/results/digits_seeds.json

Embedded digits and embedded teacher; 15 epochs a student. Goes on where an earlier call stopped.
"""

import argparse
import json
import subprocess
import sys
from pathlib import Path

METHODS = ("dearkd", "deit-hard", "ce")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--runs", type=Path, default=Path("runs/digits-seeds"))
    parser.add_argument("--out", type=Path, help="JSON with all numbers")
    args = parser.parse_args()
    report: dict[str, dict[str, object]] = {method: {} for method in METHODS}
    for seed in args.seeds:
        for method in METHODS:
            folder = args.runs / f"{method}-{seed}"
            train(folder, method, seed)
            report[method][str(seed)] = json.loads(
                (folder / "summary.json").read_text(encoding="utf-8")
            )
    if args.out is not None:
        args.out.write_text(json.dumps(report, indent=1) + "\n", encoding="utf-8")
    for method, runs in report.items():
        sys.stdout.write(f"{method}: {[run['top1'] for run in runs.values()]}\n")


def train(folder: Path, method: str, seed: int) -> None:
    """Trains into ``folder`` unless it is finished."""
    if (folder / "summary.json").exists():
        return
    line = ["--resume"]
    if not (folder / "config.yaml").exists():
        line = ["--method", method, "--seed", str(seed), "--stage1", "12", "--stage2", "3"]
    command = [sys.executable, "-m", "dearkd", "train", *line, "--out", str(folder)]
    subprocess.run(command, check=True)


if __name__ == "__main__":
    main()

"""What ``dearkd synthesize --fast`` and an early stop cost and save, on the embedded digits CNN.

    dearkd teacher dearkd_resnet10w_32 --data digits --epochs 10 --seed 1 --out runs/judge
    python scripts/digits_fast.py --judge runs/judge --json scripts/results/digits_fast.json

Each way makes the same number of images by one thread; seconds are the process's own on the CPU.
"""

import argparse
import json
import os
import resource
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

WAYS = {
    "full": [],
    "fast": ["--fast"],
    "62 iterations of the full recipe": ["--iters", "62"],
    "early stop": ["--set", "stop_cross_entropy=0.5", "--set", "log_interval=25"],
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--judge", required=True)
    parser.add_argument("--per-class", type=int, default=20)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0])
    parser.add_argument("--json", type=Path)
    args = parser.parse_args()
    rows = []
    for seed in args.seeds:
        for way, options in WAYS.items():
            line = [*options, "--per-class", str(args.per_class), "--seed", str(seed)]
            rows.append({"way": way, "seed": seed, **made([*line, "--verifier", args.judge])})
            sys.stdout.write(f"{rows[-1]}\n")
    if args.json is not None:
        args.json.write_text(json.dumps(rows, indent=1) + "\n", encoding="utf-8")


def made(options: list[str]) -> dict[str, Any]:
    """Runs the command and returns what both networks recognise and what it took."""
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder) / "set"
        command = [sys.executable, "-m", "dearkd", "synthesize", *options]
        before = resource.getrusage(resource.RUSAGE_CHILDREN).ru_utime
        environment = {**os.environ, "OMP_NUM_THREADS": "1"}
        subprocess.run(
            [*command, "--out", str(out)], check=True, env=environment, stdout=subprocess.DEVNULL
        )
        seconds = resource.getrusage(resource.RUSAGE_CHILDREN).ru_utime - before
        content = json.loads((out / "manifest.json").read_text(encoding="utf-8"))
        curves = json.loads((out / "loss_curves.json").read_text(encoding="utf-8"))["groups"]
    images = len(content["images"])
    terms = ("cross_entropy", "bn_statistics", "total_variation")
    groups = content["groups"]
    return {
        "options": options[:-1],
        "images": images,
        "iterations": [curve[-1]["iteration"] for curve in curves.values()],
        "cpu_seconds": round(seconds, 1),
        "wall_seconds_an_image": round(sum(group["seconds"] for group in groups) / images, 4),
        **{
            role: {
                "recognised": quality["recognition"]["overall"],
                "distance": quality["diversity"]["overall"],
            }
            for role, quality in content["quality"].items()
        },
        "terms": {
            name: sum(group["terms"][name] for group in groups) / len(groups) for name in terms
        },
        "kernels": content["kernels"],
    }


if __name__ == "__main__":
    main()

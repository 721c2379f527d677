"""CIFAR-10: a teacher trained on all of it, then DearKD, DeiT-hard and plain CE on the same data.

    python scripts/cifar10_study.py --data cifar10                 # a tenth of it, two CPU cores
    python scripts/cifar10_study.py --data cifar10 --scale gpu     # all of it, the larger student

``--data`` is a folder of parquet files in Hugging Face layout, or ``torch/cifar10``. Same student,
steps and seed for every method. A second call goes on where the first stopped. Ends with a table,
and with every run's summary and metrics in one JSON file. Its numbers are to be measured anew.
"""

import argparse
import json
import subprocess
import sys
from pathlib import Path

DEARKD = [sys.executable, "-m", "dearkd"]
METHODS = ("dearkd", "deit-hard", "ce")
TEACHERS = {
    "cpu": ["dearkd_resnet10_32", "--epochs", "12", "--set", "optim.lr=2e-3"],
    "gpu": ["dearkd_resnet18_32", "--epochs", "60", "--set", "data.batch_size=512"],
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", required=True)
    parser.add_argument("--scale", choices=("cpu", "gpu"), default="cpu")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--runs", type=Path, default=Path("runs/cifar10-study"))
    parser.add_argument("--out", type=Path, help="JSON with all numbers")
    args = parser.parse_args()
    root = args.runs / f"{args.scale}-{args.seed}"
    teacher = root / "teacher"
    seed = ["--seed", str(args.seed)]
    run(teacher, ["teacher", *TEACHERS[args.scale], "--data", args.data, *seed])
    config = Path(__file__).parents[1] / "configs" / "train" / f"cifar10_{args.scale}.yaml"
    for method in METHODS:
        source = ["--set", "teacher.name=null"] if method == "ce" else ["--teacher", str(teacher)]
        line = ["train", str(config), "--data", args.data, "--method", method, *seed, *source]
        run(root / method, line)
    report = {name: read(root / name) for name in ("teacher", *METHODS)}
    if args.out is not None:
        args.out.write_text(json.dumps(report, indent=1) + "\n", encoding="utf-8")
    sys.stdout.write("| run | top-1 % | best | seconds |\n|---|---|---|---|\n")
    for name, entry in report.items():
        summary = entry["summary"]
        sys.stdout.write(
            f"| {name} | {summary['top1']:.2f} | {summary['best_top1']:.2f} "
            f"(epoch {summary['best_epoch']}) | {summary['seconds']:.0f} |\n"
        )


def run(folder: Path, line: list[str]) -> None:
    """Trains into ``folder``, goes on with what was begun there, or leaves what is finished."""
    if (folder / "summary.json").exists():
        return
    if (folder / "config.yaml").exists():
        line = [line[0], "--resume"]
    subprocess.run([*DEARKD, *line, "--out", str(folder)], check=True)


def read(folder: Path) -> dict[str, object]:
    """The run's summary and its line an epoch."""
    lines = (folder / "metrics.jsonl").read_text(encoding="utf-8").splitlines()
    return {
        "summary": json.loads((folder / "summary.json").read_text(encoding="utf-8")),
        "metrics": [json.loads(line) for line in lines],
    }


if __name__ == "__main__":
    main()

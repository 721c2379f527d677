"""CIFAR-10 without its images: DF-DearKD beside plain DeepInversion and beside real images.

    python scripts/cifar10_data_free.py --data cifar10                # 2,000 images, two CPU cores
    python scripts/cifar10_data_free.py --data cifar10 --scale gpu    # 50,000, the larger student

A teacher learns from all of the real images; a second one, of another seed, judges. Then come two
synthetic sets (with and without the boundary-preserving loss) and one student for each, and the
same student on as many real images. ``--data`` is a folder of parquet files in Hugging Face
layout, or ``torch/cifar10``; after the teacher it serves for reporting alone. A second call goes
on where the first stopped. Ends with a table and, with ``--out``, all numbers in one JSON file.
They are to be measured anew.
"""

import argparse
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

DEARKD = [sys.executable, "-m", "dearkd"]
CONFIGS = Path(__file__).resolve().parents[1] / "configs"
TRAIN_IMAGES, CLASSES = 50_000, 10
SCALES: dict[str, dict[str, Any]] = {
    "cpu": {
        "teacher": ["dearkd_resnet10w_32", "--epochs", "33"],
        "judge": ["dearkd_resnet10_32", "--epochs", "12"],
        "per_class": 200,
    },
    "gpu": {
        "teacher": ["dearkd_resnet18_32", "--epochs", "60"],
        "judge": ["dearkd_resnet18_32", "--epochs", "60"],
        "per_class": 5000,
    },
}
TEACHER_SETTINGS = ["optim.lr=3e-3", "optim.weight_decay=0.3", "data.batch_size=256"]
SETS = {"boundary": "cifar10_cpu.yaml", "plain": "cifar10_cpu_deepinversion.yaml"}


def main() -> None:
    args = _arguments()
    scale, root = SCALES[args.scale], args.runs / f"{args.scale}-{args.seed}"
    teacher, judge = root / "teacher", root / "judge"
    for offset, (folder, line) in enumerate(((teacher, "teacher"), (judge, "judge"))):
        seed = ["--seed", str(args.seed + 1 + offset), "--set", "compile=true"]
        settings = [word for setting in TEACHER_SETTINGS for word in ("--set", setting)]
        run(
            folder, "summary.json", ["teacher", *scale[line], "--data", args.data, *seed, *settings]
        )
    for name, config in SETS.items():
        line = ["synthesize", str(CONFIGS / "synth" / config), "--teacher", str(teacher)]
        line += ["--verifier", str(judge), "--per-class", str(scale["per_class"])]
        run(root / name, "manifest.json", [*line, "--seed", str(args.seed)])
    student = str(CONFIGS / "train" / f"df_dearkd_cifar10_{args.scale}.yaml")
    share = scale["per_class"] * CLASSES / TRAIN_IMAGES
    sources = {name: ["--data", str(root / name), "--eval-data", args.data] for name in SETS}
    sources["real"] = ["--data", args.data, "--fraction", str(share)]
    for name, source in sources.items():
        line = ["train", student, "--teacher", str(teacher), "--seed", str(args.seed), *source]
        run(root / f"student-{name}", "summary.json", line)
    report(root, args.out)


def run(folder: Path, last_file: str, line: list[str]) -> None:
    """Runs a command into ``folder``, goes on with what was begun, or leaves what is finished."""
    if (folder / last_file).exists():
        return
    begun = (folder / "config.yaml").exists() or (folder / "synthesize.yaml").exists()
    line = [line[0], "--resume"] if begun else line
    subprocess.run([*DEARKD, *line, "--out", str(folder)], check=True)


def report(root: Path, out: Path | None) -> None:
    """A table for the reader, everything for the file."""
    runs = ["teacher", "judge", *(f"student-{name}" for name in (*SETS, "real"))]
    everything: dict[str, Any] = {name: read_run(root / name) for name in runs}
    everything |= {name: read_set(root / name) for name in SETS}
    if out is not None:
        out.write_text(json.dumps(everything, indent=1) + "\n", encoding="utf-8")
    say = sys.stdout.write
    say("| set | recognised by the judge | by the teacher |\n|---|---|---|\n")
    for name in SETS:
        quality = everything[name]["quality"]
        shares = [100 * quality[role]["recognition"]["overall"] for role in ("verifier", "teacher")]
        say(f"| {name} | {shares[0]:.1f} | {shares[1]:.1f} |\n")
    say("\n| run | top-1 % on real test images | seconds |\n|---|---|---|\n")
    for name in runs:
        summary = everything[name]["summary"]
        say(f"| {name} | {summary['top1']:.2f} | {summary['seconds']:.0f} |\n")


def read_run(folder: Path) -> dict[str, Any]:
    """A run's summary and its line an epoch."""
    lines = (folder / "metrics.jsonl").read_text(encoding="utf-8").splitlines()
    return {
        "summary": json.loads((folder / "summary.json").read_text(encoding="utf-8")),
        "metrics": [json.loads(line) for line in lines],
    }


def read_set(folder: Path) -> dict[str, Any]:
    """What a synthetic set's manifest says of it, without the lines of its images."""
    manifest = json.loads((folder / "manifest.json").read_text(encoding="utf-8"))
    return {key: value for key, value in manifest.items() if key != "images"}


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", required=True)
    parser.add_argument("--scale", choices=tuple(SCALES), default="cpu")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--runs", type=Path, default=Path("runs/cifar10-data-free"))
    parser.add_argument("--out", type=Path, help="JSON with all numbers")
    return parser.parse_args()


if __name__ == "__main__":
    main()

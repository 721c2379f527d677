"""CPU seconds an image: by their spectrum, by a generator, of pixels, in one run.

    OMP_NUM_THREADS=1 python scripts/bench_ways.py --json scripts/results/bench_ways.json

Each way is a configuration of CIFAR-10 and the command `dearkd synthesize`, which makes a small and
a larger set. What the larger one takes more, over the images that it has more, is the price of an
image; the rest of the small one is paid once: loading, a generator's warm-up, verdict and contact
sheet. CPU seconds are of the command and all its processes, as the system counts them. The ways
take turns, so that what else the machine does meets all of them.
"""

import argparse
import os
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

from side_by_side import machine, write

ROOT = Path(__file__).resolve().parents[1]
CLASSES = 10
WAYS = {
    "inversion by spectrum": "cifar10_spectrum_deepinversion.yaml",
    "generator": "cifar10_generator.yaml",
    "inversion of pixels, boundary loss": "cifar10_cpu.yaml",
}


def cpu_seconds(config: str, per_class: int, seed: int, out: Path) -> float:
    """CPU seconds of the command that makes so many images of each class in ``out``."""
    file = ROOT / "configs" / "synth" / config
    line = [sys.executable, "-m", "dearkd", "synthesize", str(file), "--out", str(out)]
    line += ["--per-class", str(per_class), "--seed", str(seed)]
    before = os.times()
    subprocess.run(line, check=True, cwd=ROOT, stdout=subprocess.DEVNULL)
    after = os.times()
    user = after.children_user - before.children_user
    return user + after.children_system - before.children_system


def row(seconds: dict[int, list[float]]) -> dict[str, Any]:
    """The price of an image, one for each pair of sets, and what is paid once."""
    few, many = sorted(seconds)
    pairs = list(zip(seconds[few], seconds[many], strict=True))
    prices = [(more - less) / ((many - few) * CLASSES) for less, more in pairs]
    price = statistics.median(prices)
    once = statistics.median(less for less, _ in pairs) - price * few * CLASSES
    return {
        "cpu_seconds": {
            f"{per_class * CLASSES} images": all_ for per_class, all_ in seconds.items()
        },
        "seconds_an_image": prices,
        "median": price,
        "paid_once": once,
        "images_a_core_hour": 3600 / price,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--per-class", type=int, nargs=2, default=[10, 30], help="of both sets")
    parser.add_argument("--rounds", type=int, default=3, help="pairs of sets of each way")
    parser.add_argument("--json", type=Path, help="where to store the numbers")
    args = parser.parse_args()
    few, many = sorted(args.per_class)
    if few == many:
        parser.error(f"--per-class {few} {many} are one size; give two")
    seconds: dict[str, dict[int, list[float]]] = {way: {few: [], many: []} for way in WAYS}
    with tempfile.TemporaryDirectory() as folder:
        for turn in range(args.rounds):
            for way, config in WAYS.items():
                for count in (few, many):
                    out = Path(folder, f"{config}-{count}-{turn}")
                    taken = cpu_seconds(config, count, turn, out)
                    seconds[way][count].append(taken)
                    print(
                        f"{way}, {count * CLASSES} images, seed {turn}: {taken:.0f} s", flush=True
                    )
    rows = {way: row(found) for way, found in seconds.items()}
    for way, found in rows.items():
        print(
            f"{way:36} {found['median']:.3f} s an image, {found['images_a_core_hour']:,.0f} "
            f"a core-hour, {found['paid_once']:.0f} s once"
        )
    write(args.json, {"machine": machine(), "settings": {"per_class": [few, many]}, "ways": rows})


if __name__ == "__main__":
    main()

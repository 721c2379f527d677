"""The image sets of the studies cifar10_boundary and cifar10_data_free*, from CIFAR-10's teacher.

    python scripts/cifar10_sets.py --data cifar10 --pictures photos/ --jobs 2

Into ``--out`` (default: runs/cifar10-sets, where the studies look for them) go synthetic sets, made
from the teacher alone, and with ``--data`` what they are held against: real images (as many, and
all), pictures of another subject, noise, and the validation images that students are judged on.
A second call goes on where the first stopped. Each command has the threads that OMP_NUM_THREADS
says.
"""

import argparse
import io
import subprocess
import sys
import time
from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from PIL import Image

from dearkd.data.datasets import open_data
from dearkd.data.sources import ImageSource

SIZE, CLASSES, IMAGES = 32, 10, 5000
ROOT = Path(__file__).resolve().parents[1]
INVERSION, PLAIN = "cifar10_cpu.yaml", "cifar10_cpu_deepinversion.yaml"
SPECTRUM, GENERATOR = "cifar10_spectrum_deepinversion.yaml", "cifar10_generator.yaml"
BOUNDARY = ["objective.ep_weight=1.0", "objective.triplet_weight=0.5"]
SECOND_CNN = "scripts/results/cifar10_resnet10_teacher.safetensors"
TWO_TEACHERS = [f"other_teachers=[{{name: dearkd_resnet10_32, weights: {SECOND_CNN}}}]"]
SETS: dict[str, tuple[str, int, int, list[str]]] = {
    "spectrum-0": (SPECTRUM, IMAGES, 0, []),
    **{f"spectrum-10000-{seed}": (SPECTRUM, 10_000, seed, []) for seed in range(3)},
    "spectrum-20000": (SPECTRUM, 20_000, 3, []),
    "spectrum-boundary": (SPECTRUM, IMAGES, 0, BOUNDARY),
    "spectrum-two-teachers": (SPECTRUM, IMAGES, 0, TWO_TEACHERS),
    "boundary-0": (INVERSION, IMAGES, 0, []),
    "plain-0": (PLAIN, IMAGES, 0, []),
    "generator-0": (GENERATOR, IMAGES, 0, []),
    "generator-20000": (GENERATOR, 20_000, 0, []),
    "boundary-1": (INVERSION, IMAGES, 1, []),
    "plain-1": (PLAIN, IMAGES, 1, []),
    "boundary-2": (INVERSION, IMAGES, 2, []),
    "plain-2": (PLAIN, IMAGES, 2, []),
}
"""A set's configuration, number of images, seed and further settings."""


def main() -> None:
    args = _arguments()
    args.out.mkdir(parents=True, exist_ok=True)
    if args.data is not None:
        write_references(args.data, args.pictures, args.out)
    names = args.only or list(SETS)
    waiting, running = [(name, command(name, args)) for name in names], {}
    failed = []
    while waiting or running:
        while waiting and len(running) < args.jobs:
            name, line = waiting.pop(0)
            with (args.out / f"{name}.log").open("wb") as log:
                running[name] = subprocess.Popen(
                    line, stdout=log, stderr=subprocess.STDOUT, cwd=ROOT
                )
        time.sleep(0.2)
        for name in [name for name, process in running.items() if process.poll() is not None]:
            if running.pop(name).returncode:
                failed.append(name)
    if failed:
        raise SystemExit(f"failed: {', '.join(failed)}; see their logs in {args.out}")


def command(name: str, args: argparse.Namespace) -> list[str]:
    """The command that makes a set, goes on with it, or finds it finished."""
    config, images, seed, settings = SETS[name]
    file = ROOT / "configs" / "synth" / config
    line = [sys.executable, "-m", "dearkd", "synthesize", str(file), "--go-on"]
    line += ["--per-class", str(images // CLASSES), "--seed", str(seed)]
    groups = [] if config == GENERATOR else [f"groups_per_batch={args.groups}"]
    for setting in (*settings, *groups, *args.set):
        line += ["--set", setting]
    return [*line, "--out", str((args.out / name).resolve())]


def write_references(data: str, pictures: Path | None, out: Path) -> None:
    """Validation images, real ones (as many as a set has; all), noise and other pictures."""
    train, validation = open_data(data, validation=IMAGES)
    write(out / "validation.parquet", validation, range(len(validation)))
    write(out / "real-all.parquet", train, range(len(train)))
    rng = np.random.default_rng(0)
    labels = np.asarray(train.labels)
    real = [
        rng.permutation(np.flatnonzero(labels == label))[: IMAGES // CLASSES]
        for label in range(CLASSES)
    ]
    write(out / "real.parquet", train, np.sort(np.concatenate(real)).tolist())
    noise = rng.integers(0, 256, (IMAGES, SIZE, SIZE, 3), dtype=np.uint8)
    write_pictures(out / "noise.parquet", map(Image.fromarray, noise))
    if pictures is not None:
        files = sorted(file for file in pictures.rglob("*") if file.is_file())
        if not files:
            raise SystemExit(f"--pictures {pictures} has no files; name a folder of pictures")
        write_pictures(out / "pictures.parquet", crops(files, rng))


def crops(files: Sequence[Path], rng: np.random.Generator) -> Iterable[Image.Image]:
    """Square crops of half to all of a picture's shorter side, as often of each picture."""
    for number in range(IMAGES):
        image = Image.open(files[number % len(files)]).convert("RGB")
        side = int(min(image.size) * rng.uniform(0.5, 1))
        left, top = (int(rng.integers(0, length - side + 1)) for length in image.size)
        box = (left, top, left + side, top + side)
        yield image.resize((SIZE, SIZE), Image.Resampling.BICUBIC, box=box)


def write(file: Path, source: ImageSource, rows: Iterable[int]) -> None:
    """Images of a source with their labels."""
    if file.exists():
        return
    chosen = list(rows)
    write_table(
        file, (source.image(row) for row in chosen), [int(source.labels[r]) for r in chosen]
    )


def write_pictures(file: Path, images: Iterable[Image.Image]) -> None:
    """Images without labels."""
    if not file.exists():
        write_table(file, images, None)


def write_table(file: Path, images: Iterable[Image.Image], labels: list[int] | None) -> None:
    """A parquet file in Hugging Face layout, PNG inside."""
    cells = []
    for image in images:
        buffer = io.BytesIO()
        image.save(buffer, "png")
        cells.append({"bytes": buffer.getvalue(), "path": None})
    kind = pa.struct([("bytes", pa.binary()), ("path", pa.string())])
    columns = {"image": pa.array(cells, kind)}
    if labels is not None:
        columns["label"] = pa.array(labels, pa.int64())
    part = file.with_suffix(".part")
    pq.write_table(pa.table(columns), part, row_group_size=1000)
    part.rename(file)  # a file that stands is whole


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", help="CIFAR-10's training images, to hold the sets against")
    parser.add_argument("--pictures", type=Path, help="a folder of pictures of another subject")
    parser.add_argument("--out", type=Path, default=Path("runs/cifar10-sets"))
    parser.add_argument("--only", nargs="+", choices=tuple(SETS), help="these sets alone")
    parser.add_argument("--jobs", type=int, default=1)
    parser.add_argument("--groups", type=int, default=1, help="groups a batch; 10 suit a GPU")
    parser.add_argument("--set", action="append", default=[], metavar="KEY=VALUE")
    return parser.parse_args()


if __name__ == "__main__":
    main()

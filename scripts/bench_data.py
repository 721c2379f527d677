"""Views a second by augmentation and image size, on one core and with workers.

    python scripts/bench_data.py --workers 0,2 --out results/data.json

Random pictures; those for 224 px are 500x375 JPEGs in memory, so decoding counts. CPU only.
"""

import argparse
import io
import json
import platform
import time
from pathlib import Path

import numpy as np
import torch
from PIL import Image

from dearkd.data.augment import train_augment
from dearkd.data.decode import open_image
from dearkd.data.loaders import train_loader
from dearkd.data.mixing import Mixing
from dearkd.data.order import EpochOrder
from dearkd.data.sources import Classes

LOOK = {"mean": (0.485, 0.456, 0.406), "std": (0.229, 0.224, 0.225)}
CASES = (("none", 32), ("light", 32), ("digits", 32), ("deit", 32), ("light", 224), ("deit", 224))


class Pictures:
    """Encoded JPEGs with the statistics of smooth noise."""

    def __init__(self, count: int, size: tuple[int, int]) -> None:
        rng = np.random.default_rng(0)
        self.files = []
        for _ in range(16):
            small = rng.integers(0, 256, (size[1] // 8 + 1, size[0] // 8 + 1, 3), dtype=np.uint8)
            buffer = io.BytesIO()
            Image.fromarray(small).resize(size).save(buffer, "JPEG", quality=90)
            self.files.append(buffer.getvalue())
        self.labels = np.arange(count) % 10
        self.classes = Classes(10)

    def __len__(self) -> int:
        return len(self.labels)

    def image(self, index: int) -> Image.Image:
        """The decoded picture."""
        return open_image(self.files[index % len(self.files)], self.name(index))

    def name(self, index: int) -> str:
        """Its number."""
        return f"picture {index}"


def views_per_second(name: str, size: int, workers: int, cached: bool, seconds: float) -> float:
    small = size <= 64
    source = Pictures(20_000 if small else 2_000, (32, 32) if small else (500, 375))
    order = EpochOrder(images=len(source), batch_size=128, seed=0)
    loader = train_loader(
        source,
        train_augment(name, size, **LOOK),
        order,
        mixing=Mixing(),
        workers=workers,
        cache_bytes=2 << 30 if cached else 0,
    )
    views, epoch, start = 0, 0, 0.0
    while True:
        for step, batch in enumerate(loader.epoch(epoch)):
            if epoch == 0 and step == max(2, 2 * workers):  # workers are up, their queues full
                views, start = 0, time.perf_counter()
            views += len(batch["image"])
            if start and time.perf_counter() - start > seconds:
                return views / (time.perf_counter() - start)
        epoch += 1


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--workers", default="0")
    parser.add_argument("--seconds", type=float, default=3.0)
    parser.add_argument("--out", type=Path)
    options = parser.parse_args()
    torch.set_num_threads(1)
    rows = []
    print(f"{'augment':8} {'px':>4} {'cached':>6} {'workers':>7} {'views/s':>8}")
    for workers in map(int, options.workers.split(",")):
        for name, size in CASES:
            for cached in (True, False) if size == 32 and name != "deit" else (False,):
                rate = views_per_second(name, size, workers, cached, options.seconds)
                print(f"{name:8} {size:4} {cached!s:>6} {workers:7} {rate:8.0f}", flush=True)
                rows.append(
                    {
                        "augment": name,
                        "img_size": size,
                        "cached": cached,
                        "workers": workers,
                        "views_per_second": round(rate),
                    }
                )
    if options.out:
        machine = {
            "machine": platform.processor() or platform.machine(),
            "torch": torch.__version__,
        }
        options.out.parent.mkdir(parents=True, exist_ok=True)
        options.out.write_text(
            json.dumps(machine | {"rows": rows}, indent=1) + "\n", encoding="utf-8"
        )


if __name__ == "__main__":
    main()

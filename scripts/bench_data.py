"""Training views a second: ours and timm's loader on the same pictures, in turns in one process.

    python scripts/bench_data.py --workers 0,1 --json scripts/results/bench_data_cpu.json

Both decode the same JPEGs from memory (500 x 375 for 224 px, 32 x 32 for 32 px) and draw the same
recipe at the same batch size: ``light`` is pad, crop and flip at 32 px, ``deit`` is timm's own
transform with RandAugment and erasing. Ours keeps small decoded pictures, as it does in training.
``device`` also has the device's half of a view (`data.views=device`), ``crops`` the loaders' half
alone, which is all that the loaders have to do beside a GPU. timm's loader has its prefetcher on
CUDA. Rates are medians over the rounds, with the lowest and the highest; a ratio is the median of
the rounds' own ratios.
"""

import argparse
import io
import itertools
import json
import platform
import statistics
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import timm
import torch
from PIL import Image
from timm.data.loader import create_loader
from torchvision import transforms

from dearkd.data.augment import train_augment
from dearkd.data.decode import open_image
from dearkd.data.device_augment import DeviceAugment
from dearkd.data.loaders import train_loader
from dearkd.data.mixing import Mixing
from dearkd.data.order import EpochOrder
from dearkd.data.sources import Classes
from dearkd.run_folder.provenance import commit

LOOK: dict[str, Any] = {"mean": (0.485, 0.456, 0.406), "std": (0.229, 0.224, 0.225)}
BATCH = 64
CASES = (
    ("light", 32, "cpu"),
    ("deit", 32, "cpu"),
    ("deit", 224, "cpu"),
    ("deit", 224, "device"),
    ("deit", 224, "crops"),
)


class Pictures(torch.utils.data.Dataset):
    """JPEGs in memory with the statistics of smooth noise: a source for us, a data set for timm."""

    transform: Callable[[Image.Image], torch.Tensor]

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
        """The decoded picture, for us."""
        return open_image(self.files[index % len(self.files)], self.name(index))

    def name(self, index: int) -> str:
        """Its number."""
        return f"picture {index}"

    def __getitem__(self, index: int) -> tuple[torch.Tensor, int]:
        image = Image.open(io.BytesIO(self.files[index % len(self.files)])).convert("RGB")
        return self.transform(image), int(self.labels[index])


def pictures(size: int) -> Pictures:
    return Pictures(20_000, (32, 32)) if size <= 64 else Pictures(4_000, (500, 375))


def ours(
    name: str, size: int, place: str, workers: int, device: torch.device
) -> tuple[Iterator[Any], Callable[[], object]]:
    """Batches without end, and what stops the loader."""
    source = pictures(size)
    augment: Any = train_augment(name, size, **LOOK)
    augment = augment if place == "cpu" else DeviceAugment(augment)
    order = EpochOrder(images=len(source), batch_size=BATCH, seed=0)
    pin = device.type == "cuda"
    loader = train_loader(source, augment, order, mixing=Mixing(), workers=workers, pin_memory=pin)

    def batches() -> Iterator[Any]:
        for epoch in itertools.count():
            for batch in loader.epoch(epoch):
                if place == "crops":
                    yield batch["image"]
                    continue
                images = batch["image"].to(device, non_blocking=True)
                yield augment.finished(images, batch["drawn"]) if place == "device" else images

    return batches(), loader.close


def peer(
    name: str, size: int, place: str, workers: int, device: torch.device
) -> tuple[Iterator[Any], Callable[[], object]]:
    """The same from timm, which makes whole views in its loaders."""
    data = pictures(size)
    recipe = {"auto_augment": "rand-m9-mstd0.5-inc1", "re_prob": 0.25, "re_mode": "pixel"}
    loader = create_loader(
        data,
        (3, size, size),
        BATCH,
        is_training=True,
        interpolation="bicubic",
        color_jitter=0.0,
        num_workers=workers,
        persistent_workers=workers > 0,
        use_prefetcher=device.type == "cuda",
        device=device,
        **LOOK,
        **(recipe if name == "deit" else {}),
    )
    if name == "light":  # timm has no pad and crop for training
        crop = transforms.RandomCrop(size, padding=size // 8, padding_mode="reflect")
        *_, tensor, normalise = data.transform.transforms  # type: ignore[attr-defined]
        flip = transforms.RandomHorizontalFlip()
        data.transform = transforms.Compose([crop, flip, tensor, normalise])
    batches = (images for _ in itertools.count() for images, _ in loader)
    return batches, lambda: None


def rate(made: tuple[Iterator[Any], Callable[[], object]], workers: int, count: int) -> float:
    """Views a second over ``count`` batches, once workers are up and their queues were emptied."""
    batches, stop = made
    for _ in range(1 + 2 * workers):
        next(batches)
    start = time.perf_counter()
    for _ in range(count):
        images = next(batches)
    if images.device.type == "cuda":
        torch.cuda.synchronize()
    seconds = time.perf_counter() - start
    stop()
    return count * BATCH / seconds


def spread(rates: list[float]) -> dict[str, float]:
    return {
        "median": round(statistics.median(rates), 1),
        "lowest": round(min(rates), 1),
        "highest": round(max(rates), 1),
    }


def compared(case: tuple[str, int, str], workers: int, rounds: int, device: Any) -> dict[str, Any]:
    name, size, place = case
    count = 60 if size <= 64 else 6
    rates: dict[str, list[float]] = {"ours": [], "timm": []}
    for _ in range(rounds):
        for side, make in (("ours", ours), ("timm", peer)):
            rates[side].append(rate(make(name, size, place, workers, device), workers, count))
    ratios = [a / b for a, b in zip(*rates.values(), strict=True)]
    row = {"augment": name, "img_size": size, "views": place, "workers": workers}
    sides = {side: spread(values) for side, values in rates.items()}
    return row | sides | {"ratio": round(statistics.median(ratios), 3)}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--workers", default="0")
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--json", type=Path, help="where to write the numbers")
    options = parser.parse_args()
    torch.set_num_threads(1)
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    rows = []
    print(f"{'views':20} {'workers':>7} {'ours/s':>9} {'timm/s':>9} {'ratio':>7}")
    for workers in map(int, options.workers.split(",")):
        for case in CASES:
            row = compared(case, workers, options.rounds, device)
            title = f"{case[0]} {case[1]} px, {case[2]}"
            both = f"{row['ours']['median']:9.0f} {row['timm']['median']:9.0f}"
            print(f"{title:20} {workers:7} {both} {row['ratio']:7.2f}", flush=True)
            rows.append(row)
    if options.json:
        about = {
            "machine": platform.processor() or platform.machine(),
            "device": torch.cuda.get_device_name() if device.type == "cuda" else "cpu",
            **{"threads": 1, "batch": BATCH, "rounds": options.rounds, "commit": commit()},
            **{"torch": torch.__version__, "timm": timm.__version__},
        }
        text = json.dumps(about | {"rows": rows}, indent=1) + "\n"
        options.json.write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main()

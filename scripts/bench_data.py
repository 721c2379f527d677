r"""Training views: ours and timm's loader on the same pictures, in turns in one process.

    python scripts/bench_data.py --json scripts/results/bench_data_cpu.json
    python scripts/bench_data.py --device cuda --workers 8 \
        --json scripts/results/bench_data_cuda.json

Both decode the same JPEGs from memory (500 x 375 for 224 px, 32 x 32 for 32 px) and draw the same
recipe at the same batch size: ``light`` is pad, crop and flip at 32 px, ``deit`` is timm's own
transform with RandAugment and erasing. Ours keeps small decoded pictures, as it does in training.
"device half too" has the whole of `data.views=device`, "loaders' half" what loaders have to do
beside it. timm's loader has its prefetcher on CUDA. A call is so many batches, taken from loaders
that run all the time; with workers it takes ten times as many as these hold ready.
"""

import argparse
import io
import itertools
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from side_by_side import in_turns, machine, print_rows, write
from timm.data.loader import create_loader
from torchvision import transforms

from dearkd.data.augment import train_augment
from dearkd.data.decode import open_image
from dearkd.data.device_augment import DeviceAugment
from dearkd.data.loaders import train_loader
from dearkd.data.mixing import Mixing
from dearkd.data.order import EpochOrder
from dearkd.data.sources import Classes

LOOK: dict[str, Any] = {"mean": (0.485, 0.456, 0.406), "std": (0.229, 0.224, 0.225)}
BATCH = 64
CASES = (("light", 32), ("deit", 32), ("deit", 224))


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
    name: str, size: int, half: str | None, workers: int, device: torch.device
) -> Iterator[Any]:
    """Our batches, without end; ``half``: the last one to do, where views are made in two."""
    source = pictures(size)
    augment: Any = train_augment(name, size, **LOOK)
    augment = DeviceAugment(augment) if half else augment
    order = EpochOrder(images=len(source), batch_size=BATCH, seed=0)
    pin = device.type == "cuda"
    loader = train_loader(source, augment, order, mixing=Mixing(), workers=workers, pin_memory=pin)
    for epoch in itertools.count():
        for batch in loader.epoch(epoch):
            images = batch["image"].to(device, non_blocking=True)
            yield augment.finished(images, batch["drawn"]) if half == "device" else images


def peer(name: str, size: int, workers: int, device: torch.device) -> Iterator[Any]:
    """Timm's batches, without end."""
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
    for _ in itertools.count():
        for images, _ in loader:
            yield images


def taking(batches: Iterator[Any], count: int) -> Callable[[], None]:
    def take() -> None:
        for _ in range(count):
            next(batches)

    return take


def compared(name: str, size: int, args: argparse.Namespace) -> dict[str, Any]:
    """A row: seconds of each path for the same number of batches."""
    device, workers = torch.device(args.device), args.workers
    count = max(20 * workers, 20 if size <= 64 else 2)
    paths = {"ours": ours(name, size, None, workers, device)}
    if size > 64:
        paths["ours, device half too"] = ours(name, size, "device", workers, device)
        paths["ours, loaders' half"] = ours(name, size, "loaders", workers, device)
    paths["timm"] = peer(name, size, workers, device)
    calls = {path: taking(batches, count) for path, batches in paths.items()}
    seconds = in_turns(calls, args.rounds, args.device)
    rates = {path: count * BATCH / times["median"] for path, times in seconds.items()}
    work = f"{name} {size} px, {count * BATCH} views, {workers} workers"
    return {"work": work, "seconds": seconds, "images_per_second": rates}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--workers", type=int, default=0)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    parser.add_argument("--json", type=Path, help="where to write the numbers")
    args = parser.parse_args()
    torch.set_num_threads(1)
    rows = [compared(name, size, args) for name, size in CASES]
    print_rows(rows)
    write(args.json, {"machine": machine(args.device), "settings": vars(args), "rows": rows})


if __name__ == "__main__":
    main()

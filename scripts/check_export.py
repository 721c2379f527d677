"""A run in every exported form against `dearkd eval`, to the last test image; size and time.

Exports the run to ONNX and torch.export, plain and with --fuse, and to a timm folder; classifies
the run's whole evaluation data with each and counts the images on which the best class is not that
of the model, whose own top-1 must be the one that `dearkd eval` prints. Times are of one thread's
CPU clock (other work on the machine does not count), medians of forms taken in turns.

Command: OMP_NUM_THREADS=1 python scripts/check_export.py RUN --out FILE.json
"""

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from torch import Tensor

from dearkd.data.class_matching import match_classes
from dearkd.data.feed import evaluation_loader
from dearkd.export.export import export_run
from dearkd.export.formats import Readout
from dearkd.judging.candidate import Candidate, candidate_of
from dearkd.run_folder.processes import process_accelerator
from dearkd.run_folder.provenance import commit, versions
from dearkd.trained.exported import open_onnx, open_timm, open_torch_export
from dearkd.trained.onnx_packages import import_packages
from dearkd.trained.resolve import resolve
from dearkd.trained.trained import Trained

FORMS = {
    "onnx": ("onnx", False, open_onnx, ".onnx"),
    "onnx fused": ("onnx", True, open_onnx, ".onnx"),
    "torch-export": ("torch-export", False, open_torch_export, ".pt2"),
    "torch-export fused": ("torch-export", True, open_torch_export, ".pt2"),
    "timm": ("timm", False, open_timm, ""),
}
BATCHES = (1, 32)
ROUNDS = {1: 40, 32: 7}


def exported(run: Path, root: Path, console: Console) -> dict[str, tuple[Path, Trained]]:
    forms = {}
    for name, (to, fuse, read, ending) in FORMS.items():
        out = root / f"{name.replace(' ', '-')}{ending}"
        started = time.perf_counter()
        export_run(run, console=Console(quiet=True), to=to, out=out, fuse=fuse)
        console.print(f"{name}: {time.perf_counter() - started:.0f} s")
        forms[name] = (out, read(out))
    return forms


def top1(run: Path) -> float:
    """As the command prints it."""
    command = [sys.executable, "-m", "dearkd", "eval", str(run), "--json"]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    return json.loads(done.stdout)["logits"]["top1"]


def batches(candidate: Candidate) -> Any:
    trained, source = candidate.trained, candidate.source
    classes = match_classes(source.classes, trained.class_names, trained.num_classes)
    return evaluation_loader(source, trained.view, trained.img_size, classes, process_accelerator())


@torch.inference_mode()
def compared(model: Readout, forms: dict[str, tuple[Path, Trained]], loader: Any) -> Any:
    images = right = 0
    found = {name: {"right": 0, "other_class": 0, "largest_difference": 0.0} for name in forms}
    for batch in loader:
        expected = model(batch["image"])[0]
        best, labels = expected.argmax(1), batch["label"]
        images += len(labels)
        right += int((best == labels).sum())
        for name, (_, form) in forms.items():
            logits = form.network(batch["image"])
            row = found[name]
            row["right"] += int((logits.argmax(1) == labels).sum())
            row["other_class"] += int((logits.argmax(1) != best).sum())
            gap = float((logits - expected).abs().max())
            row["largest_difference"] = max(row["largest_difference"], gap)
    return images, right, found


@torch.inference_mode()
def milliseconds(forms: dict[str, Any], batch: int, img_size: int) -> dict[str, float]:
    images: Tensor = torch.randn(batch, 3, img_size, img_size)
    taken: dict[str, list[float]] = {name: [] for name in forms}
    for _ in range(ROUNDS[batch]):
        for name, outputs in forms.items():
            started = time.thread_time()
            outputs(images)
            taken[name].append(time.thread_time() - started)
    return {name: round(1000 * statistics.median(times), 2) for name, times in taken.items()}


def nodes(file: Path) -> int | None:
    if file.suffix == ".onnx":
        (onnx,) = import_packages("onnx")
        return len(onnx.load(file).graph.node)
    return len(torch.export.load(file).graph.nodes) if file.suffix == ".pt2" else None


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("run", type=Path)
    parser.add_argument("--out", type=Path, required=True)
    options = parser.parse_args()
    torch.set_num_threads(1)
    console = Console()
    candidate = candidate_of(resolve(str(options.run), "run"))
    readout, size = Readout(candidate.trained.network), candidate.trained.img_size
    with tempfile.TemporaryDirectory() as root:
        forms = exported(options.run, Path(root), console)
        images, right, found = compared(readout, forms, batches(candidate))
        outputs = {"model": readout, **{name: form.network for name, (_, form) in forms.items()}}
        times = {batch: milliseconds(outputs, batch, size) for batch in BATCHES}
        for name, (file, _) in forms.items():
            parts = [file] if file.is_file() else list(file.iterdir())
            found[name] |= {"bytes": sum(f.stat().st_size for f in parts), "nodes": nodes(file)}
    result = {
        "run": options.run.name,
        "images": images,
        "top1_of_dearkd_eval": top1(options.run),
        "top1_of_the_model": 100 * right / images,
        "forms": {
            name: {"top1": 100 * row["right"] / images, **row} for name, row in found.items()
        },
        "milliseconds_of_one_thread": times,
        "onnxruntime": import_packages("onnxruntime")[0].__version__,
        "versions": versions(),
        "commit": commit(),
    }
    options.out.write_text(json.dumps(result, indent=2) + "\n", encoding="utf-8")
    console.print_json(json.dumps(result))


if __name__ == "__main__":
    main()

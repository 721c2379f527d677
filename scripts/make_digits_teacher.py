"""Makes dearkd/assets/digits_resnet10t.safetensors, the teacher that bare ``dearkd train`` uses.

    python scripts/make_digits_teacher.py

trains the smallest CNN on scikit-learn's digits (about 20 s on two cores) and prints its top-1.
"""

import json
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

ASSET = Path(__file__).parents[1] / "dearkd" / "assets" / "digits_resnet10t.safetensors"


def main() -> None:
    with tempfile.TemporaryDirectory() as folder:
        run = Path(folder) / "run"
        line = ["teacher", "dearkd_resnet10t_32", "--data", "digits", "--epochs", "16"]
        dearkd = str(Path(sys.executable).parent / "dearkd")
        subprocess.run([dearkd, *line, "--set", "precision=fp32", "--out", str(run)], check=True)
        ASSET.parent.mkdir(exist_ok=True)
        shutil.copy(run / "model.safetensors", ASSET)
        summary = json.loads((run / "summary.json").read_text(encoding="utf-8"))
    size = ASSET.stat().st_size
    sys.stdout.write(f"{ASSET.name}: top-1 {summary['top1']:.2f} %, {size:,} bytes\n")


if __name__ == "__main__":
    main()

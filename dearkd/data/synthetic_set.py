"""Whether a synthetic set is finished and still has the images that its manifest lists."""

import json
from collections import Counter
from pathlib import Path
from typing import Any

__all__ = ["missing_images"]

SHOWN = 5
"""Classes that are named at most."""


def missing_images(data: str) -> str | None:
    """One line on what is gone from a synthetic set and how to get it back; None: nothing is."""
    root = Path(data).expanduser()
    if (root / "synthesize.yaml").is_file() and not (root / "manifest.json").exists():
        return (
            f"{root} is an unfinished synthetic set: what is missing of it stays out of training, "
            f"and it has no class indices yet; finish it: dearkd synthesize --resume --out {root}"
        )
    listed = _listed(root / "manifest.json")
    whole = Counter(name for name, _ in listed)
    gone = Counter(name for name, file in listed if not (root / file).exists())
    if not gone:
        return None
    shares = [f"{name} ({n} of {whole[name]})" for name, n in gone.most_common(SHOWN)]
    if len(gone) > SHOWN:
        shares.append(f"{len(gone) - SHOWN} more")
    return (
        f"{root} lacks {gone.total()} of the {len(listed)} images that its manifest lists, of "
        f"class {', '.join(shares)}; make them again: dearkd synthesize --resume --out {root}"
    )


def _listed(manifest: Path) -> list[tuple[str, str]]:
    """(class folder, file that holds it) of every image; none where no set was synthesised."""
    try:
        content = json.loads(manifest.read_text(encoding="utf-8"))
        parquet = content["config"]["image_format"] == "parquet"
        images = content["images"]
        return [(Path(image["file"]).parent.name, _file(image, parquet)) for image in images]
    except (OSError, KeyError, TypeError, ValueError):
        return []


def _file(image: dict[str, Any], parquet: bool) -> str:
    return f"data/train-{image['group']:06d}.parquet" if parquet else image["file"]

"""The README of an exported model: its origin, its measured accuracy, and how to use it."""

import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from omegaconf import OmegaConf

from dearkd.models.heads import heads_note
from dearkd.training.method_names import explanation_of

__all__ = ["Weights", "model_card"]

MOST_NAMES = 100
UNSTATED = "Not stated by whoever exported them; ask before you use them."


@dataclass(frozen=True)
class Weights:
    """The weights that a card describes."""

    name: str
    which: str
    """``final``, ``best`` or ``raw``."""
    parameters: int
    licence: str | None
    """Identifier of the Hugging Face hub, e.g. apache-2.0; None: not stated."""


def model_card(description: dict[str, Any], weights: Weights, summary: dict[str, Any]) -> str:
    """The card as Markdown with the hub's YAML header.

    ``description`` is ``Trained.metadata``; ``summary`` is the run's, empty if it has none.
    """
    parts = [
        _header(weights),
        f"# {weights.name}",
        _what(description, weights, summary),
        f"## Measured\n\n{_measured(description, weights, summary)}",
        f"## What it sees\n\n{_preprocessing(description)}",
        f"## Use\n\n{_use(description)}",
        f"## Classes\n\n{_classes(description)}",
        f"## Licence of the weights\n\n{weights.licence or UNSTATED}",
    ]
    return "\n\n".join(parts) + "\n"


def _header(weights: Weights) -> str:
    fields = OmegaConf.create(
        {
            "library_name": "timm",
            "pipeline_tag": "image-classification",
            "license": weights.licence or "unknown",
            "tags": ["timm", "image-classification", "dearkd"],
        }
    )
    return f"---\n{OmegaConf.to_yaml(fields)}---"


def _what(description: dict[str, Any], weights: Weights, summary: dict[str, Any]) -> str:
    size, classes = description["img_size"], description["num_classes"]
    text = (
        f"`{description['arch']}`, {weights.parameters / 1e6:.2f} M parameters, for images of "
        f"{size} x {size} pixels and {classes} classes."
    )
    if not summary:
        return text
    method, data = explanation_of(summary["method"]), _last_name(summary["data"])
    text += (
        f" Trained with {method} for {summary['epochs']} epochs on {summary['train_images']:,} "
        f"images of `{data}`"
    )
    return text + (f"; teacher `{_last_name(summary['teacher'])}`." if summary["teacher"] else ".")


def _measured(description: dict[str, Any], weights: Weights, summary: dict[str, Any]) -> str:
    if summary.get("top1") is None:
        return "Nothing: the run has left no numbers."
    kind = "test" if summary.get("validation") is None else "validation"
    images = f"{summary['eval_images']:,} {kind} images"
    if weights.which == "best":
        lines = [
            f"Top-1 {summary['best_top1']:.2f} % on {images}, after epoch {summary['best_epoch']}, "
            "which was chosen by this very number."
        ]
    elif weights.which == "raw":
        lines = ["Nothing: the run judged its averaged weights, and these are the plain ones."]
    else:
        lines = [f"On {images}:", "", "| read by | top-1 % | top-5 % |", "|---|---|---|"]
        for head, value in summary["heads"].items():
            lines.append(f"| {head} | {value['top1']:.2f} | {value['top5']:.2f} |")
    if (note := heads_note(description.get("heads") or ())) is not None:
        lines += ["", f"It {note}."]
    versions = ", ".join(f"{name} {version}" for name, version in summary["versions"].items())
    how = (
        f"Seed {summary['seed']}, {summary['precision']} on {summary['device']}; {versions}; "
        f"commit {summary.get('commit') or 'unknown'}."
    )
    return "\n".join([*lines, "", how])


def _preprocessing(description: dict[str, Any]) -> str:
    size, share = description["img_size"], description["crop_pct"]
    shorter = math.floor(size / share)  # as timm resizes
    resized = {
        "center": f"the shorter side resized to {shorter} pixels",
        "squash": f"both sides resized to {shorter} pixels, whatever their ratio",
        "border": f"the longer side resized to {shorter} pixels, on a ground of the mean",
    }[description["crop_mode"]]
    return (
        f"RGB, upright, transparent pixels on white; {resized} "
        f"({description['interpolation']}), the middle {size} x {size} cut out, scaled to 0..1, "
        f"then minus mean {description['mean']} and divided by std {description['std']}."
    )


def _use(description: dict[str, Any]) -> str:
    ours = description["arch"].split("_")[0] in ("dearkd", "deit")
    note = "  # registers the architecture" if ours else "  # only for architectures of dearkd"
    return f"""```
dearkd predict THIS_FOLDER IMAGE
```

```python
import dearkd{note}
import timm

model = timm.create_model("local-dir:THIS_FOLDER", pretrained=True).eval()
transform = timm.data.create_transform(**timm.data.resolve_data_config(model=model))
```"""


def _classes(description: dict[str, Any]) -> str:
    names = description["class_names"]
    if not names:
        return "Without names, by index."
    shown = ", ".join(names[:MOST_NAMES])
    return shown + (" and so on; all are in `config.json`." if len(names) > MOST_NAMES else "")


def _last_name(place: str) -> str:
    """The last part of an absolute path, so that the card shows no folders of the run's machine."""
    return Path(place).name if Path(place).is_absolute() else place

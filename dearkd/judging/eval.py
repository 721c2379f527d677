"""What `dearkd eval` does: top-1 and top-5 of a run folder or a timm model, by each head."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator
from rich.console import Console
from rich.progress import track
from rich.table import Table

from dearkd.data.class_matching import match_classes, order_note
from dearkd.data.feed import EVALUATION_BATCH, evaluation_loader
from dearkd.data.loaders import Loader, OnBadImage
from dearkd.errors import UserError, one_line
from dearkd.judging.candidate import candidate_of
from dearkd.judging.evaluate import evaluate
from dearkd.models.placing import place
from dearkd.run_folder.processes import in_turn, process_accelerator, process_state
from dearkd.trained.resolve import refuse_idle_trust, resolve

__all__ = ["evaluate_target"]

READINGS: dict[str, str] = {
    "class": "class head",
    "distillation": "distillation head",
    "logits": "both heads, mean of logits (the model's answer)",
    "softmax": "both heads, sum of softmax",
}
"""What the ways of reading two heads are called in the table."""


def evaluate_target(
    target: str,
    *,
    console: Console,
    data: str | None = None,
    weights: Path | None = None,
    which: str | None = None,
    trust: bool = False,
    batch_size: int | None = None,
    img_size: int | None = None,
    on_bad_image: OnBadImage | None = None,
    as_json: bool = False,
) -> dict[str, dict[str, float]]:
    """Prints and returns top-1 and top-5 of a run folder or a timm model, per head.

    A run is judged as it judged itself, in its precision and layout, and on its own evaluation
    data unless ``data`` names others. ``which`` of its weights: final (default), best or raw.

    Raises:
        UserError: If the target is unknown, has no weights or no evaluation data, its classes are
            not the data's, it can't take ``img_size``, or an option does not apply to it.
    """
    found = resolve(target, "model", weights=weights, which=which, trust=trust)
    refuse_idle_trust(trust, found)
    candidate = in_turn(process_state(), lambda: candidate_of(found, data))
    trained, source = candidate.trained, candidate.source
    accelerator = process_accelerator()
    network = trained.network
    if img_size is not None:
        _resize(network, target, img_size)
    loader = evaluation_loader(
        source,
        trained.view,
        img_size or trained.img_size,
        match_classes(source.classes, trained.class_names, trained.num_classes),
        accelerator,
        batch_size=batch_size or EVALUATION_BATCH,
        on_bad_image=on_bad_image or candidate.on_bad_image,
    )
    place(network, accelerator.device, trained.memory_format)
    batches = _watched(loader, console, accelerator)
    result = evaluate(network, batches, accelerator, trained.precision)
    if accelerator.is_main_process:
        _print_result(target, result, console, as_json)
        about_heads = trained.heads_note and f"{target} {trained.heads_note}"
        for note in (order_note(source.classes, trained.class_names), about_heads):
            if note is not None and not as_json:
                console.print(f"note: {note}", markup=False)
    accelerator.end_training()  # which leaves the world of processes, too
    return result


@torch.inference_mode()
def _resize(model: Any, target: str, img_size: int) -> None:
    """Makes a model that is built for one image size take another, and tries it on a blank."""
    try:
        if hasattr(model, "set_input_size"):
            model.set_input_size(img_size=(img_size, img_size))
        patch = getattr(getattr(model, "patch_embed", None), "patch_size", (1, 1))
        side = max(patch) if isinstance(patch, tuple | list) else patch
        if img_size % side:  # the rest would be cut off in silence
            raise UserError(f"it must be a multiple of the {side}-px patch")
        model.eval()(torch.zeros(1, 3, img_size, img_size))
    except (AssertionError, RuntimeError, ValueError, TypeError) as error:
        reason = one_line(error)
        raise UserError(f"{target} cannot take --img-size {img_size}: {reason}") from error


def _watched(loader: Loader, console: Console, accelerator: Accelerator) -> Iterator[Any]:
    """The batches under a progress bar, on one process's terminal."""
    if accelerator.is_main_process and console.is_terminal:
        yield from track(loader, "evaluating", total=len(loader), console=console)
    else:
        yield from loader


def _print_result(
    target: str, result: dict[str, dict[str, float]], console: Console, as_json: bool
) -> None:
    if as_json:
        console.print_json(json.dumps(result))
        return
    count = result["images"]["count"]
    table = Table("head", "top-1 %", "top-5 %", title=f"{target}, {count} images")
    heads = {head: value for head, value in result.items() if head != "images"}
    for head, value in heads.items():
        answers = len(heads) > 1 and head == "logits"
        name = READINGS[head] if len(heads) > 1 else head
        style = "bold" if answers else None
        table.add_row(name, f"{value['top1']:.2f}", f"{value['top5']:.2f}", style=style)
    console.print(table)

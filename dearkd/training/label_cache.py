"""``--cache-labels``: what the teacher says of the run's views, read from a folder and kept there.

A view is a function of (seed, epoch, image, repeat) and its partner of its place in the order, so
that an answer holds for every run of the same data, views and teacher, whatever its student,
batch size, workers and processes (`dearkd.labels.identity` has the whole list).
"""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import torch
from accelerate import Accelerator, PartialState

from dearkd.data.feed import DeviceBatches
from dearkd.errors import UserError
from dearkd.labels.answers import Answers
from dearkd.labels.check import SAMPLE, check_answers, check_pictures, pictures
from dearkd.labels.folder import LabelFolder, create_manifest, read_manifest
from dearkd.labels.identity import Identity, check_form, check_same, identity, key_of
from dearkd.labels.memory import LabelMemory
from dearkd.misfit import misfit
from dearkd.models.teacher import Form
from dearkd.run_folder.processes import from_main
from dearkd.run_folder.provenance import versions
from dearkd.said import counted, size_text
from dearkd.shapes import LABELS
from dearkd.training.batches import epoch_order, sample_batches
from dearkd.training.build import Parts

__all__ = ["LabelCache", "kept_of", "opened_labels"]

FORMAT = 1
"""Of the manifest and the files; another one is not read."""


@dataclass(frozen=True)
class LabelCache:
    """The answers of one run's teacher."""

    memory: LabelMemory
    epochs: int
    """Those that the teacher takes part in, or may where a rule ends its stage."""
    views: int
    """Views an epoch that the run sees."""
    known: int
    """Answers to these that were there when it was opened."""
    at_most: bool = False
    """Whether ``epochs`` is an upper bound, because a rule may end the stage."""

    def line(self) -> str:
        """What is known already and what all of it takes on the disk."""
        total = self.epochs * self.views
        answers = self.memory.folder.answers
        size = size_text(self.epochs * self.memory.folder.views * (answers.bytes_a_view + 1 / 8))
        found = "all" if self.known == total else f"{self.known:,}" if self.known else "none"
        return (
            f"teacher's {answers.form}: {found} of {'at most ' if self.at_most else ''}"
            f"{counted(total, 'view')} known in "
            f"{self.memory.folder.path} ({size} for {counted(self.epochs, 'epoch')})"
        )

    def used(self, accelerator: Accelerator) -> dict[str, Any]:
        """How many answers were read and how many computed, over all processes."""
        counts = torch.tensor(
            [self.memory.read, self.memory.computed], device=accelerator.device, dtype=torch.int64
        )
        read, computed = accelerator.reduce(counts).tolist()
        return {"folder": str(self.memory.folder.path), "read": read, "computed": computed}


def opened_labels(
    parts: Parts, state: PartialState, say: Callable[..., None], dry_run: bool = False
) -> LabelCache | None:
    """The labels of the run's teacher, which remembers them from now on; None where none are kept.

    The arithmetic must be chosen and the teacher on its device. A dry run writes, and deletes,
    nothing.

    Raises:
        UserError: If the folder holds labels of something else.
    """
    config, teacher = parts.config, parts.teacher
    if config.cache_labels is None or teacher is None:
        return None
    path = Path(config.cache_labels)
    manifest = from_main(state, lambda: _manifest(parts, path, state, say, dry_run))
    order, accumulate = epoch_order(parts, state.process_index, state.num_processes)
    answers = Answers(manifest["answers"], teacher.num_classes)
    folder = LabelFolder(path, answers, order.views_per_epoch, manifest["key"])
    if state.is_main_process and not dry_run:
        folder.remove_leftovers()
    from_main(state, lambda: _check_sample(parts, folder, state))
    teacher.memory = LabelMemory(folder)
    taught = [stage for stage in parts.stages if stage.teacher is not None]
    epochs = sum(stage.epochs for stage in taught)
    gives_way = len(taught) < len(parts.stages) and any(stage.rule for stage in taught)
    views = order.steps_per_epoch // accumulate * accumulate * order.batch_size
    counts = (int(folder.known(epoch)[:views].sum()) for epoch in range(epochs))
    cache = LabelCache(teacher.memory, epochs, views, sum(counts), at_most=gives_way)
    say(cache.line())
    return cache


def kept_of(parts: Parts) -> tuple[Identity, Form]:
    """What the answers of the run's teacher depend on, and in which form they are kept."""
    assert parts.teacher is not None
    order, _ = epoch_order(parts, 0, 1)
    form: Form = getattr(parts.stages[0].objective, "learns_from", "logits")
    look: Any = parts.student.pretrained_cfg
    return identity(parts.teacher, parts.train, parts.config.data, order, look), form


def _manifest(
    parts: Parts, path: Path, state: PartialState, say: Callable[..., None], dry_run: bool
) -> dict[str, Any]:
    """What the folder holds labels of, after a check that it is what the run needs."""
    stored, own = read_manifest(path), _own_manifest(parts, state)
    if stored is None:
        if dry_run:
            return own
        stored = create_manifest(path, own)  # another run may have made it meanwhile
    if stored.get("format", FORMAT) != FORMAT:
        raise UserError(
            f"{path} is of another version of dearkd (format {stored['format']}, here {FORMAT}); "
            "choose another folder for --cache-labels"
        )
    if (fault := misfit(stored, LABELS)) is not None:
        raise UserError(
            f"{path} has a damaged labels.json ({fault}); delete the folder, it is made anew"
        )
    check_same(path, stored["of"], own["of"])
    check_form(path, stored["answers"], own["answers"], parts.config.method)
    there, here = stored["versions"], own["versions"]
    changed = [
        f"{name} {there[name]} (here {here.get(name)})"
        for name in there
        if there[name] != here.get(name)
    ]
    check_pictures(path, stored["pictures"], own["pictures"], changed)
    if changed:
        say(f"note: the labels in {path} were made with {', '.join(changed)}; views look the same")
    return stored


def _own_manifest(parts: Parts, state: PartialState) -> dict[str, Any]:
    """The manifest that this run would write."""
    config, look = parts.config, cast(Any, parts.student.pretrained_cfg)
    of, form = kept_of(parts)
    images, _, views = next(iter(_sample(parts, state)(0, 0)))
    return {
        "format": FORMAT,
        "answers": form,
        "key": key_of(of, form),
        "of": of,
        "first made": {"teacher": config.teacher.name, "data": config.data.train},
        "versions": versions(),
        "pictures": pictures(images, views, look["mean"], look["std"]),
    }


def _check_sample(parts: Parts, folder: LabelFolder, state: PartialState) -> None:
    """Compares some answers of the first epoch that has any with the teacher's own."""
    teacher = parts.teacher
    assert teacher is not None
    for epoch in folder.epochs()[:1]:
        known, values = folder.read(epoch)
        batches, first = _sample(parts, state), int(known.argmax()) // _size(folder.views)
        for images, _, views in batches(epoch, min(first, batches.steps - 1)):
            rows = views.numpy() % folder.views
            there = known[rows] & (views.numpy() >= 0)
            if there.any():
                logits = teacher(images).logits[torch.from_numpy(there).to(images.device)]
                kept = torch.from_numpy(values[rows[there]]).to(images.device)
                check_answers(folder.path, folder.answers, kept, logits, teacher.precision)
            break


def _sample(parts: Parts, state: PartialState) -> DeviceBatches:
    return sample_batches(parts, state, _size(epoch_order(parts, 0, 1)[0].views_per_epoch))


def _size(views: int) -> int:
    return min(SAMPLE, views // 2 * 2)

"""The manifest of a set: a part is recorded for each group, and all parts are merged."""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from torch import Tensor

from synth.classifier import Classifier, normalise
from synth.contact_sheet import contact_sheet
from synth.groups import Group
from synth.image_files import pixel_hash
from synth.priors import l2, total_variation
from synth.quality import confidence_histogram, recognition, within_class_diversity
from synth.stage import Step
from synth.writer import Writer

__all__ = ["SHEET_CLASSES", "SHEET_IMAGES", "group_part", "merge"]

SHEET_CLASSES = 40  # rows of the contact sheet at most
SHEET_IMAGES = 8  # images a class at most


def group_part(
    writer: Writer,
    group: Group,
    terms: dict[str, float],
    steps: Sequence[Step],
    row: int,
    teacher: Classifier,
    verifier: Classifier | None,
) -> dict[str, Any]:
    """The record of a finished group: its terms, verdicts, loss curve and each image's own record.

    The images are read back from disk, so that the record is true of what is stored. ``terms`` are
    those of the whole group without jitter; ``row`` is its place in the batch of ``steps``.
    """
    pixels = writer.read_images(group)
    verdicts = _verdicts(teacher, pixels, group)
    second = None if verifier is None else _verdicts(verifier, pixels, group)
    images = normalise(pixels / 255, teacher.mean, teacher.std)
    roughness, norm = total_variation(images).tolist(), l2(images).tolist()
    shard = writer.shard(group)
    records = [
        {
            "file": name,
            **({} if shard is None else {"shard": shard}),
            "target": group.targets[index],
            "group": group.id,
            "sha256": pixel_hash(pixels[index]),
            "terms": {
                "cross_entropy": verdicts[index]["cross_entropy"],
                "total_variation": roughness[index],
                "l2": norm[index],
            },
            "teacher": verdicts[index],
            "verifier": None if second is None else second[index],
        }
        for index, name in enumerate(writer.image_names(group))
    ]
    return {"group": group.id, "terms": terms, "images": records, "curve": _curve(steps, row)}


def merge(
    writer: Writer,
    groups: Sequence[Group],
    settings: dict[str, Any],
    teacher: Classifier,
    verifier: Classifier | None,
) -> Path:
    """Write the contact sheet, the loss curves and, last, the manifest; return the manifest's path.

    All parts must exist. The content follows from parts and images alone, so that several
    processes may write it at once.
    """
    parts = writer.parts(groups)
    images = [record for part in parts for record in part["images"]]
    targets = sorted({record["target"] for record in images})
    names = teacher.class_names or writer.folders
    sheet = {
        f"{target} {names[target]}": _first_images(writer, groups, target)
        for target in targets[:SHEET_CLASSES]
    }
    writer.write_picture("contact_sheet.png", contact_sheet(sheet))
    curves = {str(part["group"]): part["curve"] for part in parts}
    writer.write_json("loss_curves.json", {"groups": curves})
    quality = _quality(images)
    for role, judge in (("teacher", teacher), ("verifier", verifier)):
        if judge is not None:
            classes = ((target, _class_images(writer, groups, target)) for target in targets)
            quality[role]["diversity"] = within_class_diversity(judge, classes)
    content = settings | {
        "classes": {
            "names": [writer.folders[target] for target in targets],  # the class folders
            "indices": targets,
            "total": teacher.num_classes,
        },
        "class_names": None if teacher.class_names is None else list(teacher.class_names),
        "quality": quality,
        "groups": [{key: part[key] for key in ("group", "terms", "seconds")} for part in parts],
        "images": images,
    }
    return writer.write_json("manifest.json", content)


def _class_images(writer: Writer, groups: Sequence[Group], target: int) -> Iterator[Tensor]:
    """The stored images of a class, group after group: uint8 (images, channels, height, width)."""
    for group in groups:
        if target in group.targets:
            yield writer.read_images(group, target)


def _first_images(writer: Writer, groups: Sequence[Group], target: int) -> list[Tensor]:
    """At most ``SHEET_IMAGES`` images of a class, for the contact sheet."""
    found: list[Tensor] = []
    for images in _class_images(writer, groups, target):
        found += images
        if len(found) >= SHEET_IMAGES:
            break
    return found[:SHEET_IMAGES]


def _verdicts(classifier: Classifier, pixels: Tensor, group: Group) -> list[dict[str, Any]]:
    """What a network predicts for each image, and how it rates the target."""
    probabilities, _ = classifier.judge(pixels)
    probabilities = probabilities.cpu()
    return [
        {
            "prediction": int(row.argmax()),
            "confidence": float(row[target]),  # probability of the target, in [0, 1]
            "cross_entropy": float(-row[target].clamp(min=1e-38).log()),
        }
        for row, target in zip(probabilities, group.targets, strict=True)
    ]


def _quality(images: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """Recognition and confidence over the whole set, for each network that judged it."""
    targets = [record["target"] for record in images]
    quality: dict[str, Any] = {}
    for role in ("teacher", "verifier"):
        verdicts = [record[role] for record in images]
        if verdicts[0] is None:
            continue
        quality[role] = {
            "recognition": recognition([verdict["prediction"] for verdict in verdicts], targets),
            "confidence_histogram": confidence_histogram(
                [verdict["confidence"] for verdict in verdicts]
            ),
        }
    return quality


def _curve(steps: Sequence[Step], row: int) -> list[dict[str, Any]]:
    """The loss curve of the group in that row of the batch: an entry for each step it took."""
    return [
        {
            "stage": step.stage,
            "iteration": step.iteration,
            "resolution": step.resolution,
            "terms": {name: values[row] for name, values in step.terms.items()},
            "grad_norms": step.grad_norms,
        }
        for step in steps
        if (stopped := step.stopped[row]) is None or step.iteration <= stopped
    ]

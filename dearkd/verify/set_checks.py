"""What is verified of a synthetic set: its images, their number, and what its teacher says."""

from collections import Counter
from collections.abc import Iterator
from typing import Any

import numpy as np
import torch

from dearkd.config_file import complete, user_tree
from dearkd.data.datasets import open_data
from dearkd.data.decode import BadImageError
from dearkd.data.sources import ImageSource
from dearkd.data.synthetic_set import CONFIG_FILE, SyntheticSet
from dearkd.errors import MissingFileError, UserError
from dearkd.misfit import misfit
from dearkd.said import counted
from dearkd.shapes import MANIFEST
from dearkd.synthesis.settings import SynthesizeConfig
from dearkd.synthesis.setup import classifier_of, set_teacher
from dearkd.trained.resolve import Resolved, refuse_idle_trust
from dearkd.verify.checks import Check, found, gathered
from synth.classifier import Classifier
from synth.image_files import pixel_hash
from synth.quality import recognition
from synth.refusal import SynthError

__all__ = ["set_checks"]

BATCH = 100
"""Images that the teacher is asked about together."""


def set_checks(item: SyntheticSet, evaluates: bool, trust: bool = False) -> Iterator[Check]:
    """The checks of a finished set; ``evaluates``: its teacher is asked once more.

    Raises:
        UserError: If its manifest cannot be read, or ``trust`` would have no effect.
    """
    fault = item.damage or misfit(item.manifest, MANIFEST)
    if fault is not None:
        raise UserError(
            f"{item.root} has a manifest that dearkd does not write ({fault}); synthesize "
            "again, or restore it from a copy"
        )
    named = _named_teacher(item, trust) if evaluates else None
    yield from gathered("configuration", lambda: _configuration(item))
    source = open_data(str(item.root))[0]
    pixels = _Pixels(item, source)
    yield from gathered("images", lambda: _images(item, source, pixels))
    yield from gathered("classes", lambda: _classes(item, pixels))
    yield from gathered("quality", lambda: _quality(item))
    if named is None:
        yield Check("teacher", "open", "left out by --no-evaluation")
    else:
        yield from gathered("teacher", lambda: _teacher(item, pixels, named))


class _Pixels:
    """The stored pixels of a set's images, by what the opened set calls them."""

    def __init__(self, item: SyntheticSet, source: ImageSource) -> None:
        self.source = source
        self.place = {source.name(index): index for index in range(len(source))}
        self.item = item

    def of(self, name: str) -> torch.Tensor:
        """uint8 pixels (channels, height, width).

        Raises:
            BadImageError: If it cannot be read.
        """
        mode = "L" if len(self.item.manifest["teacher"]["mean"]) == 1 else "RGB"
        array = np.array(self.source.image(self.place[name]).convert(mode))
        return torch.from_numpy(array.reshape(*array.shape[:2], -1)).permute(2, 0, 1)


def _configuration(item: SyntheticSet) -> Check:
    """Whether the settings of the manifest are those of the configuration."""
    file = item.root / CONFIG_FILE
    if not file.is_file():
        return Check("configuration", "open", f"{CONFIG_FILE} is not there: made from Python")
    config = complete(SynthesizeConfig, user_tree(SynthesizeConfig, file, (), None))
    stored = item.manifest["config"]
    faults = [
        f"{name} is {getattr(config, name)} in {CONFIG_FILE} and {stored[name]} in the manifest"
        for name in ("seed", "engine", "per_class")
        if name in stored and getattr(config, name) != stored[name]
    ]
    return found("configuration", faults, f"{CONFIG_FILE} and manifest agree")


def _images(item: SyntheticSet, source: ImageSource, pixels: _Pixels) -> Check:
    """Whether every listed image is there, pixel for pixel, and no other."""
    faults = []
    for image in item.images:
        if image.name not in pixels.place:
            faults.append(f"{image.record['file']} is gone")
            continue
        try:
            same = pixel_hash(pixels.of(image.name)) == image.record["sha256"]
        except BadImageError as error:
            faults.append(str(error))
        else:
            faults += [] if same else [f"{image.record['file']} has other pixels"]
    listed = {image.name for image in item.images}
    strangers = [source.name(index) for index in range(len(source))]
    faults += [f"{name} is not in the manifest" for name in strangers if name not in listed]
    held = f"{counted(len(item.images), 'image')}, pixel for pixel as they were made"
    return found("images", faults, held)


def _classes(item: SyntheticSet, pixels: _Pixels) -> Check:
    """Whether each class has as many images as were asked for."""
    there = (image for image in item.images if image.name in pixels.place)
    counts = Counter(image.record["target"] for image in there)
    wanted, indices = item.manifest["config"]["per_class"], item.manifest["classes"]["indices"]
    faults = [
        f"class {index} has {counted(counts[index], 'image')}, and {wanted} were to be made"
        for index in sorted({*indices, *counts})
        if counts[index] != wanted
    ]
    return found("classes", faults, f"{wanted} images of each of {len(indices)} classes")


def _quality(item: SyntheticSet) -> Check:
    """Whether the shares of the manifest are those of its images' records."""
    targets = [image.record["target"] for image in item.images]
    faults = []
    for role, told in item.manifest["quality"].items():
        own = recognition([_told(image.record, role) for image in item.images], targets)
        share = told["recognition"]["overall"]
        if abs(own["overall"] - share) > 1e-9:
            faults.append(f"{role}: {share:.4f} is told, and the images make {own['overall']:.4f}")
    return found("quality", faults, "the shares that are told are those of the images")


def _named_teacher(item: SyntheticSet, trust: bool) -> Resolved | Exception:
    """The teacher that the configuration names, or why it can't be found.

    Raises:
        UserError: If ``trust`` would have no effect.
    """
    file = item.root / CONFIG_FILE
    if not file.is_file():
        return MissingFileError(f"{CONFIG_FILE}, which names it, is not there")
    try:
        found = set_teacher(file, trust)
    except (UserError, OSError) as error:
        return error
    refuse_idle_trust(trust, found)
    return found


def _teacher(item: SyntheticSet, pixels: _Pixels, named: Resolved | Exception) -> Check:
    """Whether the teacher still says of every image what the manifest has."""
    try:
        if isinstance(named, Exception):
            raise named
        teacher = classifier_of(named)
    except (UserError, SynthError, OSError) as error:
        return Check("teacher", "open", f"it cannot be asked: {' '.join(str(error).split())}")
    if teacher.weights_hash() != item.manifest["teacher"]["weights_sha256"]:
        told = f"{teacher.name} has other weights now than when the images were made"
        return Check("teacher", "fails", told)
    teacher.network.eval()
    images = [image for image in item.images if image.name in pixels.place]
    other: list[dict[str, Any]] = []
    for start in range(0, len(images), BATCH):
        some = images[start : start + BATCH]
        answers = _answers(teacher, [pixels.of(one.name) for one in some])
        pairs = zip(some, answers, strict=True)
        other += [one.record for one, said in pairs if said != _told(one.record, "teacher")]
    faults = [f"it reads {record['file']} otherwise than the manifest says" for record in other]
    return found("teacher", faults, f"{teacher.name} reads every image as it did")


def _told(record: dict[str, Any], role: str) -> int:
    """The class that a network read in an image, by the manifest.

    Raises:
        UserError: If it does not say.
    """
    if record.get(role) is None:
        raise UserError(f"{record['file']} has no verdict of the {role} in the manifest")
    return int(record[role]["prediction"])


def _answers(teacher: Classifier, images: list[torch.Tensor]) -> list[int]:
    """The class that the teacher reads in each image; of other sizes they were changed since."""
    alike = len({image.shape for image in images}) == 1
    batches = [torch.stack(images)] if alike else [image[None] for image in images]
    return [int(answer) for batch in batches for answer in teacher.judge(batch)[0].argmax(1)]

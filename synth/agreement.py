"""The parts of a run, and the settings that its processes agree on (``settings.json``)."""

import dataclasses
import json
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import timm
import torch

from synth.auto_weights import tune_bn_weight
from synth.classifier import Classifier
from synth.groups import Group
from synth.guide import size_for
from synth.kernels import DTYPES, Kernels, build_objective, choose_kernels
from synth.natural import LOOK
from synth.refusal import SynthError
from synth.settings import SynthesisConfig
from synth.stage import MakeImages
from synth.writer import Writer, class_folders

__all__ = ["Run", "agreed_settings"]

CALLERS_FILES = {".tmp", ".yaml"}  # endings of a caller's lock and settings, in a free folder
SETTINGS_TIMEOUT = 4 * 3600.0  # seconds the other processes wait for the first one's decisions


@dataclass(frozen=True, kw_only=True, eq=False)
class Run:
    """The parts of a run: configuration, folder, networks (on ``device``)."""

    config: SynthesisConfig
    out: Path
    teacher: Classifier
    verifier: Classifier | None
    student: Classifier | None
    others: tuple[Classifier, ...] = ()  # further teachers
    device: torch.device

    @property
    def folders(self) -> tuple[str, ...]:
        """The name of each class's folder, by teacher index."""
        return class_folders(self.teacher.class_names, self.teacher.num_classes)

    @property
    def writer(self) -> Writer:
        """The writer of the run's folder."""
        config, names, size = self.config, self.teacher.class_names, self.config.resolutions[-1]
        shape = (len(self.teacher.mean), size, size)
        return Writer(self.out, self.folders, config.image_format, names, shape)


def agreed_settings(
    run: Run,
    batches: tuple[tuple[Group, ...], ...],
    rank: int,
    resume: bool,
    make_images: MakeImages,
) -> dict[str, Any]:
    """The settings of a run: the first process decides and writes them, the others read them.

    ``make_images`` makes the pilot runs that ``auto_weights`` asks for.

    Raises:
        SynthError: If the folder is in use, or holds a run with other settings.
        TimeoutError: If the first process writes no settings for hours.
    """
    wanted = _wanted(run)
    writer = run.writer
    standing = writer.settings() if rank == 0 else _await(writer)
    if standing is None:
        if _in_use(run.out):
            raise SynthError(
                f"{run.out} holds files but no settings.json of a synthesis run; name another "
                "folder"
            )
        return writer.agree(wanted | _decided(run, batches, make_images))
    if rank == 0 and not resume:
        raise SynthError(f"{run.out} already holds a run; resume it, or name another folder")
    if not _says_what_was_decided(standing):
        raise writer.damaged_settings("kernels or bn_weight are not as they were written")
    _compare(wanted, standing, run)
    return standing


def _says_what_was_decided(standing: dict[str, Any]) -> bool:
    """Whether settings from a disk have what :func:`_decided` adds to them."""
    try:
        kernels, weight = Kernels(**standing["kernels"]), standing["bn_weight"]
    except (KeyError, TypeError):
        return False
    known = kernels.precision in DTYPES and isinstance(weight, int | float)
    return known and isinstance(kernels.threads, int) and kernels.threads > 0


def _decided(
    run: Run, batches: tuple[tuple[Group, ...], ...], make_images: MakeImages
) -> dict[str, Any]:
    """Kernels and ``bn_weight``, which the configuration may leave open, and library versions."""
    for teacher in (run.teacher, *run.others):
        teacher.check_last_layer(size_for(teacher, run.teacher, run.config.resolutions[-1]))
    kernels = choose_kernels(run.config, run.teacher, batches, run.device, run.student, run.others)
    objective = build_objective(run.config, run.teacher, kernels, run.student, run.others)
    if run.config.objective.auto_weights:
        tune_bn_weight(make_images, objective, batches[0][:1], run.config, run.device)
    return {
        "kernels": dataclasses.asdict(kernels),
        "bn_weight": objective.bn_weight,
        "versions": {"torch": torch.__version__, "timm": timm.__version__},
    }


def _in_use(out: Path) -> bool:
    """Whether the folder holds files that are neither a lock nor a configuration."""
    if not out.exists():
        return False
    return not out.is_dir() or any(path.suffix not in CALLERS_FILES for path in out.iterdir())


def _wanted(run: Run) -> dict[str, Any]:
    """The part of the settings that the caller decides: configuration and networks."""
    roles = {"teacher": run.teacher, "verifier": run.verifier, "student": run.student}
    described: dict[str, Any] = {
        role: None if classifier is None else _description(classifier)
        for role, classifier in roles.items()
    }
    described["other_teachers"] = [_description(classifier) for classifier in run.others]
    look = LOOK if run.config.engine == "inversion" and run.config.basis == "spectrum" else None
    content = {"version": 1, "config": dataclasses.asdict(run.config), "look": look} | described
    return json.loads(json.dumps(content))  # tuples as lists, as they are read back


def _description(classifier: Classifier) -> dict[str, Any]:
    return {
        "name": classifier.name,
        "weights_sha256": classifier.weights_hash(),
        "mean": classifier.mean,
        "std": classifier.std,
        "img_size": classifier.img_size,
        "num_classes": classifier.num_classes,
    }


def _compare(wanted: dict[str, Any], standing: dict[str, Any], run: Run) -> None:
    """Refuse to go on with a run whose settings or device differ from those wanted now."""
    # What a run from before a setting lacks is that setting's default: new ones are off by default.
    plain: dict[str, Any] = {
        "config": dataclasses.asdict(SynthesisConfig()),
        "other_teachers": [],
        "look": None,
    }
    defaults = json.loads(json.dumps(plain))
    old, new = _flat(defaults) | _flat(standing), _flat(wanted)
    for role in ("verifier", "student"):  # one that is missing now has no keys to compare
        if wanted[role] is None and standing.get(role) is not None:
            old[role] = standing[role]["name"]
    # A network's name is a path, perhaps, and may have moved: its weights say whether it is it.
    changed = sorted(k for k in new if old.get(k) != new[k] and not k.endswith(".name"))
    if changed:
        key = changed[0]
        remedy = "resume with the same settings, or name another folder"
        if key == "look":
            remedy = "images by their spectrum begin otherwise since; name another folder"
        raise SynthError(f"{run.out} was made with {key}={old.get(key)}, got {new[key]}; {remedy}")
    device = standing["kernels"]["device"]
    if device != str(run.device):
        raise SynthError(f"{run.out} was made on {device}, got {run.device}; resume on {device}")


def _flat(tree: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    """Nested dictionaries as one, with dotted keys; a list of them has its length besides."""
    flat: dict[str, Any] = {}
    for key, value in tree.items():
        if isinstance(value, list) and all(isinstance(one, dict) for one in value):
            flat[prefix + key] = len(value)
            value = {str(place): one for place, one in enumerate(value)}
        inner = _flat(value, f"{prefix}{key}.") if isinstance(value, dict) else None
        flat.update(inner if inner is not None else {prefix + key: value})
    return flat


def _await(writer: Writer) -> dict[str, Any]:
    """The settings, as soon as the first process has written them."""
    deadline = time.monotonic() + SETTINGS_TIMEOUT
    while time.monotonic() < deadline:
        standing = writer.settings()
        if standing is not None:
            return standing
        time.sleep(0.2)
    raise TimeoutError(f"{writer.out}: the first process wrote no settings; did it fail?")

"""Finds the trained network that a typed name means and describes it, without loading it.

A door calls :func:`resolve` once and passes the value down; :mod:`dearkd.trained.open` loads it.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from typing import Any, Literal

import timm
from timm.models import split_model_name_tag

from dearkd.data.folders import IMAGE_SUFFIXES
from dearkd.data.splits import from_home
from dearkd.data.synthetic_set import is_set
from dearkd.errors import MissingFileError, UserError, missing_file
from dearkd.misfit import misfit
from dearkd.models.create import check_name
from dearkd.run_folder.files import read_metadata
from dearkd.run_folder.folder import RUN_FILES, RunFolder
from dearkd.shapes import METADATA
from dearkd.trained.imports import import_files
from dearkd.trained.own_run import is_averaged, run_of

__all__ = [
    "ELSEWHERE",
    "EMBEDDED",
    "EMBEDDED_WEIGHTS",
    "WEIGHTS_OPTIONS",
    "Resolved",
    "Which",
    "refuse_idle_trust",
    "resolve",
]

LOOKED = 1000
"""Files of a folder that are looked at, to tell whether it has images."""
EMBEDDED = "digits"
"""Name of the CNN that comes with dearkd; it knows scikit-learn's handwritten digits."""
EMBEDDED_WEIGHTS = Path(__file__).parents[1] / "assets" / "digits_resnet10t.safetensors"
ELSEWHERE = ("hf-hub:", "hf_hub:", "local-dir:")
"""Prefixes of names that timm itself looks up."""
WEIGHTS_OPTIONS = {
    "teacher": "--teacher-weights FILE",
    "verifier": "--verifier-weights FILE",
    "features": "--features-weights FILE",
    "student": "--set student.weights=FILE",
    "model": "--weights FILE",
}
"""The option that gives local weights to the network of each role."""
MODELS_BY_TRUST = set[str]()
"""Models that this process knows by a file that ``--trust`` ran; another process needs it too."""
GRAPHS = {".onnx": "onnx", ".pt2": "torch-export"}

Form = Literal["dearkd", "timm", "timm-folder", "onnx", "torch-export"]
Which = Literal["final", "best", "raw"]


@dataclass(frozen=True, kw_only=True)
class Resolved:
    """A trained network that was found but not loaded, with what its files say of it."""

    text: str
    """The name or path that was typed."""
    role: str
    """What errors call it: teacher, model, verifier, ..."""
    form: Form
    """``dearkd``: weights that dearkd wrote; ``timm``: a name; the others: what an export wrote."""
    architecture: str | None = None
    """timm's name, with the tag of its weights if one was given; None if the file has it."""
    weights: Path | None = None
    """The file to read. None: timm fetches the weights that it knows."""
    metadata: Mapping[str, Any] = field(default_factory=dict)
    """What dearkd wrote beside the weights: classes, image size, mean, std and more."""
    config: Mapping[str, Any] = field(default_factory=dict)
    """``config.yaml`` of the run that the weights lie in, as it stands there."""
    checkpoint: Path | None = None
    """The file with the last weights without averaging, if these were asked for."""
    run: Path | None = None
    """Folder of the run that the weights lie in."""
    used_trust: bool = False
    """Whether its model is known by a file that the run's configuration imports, run by trust."""

    @property
    def img_size(self) -> int | None:
        """Pixels a side that it was trained at, where dearkd trained it."""
        return self.metadata.get("img_size")

    @property
    def saw_mirrored(self) -> bool:
        """Whether it learned from mirrored images too: False only where that is known."""
        if self.text == EMBEDDED:
            return False
        data = self.config.get("data")
        return not (isinstance(data, Mapping) and data.get("flip") is False)


def resolve(
    text: str,
    role: str = "teacher",
    *,
    weights: Path | None = None,
    which: str | None = None,
    trust: bool = False,
    graphs: bool = False,
) -> Resolved:
    """Finds the trained network that ``text`` names and reads what its files say of it.

    ``text`` is ``digits`` (the embedded CNN), a run folder, a weights file that dearkd wrote, a
    timm name, a folder that timm loads, or, where ``graphs`` may serve, an .onnx or .pt2 file.
    ``weights`` are local weights for a timm name; ``which`` of a run's weights are taken: final
    (default), best, or raw, the last without averaging. ``trust`` allows to run code that comes
    with a network: a .pt2 archive, or the Python files that a run's configuration imports.

    Raises:
        UserError: If it is unknown or no network, or an option does not apply to it.
        MissingFileError: If a path does not exist.
    """
    if not text.strip():
        named = role if role in ("model", "run") else f"--{role.removeprefix('--')}"
        raise UserError(f"{named} names nothing, got {text!r}; give a run folder or a timm name")
    path = from_home(text)
    _check_options(text, path, weights, which)
    if path.suffix in GRAPHS:
        return _graph(text, role, path, trust, graphs)
    if text == EMBEDDED:
        return _of_file(text, role, EMBEDDED_WEIGHTS, trust)
    if _is_folder(text, path):
        return _of_folder(text, role, path, which or "final", trust)
    if not text.startswith(ELSEWHERE) and (path.suffix == ".safetensors" or "/" in text):
        return _of_file(text, role, _existing(path, f"{role} {text}"), trust)
    return _of_timm(text, role, weights)


def refuse_idle_trust(trust: bool, *found: Resolved | None) -> None:
    """Refuses ``--trust`` where nothing that was found would run code.

    Raises:
        UserError: Naming the network.
    """
    if trust and not any(one is not None and one.used_trust for one in found):
        names = ", ".join(one.text for one in found if one is not None)
        reason = f"{names} runs no code" if names else "nothing here runs code"
        raise UserError(f"--trust has no effect: {reason}; leave it out")


def _check_options(text: str, path: Path, weights: Path | None, which: str | None) -> None:
    if which is not None and not _is_folder(text, path):
        raise UserError(f"--which {which} is for a run folder, which {text} is not; leave it out")
    if weights is not None and _is_folder(text, path):
        raise UserError(
            f"weights {weights} are for a timm name; {text} is a folder here, leave them out or "
            "name a registered model"
        )
    has_own = path.is_file() or text == EMBEDDED
    if weights is not None and has_own:
        raise UserError(
            f"weights {weights} are for a timm name; {text} has its own, leave them out"
        )


def _is_folder(text: str, path: Path) -> bool:
    """Whether a folder is meant: where it holds no network, a model of the same name is."""
    if not path.is_dir() or not timm.is_model(text):
        return path.is_dir()
    return any((path / name).is_file() for name in ("config.json", "model.safetensors", *RUN_FILES))


def _graph(text: str, role: str, path: Path, trust: bool, graphs: bool) -> Resolved:
    _existing(path, text)
    if not graphs:
        raise UserError(
            f"{role} {text} is an exported graph; pass the run folder it was exported from, or a "
            "timm name (dearkd predict reads graphs)"
        )
    if path.suffix == ".pt2" and not trust:
        raise UserError(
            f"{text} is a torch.export archive, which may run code when it is loaded; pass --trust "
            "if you know where it comes from"
        )
    form: Form = "onnx" if path.suffix == ".onnx" else "torch-export"
    return Resolved(text=text, role=role, form=form, weights=path, used_trust=path.suffix == ".pt2")


def _of_folder(text: str, role: str, path: Path, which: str, trust: bool) -> Resolved:
    folder = RunFolder(path)
    if (path / "config.json").is_file() and not _is_ours(folder.model_file):
        return Resolved(text=text, role=role, form="timm-folder", weights=path)
    if is_set(path):
        raise UserError(
            f"{role} {path} is a set of synthetic images, no network; name a run folder, or a "
            "timm model (what is known of the set: dearkd eval SET --lpips, dearkd report SET)"
        )
    if which not in ("final", "best", "raw"):
        raise UserError(f"--which must be final, best or raw, got {which!r}")
    file = folder.best_file if which == "best" else folder.model_file
    if not file.is_file():
        so_far = which == "final" and folder.best_file.is_file()
        option = "--which best" if role in ("model", "run") else f"name {folder.best_file}"
        remedy = f"; its best weights so far: {option}" if so_far else ""
        raise MissingFileError(
            f"{path} has no {file.relative_to(path)}: the run is not finished, or the folder holds "
            f"none{remedy or _of_images(role, path)}"
        )
    checkpoint = folder.last_file if which == "raw" else None
    return _of_file(text, role, file, trust, checkpoint)


def _of_images(role: str, folder: Path) -> str:
    """What to type where a folder of images was meant, or may have been."""
    if role == "model":
        return "; to measure images add --lpips, --features or --verifier"
    if not any(file.suffix.lower() in IMAGE_SUFFIXES for file in islice(folder.rglob("*"), LOOKED)):
        return ""
    return f"; it has images, which --data takes (a {role} is a run folder or a timm name)"


def _of_file(
    text: str, role: str, file: Path, trust: bool, checkpoint: Path | None = None
) -> Resolved:
    if file.suffix.lower() in IMAGE_SUFFIXES:
        raise UserError(f"{role} {file} is an image; name a run folder, weights or a timm model")
    metadata = _metadata_of(file)
    if "arch" not in metadata:
        remedy = "name a run folder or weights that dearkd wrote"
        if role in WEIGHTS_OPTIONS:
            option = WEIGHTS_OPTIONS[role]
            remedy = f"give its model's timm name instead, and {option} for these weights"
        raise UserError(f"{role} {file} was not written by dearkd; {remedy}")
    _check_metadata(file, metadata)
    name, (run, config) = str(metadata["arch"]), run_of(file)
    if checkpoint is not None and not is_averaged(config):
        raise UserError(
            f"--which raw has no effect: {text} averaged no weights (optim.ema_decay is null), so "
            "its final ones are the plain ones; leave it out"
        )
    unknown = not timm.is_model(split_model_name_tag(name)[0])
    imports = [str(entry) for entry in config.get("imports") or ()] if unknown else []
    if imports and not trust:
        raise UserError(
            f"{text} is a {name}, which is registered by {', '.join(imports)}, a file that its "
            "config.yaml names; pass --import FILE, or --trust to run that file if you know where "
            "it comes from"
        )
    if imports:
        known = set(timm.list_models())
        import_files(imports)
        MODELS_BY_TRUST.update(set(timm.list_models()) - known)
    return Resolved(
        text=text,
        role=role,
        form="dearkd",
        architecture=name,
        weights=file,
        metadata=metadata,
        config=config,
        run=run,
        checkpoint=checkpoint,
        used_trust=bool(imports) or split_model_name_tag(name)[0] in MODELS_BY_TRUST,
    )


def _metadata_of(file: Path) -> dict[str, Any]:
    """What dearkd wrote beside the weights; empty for other programs', as a state dict of torch."""
    try:
        return read_metadata(file)
    except UserError:
        if file.suffix == ".safetensors":
            raise
        return {}


def _of_timm(text: str, role: str, weights: Path | None) -> Resolved:
    if text.startswith(ELSEWHERE) and weights is None:
        return Resolved(text=text, role=role, form="timm", architecture=text)
    check_name(text, role)
    if weights is None:
        return Resolved(text=text, role=role, form="timm", architecture=text)
    if weights.is_dir():
        raise UserError(f"weights {weights} are a folder; name the file in it")
    _existing(weights, f"weights {weights}")
    metadata = read_metadata(weights) if weights.suffix == ".safetensors" else {}
    stored = str(metadata.get("arch", text))
    if split_model_name_tag(stored)[0] != split_model_name_tag(text)[0]:
        raise UserError(f"weights {weights} are of {stored}, not {text}; name that model")
    if "arch" in metadata:
        _check_metadata(weights, metadata)
    return Resolved(
        text=text,
        role=role,
        form="timm",
        architecture=text,
        weights=weights,
        metadata=metadata,
    )


def _check_metadata(file: Path, metadata: Mapping[str, Any]) -> None:
    if (fault := misfit(dict(metadata), METADATA)) is not None:
        raise UserError(f"{file} has damaged metadata ({fault}); fetch it again")


def _is_ours(file: Path) -> bool:
    return file.is_file() and "arch" in read_metadata(file)


def _existing(path: Path, what: str) -> Path:
    if not path.is_file():
        raise missing_file(what, path)
    return path

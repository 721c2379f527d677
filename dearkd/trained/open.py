"""Trained classifiers by name: timm's with the hub's or local weights, a run folder, or ``digits``.

Nothing here returns a network with random weights, and no code in a weights file is run. Of a run
folder the Python files are run that its ``config.yaml`` imports, if they are needed.
"""

import warnings
from pathlib import Path
from pickle import UnpicklingError
from typing import Any

import huggingface_hub
import timm
import torch
from omegaconf import DictConfig, OmegaConf
from timm.data.imagenet_info import ImageNetInfo, infer_imagenet_subset
from timm.models import load_state_dict, split_model_name_tag
from torch import Tensor, nn

import dearkd
from dearkd.models.create import check_name, create_model, import_files, size_argument
from dearkd.run_folder.files import load_weights, read_metadata
from dearkd.trained.hub import is_cached, is_reachable

__all__ = [
    "EMBEDDED",
    "EMBEDDED_WEIGHTS",
    "check_name",
    "load_classifier",
    "load_run",
    "read_state",
    "run_file",
    "teacher_class_names",
]

EMBEDDED = "digits"
"""Name of the CNN that comes with dearkd; it knows scikit-learn's handwritten digits."""
EMBEDDED_WEIGHTS = Path(dearkd.__file__).parent / "assets" / "digits_resnet10t.safetensors"
_ELSEWHERE = ("hf-hub:", "hf_hub:", "local-dir:")
_REMEDY = "pass local weights (--teacher-weights FILE; of eval, --weights FILE)"
_REMEDIES = {
    "--init": "pass the folder of a finished run instead",
    "features": "pass local weights by --features-weights FILE",
    "verifier": "pass local weights by --verifier-weights FILE",
    "student": "pass local weights by --set student.weights=FILE",
}
"""What to do about weights out of reach, by role; ``_REMEDY`` for the others."""

State = dict[str, Tensor]


def load_classifier(
    name: str, *, weights: Path | None = None, role: str = "teacher"
) -> tuple[nn.Module, tuple[str, ...] | None]:
    """A trained classifier in eval mode, and its class names where they are known.

    ``name`` is a timm name, a run folder, a ``.safetensors`` file that dearkd wrote, or ``digits``.
    ``weights`` is a local state dict for a timm name, ``.safetensors`` or ``.pth``; its classifier
    sets the number of classes. The model's ``pretrained_cfg`` has its mean, std and input size.
    Errors call it ``role``.

    Raises:
        ValueError: Unknown name, weights of another model, weights with code in them, or no
            weights within reach.
        FileNotFoundError: A path that does not exist.
    """
    file = run_file(name, role)
    if file is not None:
        if weights is not None:
            raise ValueError(f"{name} has its own weights; leave {weights} out")
        model, metadata = load_run(file)
        names = _class_names(metadata)
    elif weights is not None:
        model, names = _with_local_weights(name, weights, role)
    else:
        model = _pretrained(name, role)
        names = teacher_class_names(model)
    return model.eval(), names


def teacher_class_names(model: nn.Module) -> tuple[str, ...] | None:
    """Names of the classes by index: the model's own label names, or ImageNet's synsets.

    None where neither is known. A timm model is taken for one of ImageNet if it has the number of
    classes of ImageNet-1k, -12k or -21k.
    """
    cfg: Any = getattr(model, "pretrained_cfg", None)
    if not cfg:
        return None
    if cfg.get("label_names"):
        return tuple(cfg["label_names"])
    subset = infer_imagenet_subset(model)
    if subset is None:
        return None
    info: Any = ImageNetInfo(subset)  # type: ignore[no-untyped-call, unused-ignore]
    return tuple(info.label_names())


def load_run(file: Path, state: State | None = None) -> tuple[nn.Module, dict[str, Any]]:
    """The model of a weights file that dearkd wrote, and its metadata (classes, sizes, mean, std).

    ``state`` takes the place of the file's own weights.

    Raises:
        ValueError: If dearkd did not write it, or the weights do not fit.
    """
    metadata = read_metadata(file)
    if "arch" not in metadata:
        raise ValueError(
            f"{file} was not written by dearkd; give its model's timm name instead, and {_REMEDY}"
        )
    name = metadata["arch"]
    if not timm.is_model(split_model_name_tag(name)[0]):
        import_files(_imports_beside(file))
    model = _empty(name, metadata["num_classes"], metadata.get("img_size"), "model")
    _describe(model, metadata)
    return _filled(model, name, load_weights(file) if state is None else state, file), metadata


def run_file(name: str, role: str = "teacher") -> Path | None:
    """The weights file of a run folder, a ``.safetensors`` name or ``digits``; None: of timm."""
    if name == EMBEDDED:
        return EMBEDDED_WEIGHTS
    path = Path(name)
    if path.is_dir():
        file = path / "model.safetensors"
        if not file.is_file() and (path / "synthesize.yaml").is_file():
            raise ValueError(
                f"{role} {path} is a set of synthetic images, no network; name a run folder, or a "
                "timm model (what is known of the set: dearkd eval SET --lpips, dearkd report SET)"
            )
        if not file.is_file():
            raise FileNotFoundError(f"{path} has no model.safetensors; is that run complete?")
        return file
    if name.startswith(_ELSEWHERE):
        return None
    if path.suffix == ".safetensors" or "/" in name:
        if not path.is_file():
            raise FileNotFoundError(f"{role} {name} does not exist; check the path")
        return path
    return None


def read_state(file: Path) -> State:
    """The state dict of a file, out of the wrappers that training scripts put around it.

    Raises:
        ValueError: If the file is damaged, holds more than tensors, or is no state dict.
    """
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", UserWarning)  # odd pickles: an error comes too
            state = load_state_dict(str(file), weights_only=True)
    except Exception as error:  # what a damaged file raises depends on where it is damaged
        if isinstance(error, UnpicklingError) or isinstance(error.__cause__, UnpicklingError):
            raise ValueError(
                f"weights {file} are refused: they hold more than tensors, which may run code when "
                "loaded, or are damaged; save the state dict alone, best as safetensors"
            ) from error
        reason = str(error).splitlines()[0][:160] if str(error) else type(error).__name__
        raise ValueError(
            f"weights {file} are damaged or none ({reason}); fetch them again"
        ) from error
    if not state or not all(isinstance(value, Tensor) for value in state.values()):
        raise ValueError(
            f"weights {file} are no state dict (names to tensors); save "
            "model.state_dict(), best as safetensors"
        )
    return state


def _imports_beside(file: Path) -> list[str]:
    """Python files that the run of a weights file imports (``best.safetensors`` is one deeper)."""
    for config in (file.parent / "config.yaml", file.parent.parent / "config.yaml"):
        if config.is_file():
            tree = OmegaConf.load(config)
            return list(tree.get("imports") or ()) if isinstance(tree, DictConfig) else []
    return []


def _with_local_weights(
    name: str, file: Path, role: str
) -> tuple[nn.Module, tuple[str, ...] | None]:
    check_name(name, role)
    if file.is_dir():
        raise ValueError(f"weights {file} are a folder; name the file in it")
    if not file.is_file():
        raise FileNotFoundError(f"weights {file} do not exist; check the path")
    metadata = read_metadata(file) if file.suffix == ".safetensors" else {}
    architecture = split_model_name_tag(name)[0]
    if metadata.get("arch", architecture) != architecture:
        raise ValueError(f"weights {file} are of {metadata['arch']}, not {name}; name that model")
    state = read_state(file)
    model = _empty(architecture, _count_classes(name, state), metadata.get("img_size"), role)
    model = _filled(model, name, state, file)
    if not metadata:
        return model, teacher_class_names(model)
    _describe(model, metadata)
    return model, _class_names(metadata)


def _empty(name: str, num_classes: int | None, img_size: int | None, role: str) -> nn.Module:
    """The model with the given classes, still to be filled with weights."""
    check_name(name, role)
    size = size_argument(name, img_size, role)
    model = create_model(name, role, num_classes=num_classes, **size)
    if img_size is not None:
        model.pretrained_cfg = {**model.pretrained_cfg, "input_size": (3, img_size, img_size)}
    return model


def _filled(model: nn.Module, name: str, state: State, file: Path) -> nn.Module:
    """The model with the weights, every one of which must fit."""
    own = {key: tuple(value.shape) for key, value in model.state_dict().items()}
    given = {key: tuple(value.shape) for key, value in state.items()}
    for key, shape in own.items():
        if key in given and given[key] != shape:
            raise ValueError(
                f"{file} does not fit {name}: {key} is {given[key]} there and {shape} in {name}; "
                "name the model these weights are of"
            )
    missing = [k for k in own if k not in given and not k.endswith("num_batches_tracked")]
    surplus = [key for key in given if key not in own]
    if missing or surplus:
        key = missing[0] if missing else surplus[0]
        what = f"lacks {key} {own[key]}" if missing else f"has {key} {given[key]} besides"
        raise ValueError(
            f"{file} does not fit {name}: it {what}; name the model these weights are of"
        )
    broken = [key for key in own if key in given and not torch.isfinite(state[key]).all()]
    if broken:
        raise ValueError(
            f"{file} holds values that are no numbers (NaN or infinite) in {broken[0]}; "
            "train or fetch it again"
        )
    model.load_state_dict(state, strict=False)  # all but BatchNorm's counters is there: see above
    return model


def _describe(model: Any, metadata: dict[str, Any]) -> None:
    """Puts the normalisation and the class names of the metadata into ``pretrained_cfg``."""
    known = {key: tuple(metadata[key]) for key in ("mean", "std") if metadata.get(key)}
    known |= {k: metadata[k] for k in ("interpolation", "crop_pct") if metadata.get(k)}
    names = metadata.get("class_names")
    model.pretrained_cfg = {**model.pretrained_cfg, **known, "label_names": names}


def _class_names(metadata: dict[str, Any]) -> tuple[str, ...] | None:
    names = metadata.get("class_names")
    return tuple(names) if names else None


def _count_classes(name: str, state: State) -> int | None:
    """Rows of the classifier in a state dict; None if it is not where timm puts it."""
    cfg = timm.get_pretrained_cfg(name)
    classifier = cfg.classifier if cfg is not None else None
    if isinstance(classifier, tuple | list):
        classifier = classifier[0]
    weight = state.get(f"{classifier}.weight")
    return None if weight is None else weight.shape[0]


def _pretrained(name: str, role: str) -> nn.Module:
    """The timm model with the weights that timm knows for it."""
    if not name.startswith(_ELSEWHERE):
        check_name(name, role)
        _check_reachable(name, role)
    try:
        return timm.create_model(name, pretrained=True)
    except Exception as error:  # the hub client, urllib and timm raise many kinds
        reason = str(error).splitlines()[0][:160] if str(error) else type(error).__name__
        remedy = _REMEDIES.get(role, _REMEDY)
        raise ValueError(f"no weights for {role} {name!r} ({reason}); {remedy}") from error


def _check_reachable(name: str, role: str) -> None:
    """Refuses a model without published weights, and at once what a hub out of reach has."""
    cfg, remedy = timm.get_pretrained_cfg(name), _REMEDIES.get(role, _REMEDY)
    if cfg is None or not cfg.has_weights:
        raise ValueError(
            f"{role} {name!r} has no published weights; {remedy}, or train it with "
            f"`dearkd teacher {name}` and pass the run folder"
        )
    repo = cfg.hf_hub_id
    if not repo or cfg.file or is_cached(repo) or is_reachable(huggingface_hub.constants.ENDPOINT):
        return
    raise ValueError(
        f"no weights for {role} {name!r} within reach: they are not cached and "
        f"the hub does not answer; {remedy}"
    )

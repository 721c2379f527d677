"""Loads a resolved network: a run's, timm's with published or local weights, or an exported one.

Nothing here returns a network with random weights, and no code in a weights file is run.
"""

from pathlib import Path
from typing import Any

import huggingface_hub
import timm
from timm.data.imagenet_info import ImageNetInfo, infer_imagenet_subset
from timm.models import split_model_name_tag
from torch import nn

from dearkd.errors import UserError, one_line
from dearkd.models.cost import LAYOUTS
from dearkd.models.create import (
    check_answer,
    check_colours,
    check_name,
    create_model,
    size_argument,
)
from dearkd.models.heads import HEADS, bare_heads, mark_heads, settle_heads
from dearkd.run_folder.files import load_weights, raw_student
from dearkd.trained.exported import open_onnx, open_timm, open_torch_export
from dearkd.trained.hub import is_cached, is_reachable
from dearkd.trained.resolve import ELSEWHERE, WEIGHTS_OPTIONS, Resolved
from dearkd.trained.trained import VIEW, Trained, described
from dearkd.trained.weights import State, filled, read_state

__all__ = ["class_names_of", "open_trained"]


def open_trained(found: Resolved, *, any_channels: bool = False) -> Trained:
    """The network in eval mode on the CPU, with all that is needed to use it.

    ``any_channels``: it may be one of grey images.

    Raises:
        UserError: If its weights do not fit, are damaged or cannot be fetched, or it takes no
            colour images.
        UnusableImportError: If it takes packages that are not installed.
    """
    trained = _opened(found)
    if not any_channels and trained.view["mean"] is not None:
        check_colours(f"{found.role} {found.text}", len(trained.view["mean"]))
    return trained


def class_names_of(network: nn.Module) -> tuple[str, ...] | None:
    """Names of the classes by index: the network's own label names, or ImageNet's synsets.

    None where neither is known. A timm model is taken for one of ImageNet if it has the number of
    classes of ImageNet-1k, -12k or -21k.
    """
    cfg: Any = getattr(network, "pretrained_cfg", None)
    if not cfg:
        return None
    if cfg.get("label_names"):
        return tuple(cfg["label_names"])
    subset = infer_imagenet_subset(network)
    if subset is None:
        return None
    info: Any = ImageNetInfo(subset)  # type: ignore[no-untyped-call, unused-ignore]
    return tuple(info.label_names())


def _opened(found: Resolved) -> Trained:
    match found.form:
        case "dearkd":
            return _of_run(found)
        case "timm":
            return _of_timm(found)
        case "timm-folder":
            return open_timm(_file(found))
        case "onnx":
            return open_onnx(_file(found))
        case "torch-export":
            return open_torch_export(_file(found))


def _of_run(found: Resolved) -> Trained:
    file, name = _file(found), found.architecture
    assert name is not None
    metadata = found.metadata
    network = _built(found, metadata["num_classes"], metadata.get("img_size"))
    state = load_weights(file) if found.checkpoint is None else raw_student(found.checkpoint)
    return _trained(found, _by_trained_heads(filled(network, name, state, file), found))


def _of_timm(found: Resolved) -> Trained:
    if found.weights is None:
        return _trained(found, _published(found))
    name = found.architecture
    assert name is not None
    state = read_state(found.weights)
    network = _built(found, _count_classes(name, state), found.img_size)
    return _trained(found, _by_trained_heads(filled(network, name, state, found.weights), found))


def _by_trained_heads(network: nn.Module, found: Resolved) -> nn.Module:
    """The network, answering by the heads that were trained.

    Weights are saved so that they do. Those of a checkpoint are not, nor are those of older
    versions, which did not keep what was trained: there an untrained head shows by its bias.
    """
    heads, scales = found.metadata.get("heads"), found.metadata.get("head_scales") or {}
    settled = found.checkpoint is None and (heads or scales)
    if settled or not found.metadata:
        mark_heads(network, heads or ())
        return network
    if not heads and len(bare := bare_heads(network)) == 1:
        heads = [name for name in HEADS if name not in bare]
    settle_heads(network, heads or (), scales)
    return network


def _built(found: Resolved, num_classes: int | None, img_size: int | None) -> nn.Module:
    """The network with the given classes and image size, still to be filled with weights.

    A tag that was typed says how weights see an image. One that dearkd stored has been resolved:
    the metadata have all of it, and timm may have dropped the tag since.
    """
    name = found.architecture
    assert name is not None
    if found.form == "dearkd":
        name = split_model_name_tag(name)[0]
    arguments = {**size_argument(name, img_size, found.role), **found.metadata.get("args", {})}
    network = create_model(name, found.role, num_classes=num_classes, **arguments)
    if img_size is not None:
        network.pretrained_cfg = {**network.pretrained_cfg, "input_size": (3, img_size, img_size)}
    _describe(network, found)
    return network


def _describe(network: Any, found: Resolved) -> None:
    """Puts what dearkd wrote beside the weights into ``pretrained_cfg``, where timm looks."""
    if not found.metadata:
        return
    metadata = found.metadata
    known = {key: tuple(metadata[key]) for key in ("mean", "std") if metadata.get(key)}
    known |= {key: metadata[key] for key in ("interpolation", "crop_pct") if metadata.get(key)}
    known["crop_mode"] = metadata.get("crop_mode") or VIEW["crop_mode"]  # timm's may be another
    names = {"label_names": metadata.get("class_names")}
    network.pretrained_cfg = {**network.pretrained_cfg, **known, **names}


def _trained(found: Resolved, network: Any) -> Trained:
    cfg = network.pretrained_cfg
    _check_at_own_size(network, found)
    names = found.metadata.get("class_names") if found.metadata else class_names_of(network)
    description = {
        **cfg,
        "num_classes": network.num_classes,
        "class_names": names,
        "img_size": cfg["input_size"][-1],
        "args": found.metadata.get("args"),
        "heads": getattr(network, "answering_heads", ()),
        "head_scales": found.metadata.get("head_scales"),
    }
    arithmetic = {
        key: str(found.config[key])
        for key in ("precision", "memory_format")
        if found.config.get(key) not in (None, "auto")
    }
    if (layout := arithmetic.get("memory_format", "contiguous")) not in LAYOUTS:
        raise UserError(
            f"memory_format must be {' or '.join(LAYOUTS)}, got {layout!r} in the config.yaml of "
            f"{found.text}; restore that"
        )
    architecture = str(found.architecture)
    return described(found.text, network, architecture, description, **arithmetic)


def _check_at_own_size(network: Any, found: Resolved) -> None:
    cfg, name = network.pretrained_cfg, str(found.architecture)
    size = cfg["input_size"][-1]
    try:
        check_answer(network.eval(), name, size)
    except (RuntimeError, AssertionError) as error:
        raise UserError(
            f"{found.role} {name} cannot take an image of {len(cfg['mean'])} x {size} x {size} "
            f"({one_line(error)}); give its default_cfg the input_size, mean and std that it takes"
        ) from error


def _count_classes(name: str, state: State) -> int | None:
    """Rows of the classifier in a state dict; None if it is not where timm puts it."""
    cfg = timm.get_pretrained_cfg(name)
    classifier = cfg.classifier if cfg is not None else None
    if isinstance(classifier, tuple | list):
        classifier = classifier[0]
    weight = state.get(f"{classifier}.weight")
    return None if weight is None else weight.shape[0]


def _published(found: Resolved) -> nn.Module:
    """The timm model with the weights that timm knows for it."""
    name, role = found.text, found.role
    remedy = _remedy(role)
    if not name.startswith(ELSEWHERE):
        _check_reachable(name, role, remedy)
    try:
        return timm.create_model(name, pretrained=True)
    except Exception as error:  # the hub client, urllib and timm raise many kinds
        reason = one_line(error)
        raise UserError(f"no weights for {role} {name!r} ({reason}); {remedy}") from error


def _check_reachable(name: str, role: str, remedy: str) -> None:
    """Refuses a model without published weights, or with weights on a hub that does not answer."""
    check_name(name, role)
    cfg = timm.get_pretrained_cfg(name)
    if cfg is None or not cfg.has_weights:
        raise UserError(
            f"{role} {name!r} has no published weights; {remedy}, or train it with "
            f"`dearkd teacher {name}` and pass the run folder"
        )
    repo = cfg.hf_hub_id
    if not repo or cfg.file or is_cached(repo) or is_reachable(huggingface_hub.constants.ENDPOINT):
        return
    raise UserError(
        f"no weights for {role} {name!r} within reach: they are not cached and "
        f"the hub does not answer; {remedy}"
    )


def _remedy(role: str) -> str:
    if role == "--init":
        return "pass the folder of a finished run instead"
    return f"pass local weights ({WEIGHTS_OPTIONS.get(role, '--weights FILE')})"


def _file(found: Resolved) -> Path:
    assert found.weights is not None
    return found.weights

"""Creates models by timm name with fresh weights, and checks that they can be used."""

import difflib
import warnings
from typing import Any

import timm
import torch
from timm.models import split_model_name_tag
from torch import Tensor, nn

from dearkd.errors import UserError, one_line

__all__ = [
    "check_answer",
    "check_colours",
    "check_name",
    "create_model",
    "model_cfg",
    "model_name",
    "size_argument",
]


def check_name(name: str, role: str = "teacher") -> None:
    """Checks that timm has this model, and the weights tag if one is given.

    Raises:
        UserError: If not; names the nearest ones.
    """
    architecture, tag = split_model_name_tag(name)
    if not timm.is_model(architecture):
        hint = _hint(architecture, role)
        raise UserError(
            f"unknown {role} {name!r}; {hint} (your own model: register it with timm in a file, "
            "and pass --import FILE or, in Python, import it first)"
        )
    tags = [split_model_name_tag(n)[1] for n in timm.list_pretrained(f"{architecture}.*")]
    if tag and tag not in tags:
        raise UserError(
            f"{role} {architecture!r} has no weights {tag!r}; known: {', '.join(tags) or 'none'}"
        )


def _hint(architecture: str, role: str) -> str:
    """A hint at names that begin or are spelled alike, or else at the names made for this role."""
    known = timm.list_models()
    near = [name for name in known if architecture and name.startswith(architecture)][:2]
    near = near or difflib.get_close_matches(architecture, known, n=2, cutoff=0.5)
    if near:
        return f"did you mean {' or '.join(map(repr, near))}?"
    made = timm.list_models("dearkd_*_patch*", exclude_filters="*_mhsa_*")
    return f"there are {', '.join(made)}" if role == "student" else "see timm.list_models()"


def check_colours(name: str, channels: int) -> None:
    """Refuses a network of other images than colour ones, which all data are read as.

    Raises:
        UserError: Naming its channels.
    """
    if channels != 3:
        raise UserError(
            f"{name} takes images of {channels} channel{'s' if channels > 1 else ''}, and is given "
            "3 here (dearkd synthesize alone takes others); let it take 3, and name 3 of them in "
            "the input_size, mean and std of its default_cfg"
        )


@torch.no_grad()
def check_answer(network: Any, name: str, size: int) -> None:
    """Runs a blank image of ``size`` pixels a side through a network that timm made.

    Raises:
        UserError: If the network returns anything but a tensor.
        RuntimeError: If it can't take the image.
    """
    blank = torch.zeros(1, len(network.pretrained_cfg["mean"]), size, size)
    was_training = network.training
    answer = network.eval()(blank)
    network.train(was_training)
    if not isinstance(answer, Tensor):
        raise UserError(
            f"{name}'s forward returns a {type(answer).__name__}; let it return the logits alone, "
            "(images, classes)"
        )


def model_cfg(name: str, role: str = "model") -> dict[str, Any]:
    """Timm's configuration of a model before it is built, with input size, mean and std.

    Raises:
        UserError: If timm has no such model, or it was registered without them.
    """
    check_name(name, role)
    cfg: Any = timm.get_pretrained_cfg(name)
    known = {} if cfg is None else cfg.to_dict()
    missing = [key for key in ("input_size", "mean", "std") if not known.get(key)]
    if missing:
        raise UserError(
            f"{role} {name!r} is registered without {', '.join(missing)}; give it a default_cfg "
            'that has them (README, "A CNN of your own")'
        )
    return known


def size_argument(name: str, img_size: int | None, role: str = "model") -> dict[str, int]:
    """The argument ``img_size`` for a model that is built for one size; a CNN needs none."""
    fixed = img_size is not None and model_cfg(name, role).get("fixed_input_size")
    return {"img_size": img_size} if fixed and img_size is not None else {}


def create_model(name: str, role: str, **kwargs: Any) -> Any:
    """A new timm model of that name, with fresh weights and a ``pretrained_cfg``.

    Raises:
        UserError: If timm has no such model, it does not take the given size, or it lacks what
            every classifier here must have.
    """
    cfg = model_cfg(name, role)
    given = {key: value for key, value in kwargs.items() if value is not None}
    try:
        with warnings.catch_warnings():
            # An image smaller than a patch leaves empty tensors; refused below.
            warnings.filterwarnings("ignore", "Initializing zero-element tensors")
            model: Any = timm.create_model(name, **given)
    except (
        ArithmeticError,
        AssertionError,
        AttributeError,
        LookupError,
        RuntimeError,
        TypeError,
        ValueError,
    ) as error:
        reason = one_line(error)
        raise UserError(f"{role} {name!r} cannot be built with {given}: {reason}") from error
    if not getattr(model, "pretrained_cfg", None):
        model.pretrained_cfg = cfg
    _check_classes(model, name, role, given.get("num_classes"))
    if "img_size" in given:
        _check_patches(model, name, role, given["img_size"])
    return model


def _check_classes(model: Any, name: str, role: str, wanted: int | None) -> None:
    count = getattr(model, "num_classes", None)
    if not isinstance(count, int) or (wanted is not None and count != wanted):
        raise UserError(
            f"{role} {name!r} must take num_classes and keep it as an attribute, got {count} "
            f"instead of {'a number' if wanted is None else wanted}"
        )


def _check_patches(model: Any, name: str, role: str, img_size: int) -> None:
    """Refuses an image whose side is not a whole number of patches, at least one."""
    patch = getattr(getattr(model, "patch_embed", None), "patch_size", None)
    if patch is None:
        return
    side = max(patch) if isinstance(patch, tuple | list) else int(patch)
    if img_size < side or img_size % side:
        near = max(side, img_size // side * side)
        raise UserError(
            f"image size {img_size} is not a multiple of the {side}-px patch of {role} {name!r}; "
            f"use {near} or {near + side}"
        )


def model_name(student: nn.Module) -> str:
    """The student's name in timm, or else the name of its class."""
    cfg: Any = getattr(student, "pretrained_cfg", None)
    architecture = cfg.get("architecture") if cfg else None
    return architecture or type(student).__name__

"""From YAML, options and ``a.b=c`` settings to any of the configuration dataclasses."""

import dataclasses
import difflib
from collections.abc import Sequence
from pathlib import Path
from typing import Any, TypeVar

from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import ConfigKeyError, OmegaConfBaseException
from yaml import YAMLError  # type: ignore[import-untyped, unused-ignore]

__all__ = ["complete", "to_yaml", "user_tree"]

C = TypeVar("C")


def user_tree(
    kind: type,
    path: Path | None,
    settings: Sequence[str],
    options: dict[str, Any] | None,
) -> DictConfig:
    """What the user gave and no more: the file, over it options, over them settings.

    Raises:
        ValueError: A key that ``kind`` does not have (with the nearest that it has), or a value
            of another type.
        FileNotFoundError: If ``path`` does not exist.
    """
    if path is not None and not path.is_file():
        raise FileNotFoundError(f"config {path} does not exist; configs/ has examples")
    for setting in settings:
        if "=" not in setting:
            raise ValueError(f"--set wants key=value, got {setting!r}")
    try:
        layers = [] if path is None else [_read(path)]
        layers += [_nested(options or {}), OmegaConf.from_dotlist(list(settings))]
        OmegaConf.merge(OmegaConf.structured(kind), *layers)  # for its checks
        given = OmegaConf.merge(*layers)
    except OmegaConfBaseException as error:
        raise ValueError(_one_line(error, kind)) from error
    except YAMLError as error:
        reason = " ".join(str(error).split())
        raise ValueError(f"--set {' '.join(settings)} is not YAML ({reason[:160]})") from error
    assert isinstance(given, DictConfig)
    return given


def complete(kind: type[C], *layers: DictConfig | dict[str, Any]) -> C:
    """The dataclass with its defaults, over them the layers, the last one on top.

    Raises:
        ValueError: Unknown key, wrong type or value out of range.
    """
    try:
        config = OmegaConf.to_object(OmegaConf.merge(OmegaConf.structured(kind), *layers))
    except OmegaConfBaseException as error:
        raise ValueError(_one_line(error, kind)) from error
    assert isinstance(config, kind)
    return config


def to_yaml(config: Any) -> str:
    """The resolved configuration as YAML that is read back unchanged."""
    return OmegaConf.to_yaml(OmegaConf.create(dataclasses.asdict(config)))


def _read(path: Path) -> DictConfig:
    try:
        tree = OmegaConf.load(path)
    except (YAMLError, UnicodeDecodeError) as error:
        reason = " ".join(str(error).split())
        raise ValueError(f"config {path} is not YAML ({reason[:160]})") from error
    if not isinstance(tree, DictConfig):
        raise ValueError(f"config {path} holds a list; write KEY: VALUE lines, as in configs/")
    return tree


def _nested(options: dict[str, Any]) -> DictConfig:
    """Options with dotted names, those that were not given left out, as a config tree."""
    tree = OmegaConf.create({})
    for key, value in options.items():
        if value is not None:
            OmegaConf.update(tree, key, value)
    return tree


def _one_line(error: OmegaConfBaseException, kind: type) -> str:
    message = str(error).splitlines()[0]
    if isinstance(error, ConfigKeyError):
        key = str(error.full_key or error.key)
        known = _known_keys(kind)
        leaves = {name.rpartition(".")[2]: name for name in reversed(known)}
        near = difflib.get_close_matches(key, known, n=1) or [
            leaves[leaf] for leaf in difflib.get_close_matches(key.rpartition(".")[2], leaves, n=1)
        ]
        hint = f"did you mean {near[0]!r}?" if near else f"known: {', '.join(known)}"
        return f"unknown config key {key!r}; {hint}"
    return f"{error.full_key}: {message}" if error.full_key else message


def _known_keys(owner: type, prefix: str = "") -> list[str]:
    """Dotted names of all fields, depth first."""
    names = []
    for item in dataclasses.fields(owner):
        if isinstance(item.type, type) and dataclasses.is_dataclass(item.type):
            names += _known_keys(item.type, f"{prefix}{item.name}.")
        else:
            names.append(prefix + item.name)
    return names

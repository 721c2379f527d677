"""Paths from the root: with them a run can be judged and resumed from any folder."""

import dataclasses
import os
from typing import Any

from omegaconf import DictConfig, ListConfig

from dearkd.config import TrainConfig
from dearkd.data.hosted import PREFIXES
from dearkd.data.opening import SHARDS
from dearkd.data.settings import DIGITS
from dearkd.data.splits import is_pattern
from dearkd.trained.resolve import EMBEDDED

__all__ = ["from_root", "rooted", "with_rooted_paths"]


def with_rooted_paths(config: TrainConfig) -> TrainConfig:
    """The configuration with every path absolute."""
    return dataclasses.replace(
        config,
        data=dataclasses.replace(
            config.data,
            train=_absolute(config.data.train),
            evaluation=_absolute(config.data.evaluation),
        ),
        teacher=dataclasses.replace(
            config.teacher,
            name=_absolute(config.teacher.name),
            weights=_absolute(config.teacher.weights),
        ),
        init=_absolute(config.init),
        cache_labels=None if config.cache_labels is None else from_root(config.cache_labels),
        imports=tuple(map(_absolute, config.imports)),
    )


def rooted(value: Any) -> Any:
    """A setting's value as a run folder has it: paths that exist from the root."""
    if isinstance(value, str):
        return _absolute(value)
    if isinstance(value, DictConfig):
        return {key: rooted(each) for key, each in value.items()}
    return [rooted(each) for each in value] if isinstance(value, ListConfig) else value


def from_root(path: str) -> str:
    """A path from the root, whether it exists or not."""
    return os.path.abspath(os.path.expanduser(path))  # noqa: PTH100, PTH111


def _absolute(text: Any) -> Any:
    """A path that exists, from the root; anything else as it is."""
    if text is None or text in (DIGITS, EMBEDDED) or text.lower().startswith(PREFIXES):
        return text
    path = os.path.expanduser(text)  # noqa: PTH111 - may hold no path at all
    if os.path.exists(path) or is_pattern(path):  # noqa: PTH110
        return from_root(text)
    if text.lower().startswith(SHARDS):
        return text[: len(SHARDS)] + _absolute(text[len(SHARDS) :])
    return text

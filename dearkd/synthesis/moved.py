"""Where the networks of a set lie: kept from the root, and compared when the set goes on."""

import dataclasses
from pathlib import Path
from typing import Any

from omegaconf import DictConfig

from dearkd.data.synthetic_set import CONFIG_FILE, SETTINGS_FILE
from dearkd.run_folder.going_on import check_stored, leave_former_weights
from dearkd.synthesis.class_selection import is_range
from dearkd.synthesis.settings import NetworkConfig, SynthesizeConfig
from dearkd.training.paths import rooted

__all__ = ["NEW", "moved_settings", "with_rooted_paths"]

NEW = "--teacher NEW (or --teacher-weights, --verifier, --verifier-weights, --student NEW)"
"""The options that name the new place of a network."""
ROLES = ("teacher", "verifier", "student")
MOVABLE = (
    *(f"{role}.{part}" for role in ROLES for part in ("name", "weights")),
    *("other_teachers", "select", "imports"),
)
"""Settings that a set may have otherwise when it goes on: networks are known by their weights."""


def moved_settings(folder: Path, given: DictConfig, *, go_on: bool) -> dict[str, Any]:
    """The settings that say where networks of a begun set lie now, where that is told anew.

    Whether they are the same networks is compared with what the set has agreed on, which a set that
    was stopped before that has not. ``go_on``: the whole command was typed again.

    Raises:
        UserError: If other settings differ from those stored, naming each and both values.
    """
    may_move = (folder / SETTINGS_FILE).is_file()
    moved = check_stored(
        SynthesizeConfig,
        folder / CONFIG_FILE,
        given,
        go_on=go_on,
        rooted=rooted,
        movable=MOVABLE if may_move else (),
    )
    for role in ROLES:
        leave_former_weights(moved, given, role)
    return moved


def with_rooted_paths(config: SynthesizeConfig) -> SynthesizeConfig:
    """The configuration with every path absolute: its set goes on from any folder."""
    return dataclasses.replace(
        config,
        teacher=_rooted_network(config.teacher),
        other_teachers=[_rooted_network(one) for one in config.other_teachers],
        verifier=_rooted_network(config.verifier),
        student=_rooted_network(config.student),
        select=config.select if is_range(config.select) else rooted(config.select),
        imports=tuple(map(rooted, config.imports)),
    )


def _rooted_network(one: NetworkConfig) -> NetworkConfig:
    return NetworkConfig(name=rooted(one.name), weights=rooted(one.weights))

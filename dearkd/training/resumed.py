"""The configuration that a run goes on with: the stored one, with paths that have changed."""

from omegaconf import DictConfig

from dearkd.config import TrainConfig, load_config
from dearkd.config_file import nulls
from dearkd.run_folder.folder import RunFolder
from dearkd.run_folder.going_on import check_stored, leave_former_weights
from dearkd.run_folder.moved import MOVABLE, noted_fingerprints
from dearkd.training.paths import rooted

__all__ = ["resumed_config"]


def resumed_config(folder: RunFolder, given: DictConfig, *, go_on: bool = False) -> TrainConfig:
    """The stored configuration; what is ``given`` must agree with it, or say what has moved.

    Whether the same lies there is compared once images and teacher are open
    (`dearkd.training.fingerprints`). A run that noted no fingerprints can't move, nor can one that
    is finished, which opens nothing. ``go_on``: the whole command was typed again.

    Raises:
        UserError: If other settings differ, naming each and both values.
    """
    may_move = noted_fingerprints(folder.sessions()) and not folder.summary_file.exists()
    moved = check_stored(
        TrainConfig,
        folder.config_file,
        given,
        go_on=go_on,
        rooted=rooted,
        movable=MOVABLE if may_move else (),
    )
    leave_former_weights(moved, given)
    return load_config(folder.config_file, nulls(moved), moved)

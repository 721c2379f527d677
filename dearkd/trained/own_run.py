"""The run that a weights file lies in, as its files stand there."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from omegaconf import DictConfig, OmegaConf

from dearkd.run_folder.folder import CONFIG_FILE

__all__ = ["is_averaged", "run_of"]


def run_of(file: Path) -> tuple[Path | None, dict[str, Any]]:
    """Folder and configuration of the run that a weights file is of; the best lie one deeper.

    A configuration that can't be read is as good as none: the weights say what they are.
    """
    for folder in (file.parent, file.parent.parent):
        config = folder / CONFIG_FILE
        if config.is_file():
            try:
                tree = OmegaConf.load(config)
            except Exception:  # damaged YAML raises many kinds
                return folder, {}
            return folder, _plain(tree) if isinstance(tree, DictConfig) else {}
    return None, {}


def is_averaged(config: Mapping[str, Any]) -> bool:
    """Whether the run's final weights are a moving average; True where that is not known."""
    optim = config.get("optim")
    return not isinstance(optim, Mapping) or optim.get("ema_decay", 0) is not None


def _plain(tree: DictConfig) -> dict[str, Any]:
    plain = OmegaConf.to_container(tree, resolve=False)
    assert isinstance(plain, dict)
    return {str(key): value for key, value in plain.items()}

"""The commit of the source and the versions of the packages that a run's numbers depend on."""

import importlib.metadata
import subprocess
from pathlib import Path

__all__ = ["commit", "versions"]

PACKAGES = ("dearkd", "torch", "timm", "accelerate", "torchvision", "pillow", "numpy")


def versions() -> dict[str, str]:
    """Versions of the packages that a run's numbers depend on, by name."""
    return {name: importlib.metadata.version(name) for name in PACKAGES}


def commit() -> str | None:
    """The commit of dearkd's source tree (``-dirty`` if changed); None outside a checkout."""
    here = Path(__file__).resolve()
    try:
        tracked = _git(here.parent, "ls-files", "--error-unmatch", here.name)
        if tracked.returncode:
            return None
        named = _git(here.parent, "describe", "--always", "--dirty", "--abbrev=12", "--exclude=*")
    except OSError:  # no git on this machine
        return None
    return named.stdout.strip() if named.returncode == 0 else None


def _git(folder: Path, *words: str) -> subprocess.CompletedProcess[str]:
    command = ["git", "-C", str(folder), *words]
    return subprocess.run(command, capture_output=True, text=True, check=False)

"""What a run's numbers depend on: the commit of the source, versions of packages, the machine."""

import importlib.metadata
import platform
import subprocess
from pathlib import Path
from typing import Any

from synth.cores import usable_cores

__all__ = ["commit", "machine", "versions"]

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


def machine() -> dict[str, Any]:
    """The processor's name and how many cores of it this process may use."""
    name = platform.processor() or platform.machine()
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:  # no Linux
        lines = []
    names = (line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    return {"cpu": next(names, name), "cores": usable_cores()}


def _git(folder: Path, *words: str) -> subprocess.CompletedProcess[str]:
    command = ["git", "-C", str(folder), *words]
    return subprocess.run(command, capture_output=True, text=True, check=False)

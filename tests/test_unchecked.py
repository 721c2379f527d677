"""What traces or compiles sources, in one process without the wrappers that check shapes."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

FILES = sorted(Path(__file__).parent.rglob("unchecked_*.py"))


@pytest.mark.parametrize("chosen", ["not slow", pytest.param("slow", marks=pytest.mark.slow)])
def test_what_is_traced_or_compiled(chosen, tmp_path):
    assert len(FILES) == 3
    environment = {**os.environ, "DEARKD_NO_SHAPE_CHECKS": "1", "JAXTYPING_DISABLE": "1"}
    command = [
        sys.executable,
        "-m",
        "pytest",
        "-p",
        "no:cacheprovider",
        "-p",
        "no:xdist",
        "-p",
        "no:logging",
    ]
    command += ["-m", chosen, "--basetemp", str(tmp_path / "pytest"), *map(str, FILES)]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout[-3000:]

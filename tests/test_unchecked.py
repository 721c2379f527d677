"""What traces or compiles sources, in one process without the wrappers that check shapes."""

from pathlib import Path

import forked
import pytest

FILES = sorted(Path(__file__).parent.rglob("unchecked_*.py"))
UNCHECKED = """
import os, sys
for name in ("DEARKD_NO_SHAPE_CHECKS", "JAXTYPING_DISABLE", "PYTEST_DISABLE_PLUGIN_AUTOLOAD"):
    os.environ[name] = "1"
import pytest
sys.exit(pytest.main(sys.argv[1:]))
"""


@pytest.mark.parametrize("chosen", ["not slow", pytest.param("slow", marks=pytest.mark.slow)])
def test_what_is_traced_or_compiled(chosen, tmp_path):
    assert len(FILES) == 3
    words = ["-p", "no:cacheprovider", "-p", "no:logging", "-m", chosen]
    words += ["--basetemp", tmp_path / "pytest", *FILES]
    code = forked.script(UNCHECKED, words, tmp_path / "log")
    assert code == 0, (tmp_path / "log").read_text()[-3000:]

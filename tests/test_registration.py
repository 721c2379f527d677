"""Importing the package registers its models, whatever the program is called."""

import os
import subprocess
import sys
import textwrap
from pathlib import Path

ROOT = Path(__file__).parents[1]
CREATES = "timm.create_model('dearkd_micro_patch4_32', img_size=16)"


def run(tmp_path, line, module):
    (tmp_path / "mypkg").mkdir()
    (tmp_path / "mypkg" / "__init__.py").write_text("")
    (tmp_path / "mypkg" / "__main__.py").write_text(textwrap.dedent(line))
    (tmp_path / "dearkd_tool").write_text(textwrap.dedent(line))
    command = ["-m", "mypkg"] if module else [str(tmp_path / "dearkd_tool")]
    return subprocess.run(
        [sys.executable, *command],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        check=False,
    )


def test_a_module_of_the_users_gets_the_models(tmp_path):
    """In whichever order it imports the two; each in a process of its own."""
    line = f"""
        import os
        import torchvision  # as timm does: once for both

        for order in ("import dearkd, timm", "import timm, dearkd"):
            if os.fork() == 0:
                exec(order)
                {CREATES}
                print(order, flush=True)
                os._exit(0)
            os.wait()
    """
    done = run(tmp_path, line, module=True)
    assert done.stdout.splitlines() == ["import dearkd, timm", "import timm, dearkd"], done.stderr


def test_help_needs_neither_torch_nor_timm(tmp_path):
    line = """
        import sys
        import dearkd
        import dearkd.cli.app
        print("torch" in sys.modules, "timm" in sys.modules)
    """
    assert run(tmp_path, line, module=True).stdout.strip() == "False False"

"""A signal before there is anything to save: exit code 130 or 75, and not a word of Python's."""

import signal
import subprocess
import sys

import pytest

IMPORTING = """
import os, signal, sys

class Finder:
    def find_spec(self, name, path=None, target=None):
        if name == {name!r}:
            os.kill(os.getpid(), {kind})

sys.meta_path.insert(0, Finder())
sys.argv = ["dearkd", "eval", "nothing/at/all"]
from dearkd.cli.main import main
main()
"""


def listening():
    """Tests may run as a job of a shell that ignores SIGINT; the command must not inherit that."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)


def interrupted(*command, code=130):
    """What the command says on stderr; it must leave with that code."""
    line = [sys.executable, *map(str, command)]
    done = subprocess.run(line, capture_output=True, text=True, preexec_fn=listening)
    assert done.returncode == code, done.stderr
    return done.stderr.strip()


@pytest.mark.parametrize("name", ["typer", "torch.nn"])
def test_ctrl_c_while_libraries_load(name):
    assert interrupted("-c", IMPORTING.format(name=name, kind="signal.SIGINT")) == ""


@pytest.mark.parametrize("kind", ["SIGTERM", "SIGUSR1"])
def test_a_scheduler_while_libraries_load(kind):
    code = IMPORTING.format(name="typer", kind=f"signal.{kind}")
    assert interrupted("-c", code, code=75) == ""


def test_ctrl_c_after_they_are_loaded():
    """The command's own code is at work: nothing is imported, and nothing listens yet.

    Torch is loaded, as in every verb; the rest, which would judge, is left out.
    """
    code = """
import os, signal, sys, types
from dearkd import judging
judging.eval = types.ModuleType("dearkd.judging.eval")
judging.eval.evaluate_target = lambda *args, **kwargs: os.kill(os.getpid(), signal.SIGINT)
sys.argv = ["dearkd", "eval", "nothing/at/all"]
from dearkd.cli.main import main
main()
"""
    assert interrupted("-c", code) == ""


def test_a_background_job_goes_on():
    """A shell has its jobs ignore SIGINT."""
    code = "import signal, sys; signal.signal(signal.SIGINT, signal.SIG_IGN)\n"
    code += IMPORTING.format(name="typer", kind="signal.SIGINT").replace(
        '"eval", "nothing/at/all"', '"--version"'
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.startswith("dearkd ")

"""The command as a test calls it, in its own process."""

import re

from typer.testing import CliRunner

from dearkd.cli.app import app


def invoke(*args):
    return CliRunner().invoke(app, [str(arg) for arg in args])


def not_among(*args):
    """What the command says of a value that is none of an option's choices; it exits with 2.

    Typer's own runner frames it; the installed command says it in one line (`tests/synthesis/
    test_choices.py`).
    """
    result = invoke(*args)
    assert result.exit_code == 2, result.output
    return " ".join(re.sub("[^ -~]", " ", result.stderr).split())


def refused(*args):
    """The one line on stderr of a command that must fail with exit code 2."""
    result = invoke(*args)
    assert result.exit_code == 2, result.output
    lines = result.stderr.strip().splitlines()
    assert len(lines) == 1, result.stderr
    assert lines[0].startswith("error: ")
    return lines[0]

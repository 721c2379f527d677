"""The command as a test calls it, in its own process."""

from typer.testing import CliRunner

from dearkd.cli.app import app


def invoke(*args):
    return CliRunner().invoke(app, [str(arg) for arg in args])


def refused(*args):
    """The one line on stderr of a command that must fail with exit code 2."""
    result = invoke(*args)
    assert result.exit_code == 2, result.output
    lines = result.stderr.strip().splitlines()
    assert len(lines) == 1, result.stderr
    assert lines[0].startswith("error: ")
    return lines[0]

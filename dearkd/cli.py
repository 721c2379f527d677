"""Moved to the package ``dearkd_cli``, a verb a file, which loads in no time."""

from dearkd_cli.main import app, main

__all__ = ["app", "main"]

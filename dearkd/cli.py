"""Moved to the package ``dearkd_cli``: a verb is a file there, registered in its ``main.py``.

``dearkd_cli/eval.py`` holds the verb ``eval``; ``options.py`` and ``guard.py`` moved along. Nothing
there imports dearkd, torch or timm at module level. This file goes away once nobody imports it.
"""

from dearkd_cli.main import app, main

__all__ = ["app", "main"]

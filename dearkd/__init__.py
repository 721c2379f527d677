"""DearKD, DF-DearKD and the DeiT baselines: from a CNN to a vision transformer.

Importing the package registers the students and the small CNNs with timm, so that
``timm.create_model("dearkd_tiny_patch16_224")`` works.
"""

import sys
from pathlib import Path

__all__ = ["__version__"]

__version__ = "0.1.0"

# Registering loads torch, which takes seconds. The command alone puts it off: its verbs import
# `dearkd.models` when they need it, and --help, --version and completion answer at once.
# "-m": what `python -m dearkd` has there while it looks for the package.
if Path(sys.argv[0] if sys.argv else "").name not in ("dearkd", "-m"):
    import dearkd.models  # noqa: F401

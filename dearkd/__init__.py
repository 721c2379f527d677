"""DearKD, DF-DearKD and the DeiT baselines: from a CNN to a vision transformer.

Importing the package registers the students and the small CNNs with timm, so that
``timm.create_model("dearkd_tiny_patch16_224")`` works. ``train``, ``synthesize`` and ``evaluate``
are the doors from Python (`dearkd.api`).
"""

import importlib.abc
import importlib.util
import sys
from collections.abc import Sequence
from importlib.machinery import ModuleSpec
from types import ModuleType
from typing import TYPE_CHECKING, Any

from dearkd.loading import without_collection

if TYPE_CHECKING:
    from dearkd.api import Run, SyntheticImages, evaluate, synthesize, train

__all__ = ["Run", "SyntheticImages", "__version__", "evaluate", "synthesize", "train"]

__version__ = "0.1.0"


def __getattr__(name: str) -> Any:
    """The doors, loaded when they are first asked for."""
    if name in __all__:
        from dearkd import api

        return getattr(api, name)
    raise AttributeError(f"module 'dearkd' has no attribute {name!r}")


class _AfterTimm(importlib.abc.MetaPathFinder):
    """Registers the models as soon as timm is there.

    Loading timm takes seconds, and `dearkd --help` answers without it.
    """

    def find_spec(
        self, fullname: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        if fullname != "timm":
            return None
        sys.meta_path.remove(self)
        spec = importlib.util.find_spec("timm")
        if spec is not None and spec.loader is not None:
            loader, load = spec.loader, spec.loader.exec_module

            def exec_module(module: ModuleType) -> None:
                with without_collection():
                    load(module)
                    import dearkd.models  # noqa: F401

            loader.exec_module = exec_module  # type: ignore[method-assign]
        return spec


if "timm" in sys.modules:
    import dearkd.models  # noqa: F401
else:
    sys.meta_path.insert(0, _AfterTimm())

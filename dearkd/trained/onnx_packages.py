"""The packages that ONNX needs, which are imported only where it is used."""

import importlib
from types import ModuleType

from dearkd.errors import UnusableImportError

__all__ = ["ONNX_PACKAGES", "import_packages"]

ONNX_PACKAGES = ("onnx", "onnxscript", "onnxruntime")


def import_packages(*names: str) -> tuple[ModuleType, ...]:
    """The imported modules of these names.

    Raises:
        UnusableImportError: If one is not installed; says what to install.
    """
    try:
        return tuple(importlib.import_module(name) for name in names)
    except ImportError as error:
        raise UnusableImportError(
            f"ONNX needs {', '.join(ONNX_PACKAGES)} ({error}); pip install 'dearkd[onnx]'"
        ) from error

"""The packages that ONNX takes, imported only where it is asked for."""

import importlib
from types import ModuleType

__all__ = ["ONNX_PACKAGES", "import_packages"]

ONNX_PACKAGES = ("onnx", "onnxscript", "onnxruntime")


def import_packages(*names: str) -> tuple[ModuleType, ...]:
    """The modules of these names.

    Raises:
        ImportError: If one is not installed; says what to install.
    """
    try:
        return tuple(importlib.import_module(name) for name in names)
    except ImportError as error:
        raise ImportError(
            f"ONNX needs {', '.join(ONNX_PACKAGES)} ({error}); pip install 'dearkd[onnx]'"
        ) from error

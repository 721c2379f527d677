"""Runs the user's Python files, each once in a process; they may register models with timm."""

import importlib.util
import sys
import zlib
from collections.abc import Iterable
from pathlib import Path

from timm.models import model_entrypoint, split_model_name_tag

from dearkd.errors import UnusableImportError, UserError, missing_file

__all__ = ["import_files", "imported_file"]

PREFIX = "_dearkd_import_"
"""Of a file's name as a module."""


def import_files(files: Iterable[str]) -> None:
    """Runs each Python file, unless this process has run it before.

    Raises:
        MissingFileError: If one does not exist.
        UserError: If one is no Python file.
        UnusableImportError: If one fails.
    """
    for file in files:
        path = Path(file)
        if not path.is_file():
            raise missing_file(f"--import {file}", path)
        if path.suffix != ".py":
            raise UserError(f"--import {file} is no Python file; its name must end in .py")
        key = str(path.resolve()).encode() + path.read_bytes()  # an edited file is another one
        # A name of our own: a file called data.py must not replace the module of that name.
        name = f"{PREFIX}{path.stem}_{zlib.crc32(key):08x}"
        if name not in sys.modules:
            _run(path, name)


def imported_file(architecture: str) -> str | None:
    """The file of ``import_files`` that registered a model; None if a package did."""
    module = model_entrypoint(split_model_name_tag(architecture)[0]).__module__
    return sys.modules[module].__file__ if module.startswith(PREFIX) else None


def _run(path: Path, name: str) -> None:
    spec = importlib.util.spec_from_file_location(name, path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module  # timm's register_model looks the module up
    try:
        spec.loader.exec_module(module)
    except Exception as error:
        del sys.modules[name]
        raise UnusableImportError(
            f"--import {path} failed: {type(error).__name__}: {error}"
        ) from error

"""Which columns of a parquet file hold images and labels, and whether several files agree."""

from collections.abc import Sequence
from pathlib import Path

import pyarrow as pa

from dearkd.errors import UserError, one_line
from dearkd.json_text import parsed

__all__ = ["agreed_names", "check_labels_agree", "check_types", "find_column"]


def find_column(file: Path, schema: pa.Schema, wanted: Sequence[str], kind: str) -> str:
    """The first of the ``wanted`` names that the file has; ``kind`` is "image" or "label".

    Raises:
        UserError: If it has none of them, or one twice.
    """
    for name in wanted:
        if schema.names.count(name) > 1:
            raise UserError(f"{file} has several columns {name!r}; keep one, or rename the others")
        if name in schema.names:
            return name
    otherwise = ", or train without labels: --unlabelled" if kind == "label" else ""
    raise UserError(
        f"{file} has no {kind} column (columns: {', '.join(schema.names)}); "
        f"name it one of {', '.join(wanted)}{otherwise}"
    )


def check_types(file: Path, schema: pa.Schema, image: str, label: str | None) -> None:
    """Refuse columns that hold something else than images and labels.

    Raises:
        UserError: Naming the column, its type and what to write there.
    """
    kind = schema.field(image).type
    parts = {field.name: field.type for field in kind} if pa.types.is_struct(kind) else {}
    tests = {"bytes": _is_bytes, "path": _is_text}
    right = [test(parts[name]) for name, test in tests.items() if name in parts]
    if not (all(right) if right else _is_bytes(kind)):
        raise UserError(
            f"{file} has {kind} in column {image!r}; write encoded images there: bytes, or a "
            "struct of bytes and path"
        )
    if label is None:
        return
    plain = _label_type(schema, label)
    if not (pa.types.is_integer(plain) or pa.types.is_boolean(plain) or _is_text(plain)):
        raise UserError(
            f"{file} has {plain} in column {label!r}; write labels there: whole numbers or names"
        )


def check_labels_agree(
    file: Path, own: pa.Schema, first_file: Path, first: pa.Schema, label: str
) -> None:
    """Refuse numbers in one file and names in the other.

    Raises:
        UserError: Naming both files and their types.
    """
    types = [_label_type(schema, label) for schema in (own, first)]
    if not any(map(pa.types.is_null, types)) and _is_text(types[0]) != _is_text(types[1]):
        raise UserError(
            f"{file} has {types[0]} in column {label!r} and {first_file} has {types[1]}; write "
            "whole numbers or names in both, or move one elsewhere"
        )


def agreed_names(
    files: Sequence[Path], schemas: Sequence[pa.Schema], label: str
) -> tuple[str, ...] | None:
    """The class names that the files hold; None if none of them does.

    Raises:
        UserError: If two files have other names, or in another order, or a file's are damaged.
    """
    first: tuple[Path, tuple[str, ...]] | None = None
    for file, schema in zip(files, schemas, strict=True):
        names = _class_names(file, schema, label)
        if names is None:
            continue
        first = first or (file, names)
        if names != first[1]:
            raise UserError(
                f"{file} numbers other classes than {first[0]}, or in another order; write both "
                "with one list of names, or move one elsewhere"
            )
    return None if first is None else first[1]


def _label_type(schema: pa.Schema, label: str) -> pa.DataType:
    """The type of the labels, of a dictionary that of its values."""
    kind = schema.field(label).type
    return kind.value_type if pa.types.is_dictionary(kind) else kind


def _is_bytes(kind: pa.DataType) -> bool:
    """Whether a column holds bytes, or nothing at all."""
    tests = (pa.types.is_binary, pa.types.is_large_binary, pa.types.is_binary_view)
    return pa.types.is_null(kind) or any(test(kind) for test in tests)


def _is_text(kind: pa.DataType) -> bool:
    """Whether a column holds text, or nothing at all."""
    tests = (pa.types.is_string, pa.types.is_large_string, pa.types.is_string_view)
    return pa.types.is_null(kind) or any(test(kind) for test in tests)


def _class_names(file: Path, schema: pa.Schema, column: str) -> tuple[str, ...] | None:
    """The names that Hugging Face's writer keeps in the schema, if it wrote the file."""
    text = (schema.metadata or {}).get(b"huggingface", b"{}")
    try:
        names = parsed(text)["info"]["features"][column]["names"]
        if not isinstance(names, list | None):
            raise ValueError(f"the names of {column!r} are {names!r:.40}, no list")
    except ValueError as error:
        raise UserError(
            f"{file} has damaged metadata ('huggingface': {one_line(error)}); fetch it again"
        ) from error
    except (KeyError, TypeError):  # labels without names
        return None
    return tuple(map(str, names)) if names else None

"""Images in parquet files of the Hugging Face layout, read row group by row group."""

import bisect
import os
from collections import OrderedDict
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray
from PIL import Image

from dearkd.data.decode import BadImageError, open_image
from dearkd.data.order import Shards
from dearkd.data.parquet_columns import (
    agreed_names,
    check_labels_agree,
    check_types,
    find_column,
)
from dearkd.data.sources import NO_LABEL, UNLABELLED, Classes, digest, encoded_labels
from dearkd.errors import UserError

__all__ = ["ParquetSource"]

_IMAGE_COLUMNS = ("image", "img", "jpg", "png", "webp")
_LABEL_COLUMNS = ("label", "labels", "fine_label", "target", "cls", "class")
_MEMORY_LIMIT = 256 << 20
"""Encoded bytes that a process keeps."""
_MAGIC = b"PAR1"


class ParquetSource:
    """Rows of parquet files: an image (bytes, or a struct of bytes and path) and a label.

    Labels are not looked at, and need not be there, where it is not ``labelled``.

    A row with a path and no bytes is read from the file that the path names, seen from the folder
    of the parquet file; it may lie anywhere. Labels are whole numbers from 0, or names.

    A row group is read whole when an image of it is first needed. A process keeps those that it
    needed last, up to 256 MiB; so larger data is to be read in the order of ``shards``, else every
    image costs a row group. One larger row group is kept all the same: files with such groups are
    better written anew, with a hundred or a thousand rows in each.

    Raises:
        UserError: If a file is no parquet, has no image or label column, one of them is of another
            type, a label is missing, or two files number or name their classes differently.
    """

    def __init__(self, files: Sequence[Path], *, labelled: bool = True) -> None:
        self.files = tuple(files)
        schemas = [_schema(file) for file in self.files]
        schema = schemas[0]
        self.image_column = find_column(self.files[0], schema, _IMAGE_COLUMNS, "image")
        self.label_column = (
            find_column(self.files[0], schema, _LABEL_COLUMNS, "label") if labelled else None
        )
        self._groups: list[tuple[int, int]] = []
        self._starts: list[int] = []
        labels: list[NDArray[Any]] = []
        for number, (file, own) in enumerate(zip(self.files, schemas, strict=True)):
            if own.names != schema.names:
                raise UserError(f"{file} has other columns than {self.files[0]}; move it elsewhere")
            check_types(file, own, self.image_column, self.label_column)
            if self.label_column is not None:
                check_labels_agree(file, own, self.files[0], schema, self.label_column)
            labels += self._scan(number, file, sum(len(part) for part in labels))
        if not sum(map(len, labels)):
            raise UserError(f"{self.files[0]} has no rows; pass files that hold images")
        self.labels, self.classes = self._encoded(schemas, np.concatenate(labels))
        sizes = [size for file in self.files for size in _group_sizes(file, self.image_column)]
        together = max(1, _MEMORY_LIMIT // max(sizes))
        starts = np.unique(np.asarray(self._starts))
        self.shards = Shards(starts, together, needed=sum(sizes) > _MEMORY_LIMIT)
        self._tables: OrderedDict[int, pa.Table] = OrderedDict()
        self._bytes = 0

    def _scan(self, number: int, file: Path, start: int) -> list[NDArray[Any]]:
        """Notes the file's row groups and returns their labels."""
        reader = _reader(file)
        labels: list[NDArray[Any]] = []
        for group in range(reader.num_row_groups):
            self._groups.append((number, group))
            self._starts.append(start + sum(len(part) for part in labels))
            labels.append(self._labels(reader, file, group))
        return labels

    def _labels(self, reader: pq.ParquetFile, file: Path, group: int) -> NDArray[Any]:
        if self.label_column is None:
            return np.full(reader.metadata.row_group(group).num_rows, NO_LABEL, dtype=np.int64)
        column = _rows(reader, file, group, self.label_column).column(0)
        if column.null_count:
            raise UserError(f"{file} has rows without {self.label_column!r}; remove them")
        with _reading(file):  # names may be of another coding than parquet's UTF-8
            return column.to_numpy()

    def _encoded(
        self, schemas: Sequence[pa.Schema], labels: NDArray[Any]
    ) -> tuple[NDArray[np.int64], Classes]:
        if self.label_column is None:
            return labels, UNLABELLED
        names = agreed_names(self.files, schemas, self.label_column)
        place = self.files[0] if len(self.files) == 1 else self.files[0].parent
        return encoded_labels(place, labels, names)

    def __len__(self) -> int:
        return len(self.labels)

    def image(self, index: int) -> Image.Image:
        """The decoded image."""
        group, row = self._locate(index)
        try:
            cell = self._table(group).column(0)[row].as_py()
        except UnicodeDecodeError as error:
            raise BadImageError(self.name(index), "its path is not text") from error
        content = cell if not isinstance(cell, dict) else cell.get("bytes")
        if content is not None:
            return open_image(content, self.name(index))
        path = cell.get("path") if isinstance(cell, dict) else None
        if not path:
            raise BadImageError(self.name(index), "the image is missing")
        return open_image(self.files[self._groups[group][0]].parent / path, self.name(index))

    def name(self, index: int) -> str:
        """The row, from 0, and its file."""
        file = self._groups[self._locate(index)[0]][0]
        first = self._starts[[number for number, _ in self._groups].index(file)]
        return f"row {index - first} of {self.files[file]}"

    def fingerprint(self) -> str:
        """Hash of the files' names and sizes, and of the row groups."""
        files = [part for file in self.files for part in (file.name, file.stat().st_size)]
        return digest([*files, *self._starts, self.image_column])

    def __getstate__(self) -> dict[str, Any]:
        # A spawned worker reads for itself; sending the tables would copy them once a worker.
        return self.__dict__ | {"_tables": OrderedDict(), "_bytes": 0}

    def _locate(self, index: int) -> tuple[int, int]:
        group = bisect.bisect_right(self._starts, index) - 1
        return group, index - self._starts[group]

    def _table(self, group: int) -> pa.Table:
        if group not in self._tables:
            number, row_group = self._groups[group]
            file = self.files[number]
            table = _rows(_reader(file), file, row_group, self.image_column)
            self._tables[group] = table
            self._bytes += table.nbytes
            while self._bytes > _MEMORY_LIMIT and len(self._tables) > 1:
                self._bytes -= self._tables.popitem(last=False)[1].nbytes
        self._tables.move_to_end(group)
        return self._tables[group]


def _group_sizes(file: Path, column: str) -> list[int]:
    """Bytes of a column in each row group, as they are in memory."""
    found = _reader(file).metadata
    groups = [found.row_group(number) for number in range(found.num_row_groups)]
    parts = [[group.column(n) for n in range(group.num_columns)] for group in groups]
    return [
        sum(c.total_uncompressed_size for c in own if c.path_in_schema.split(".")[0] == column)
        for own in parts
    ]


def _rows(reader: pq.ParquetFile, file: Path, group: int, column: str) -> pa.Table:
    with _reading(file):
        # One thread: Arrow's pool does not survive the fork into a worker.
        return reader.read_row_group(group, [column], use_threads=False)


def _reader(file: Path) -> pq.ParquetFile:
    with _reading(file):
        return pq.ParquetFile(file)


@contextmanager
def _reading(file: Path) -> Iterator[None]:
    """Turns Arrow's many kinds of errors into one line that names the file."""
    try:
        yield
    except (pa.ArrowException, UnicodeDecodeError, OSError) as error:
        if isinstance(error, OSError) and error.errno is not None:
            state, reason = "cannot be read", os.strerror(error.errno)
        else:
            state, reason = "is damaged", str(error)
        reason = " ".join(reason.split())[:160]
        raise UserError(f"{file} {state} ({reason}); fetch it again or remove it") from error


def _schema(file: Path) -> pa.Schema:
    if not _is_parquet(file):
        raise UserError(f"{file} is not a parquet file; fetch it again or remove it")
    schema: pa.Schema = _reader(file).schema_arrow
    with _reading(file):
        _ = schema.names  # they are decoded here
    return schema


def _is_parquet(file: Path) -> bool:
    """Whether it begins as parquet files do."""
    with _reading(file), file.open("rb") as content:
        return content.read(len(_MAGIC)) == _MAGIC

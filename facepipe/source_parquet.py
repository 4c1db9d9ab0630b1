"""Parquet files with the photos in them: img2dataset's, Hugging Face's, any with such a column.

Row groups are read one after the other, each in batches of a few rows through a small buffer,
so that memory is that of a batch and a page however large a row group is. (Writers make pages
of about 1 MiB, but pyarrow looks at their size every 1,024 rows only.)
"""

from __future__ import annotations

import os
from bisect import bisect_right
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import accumulate, pairwise
from typing import Any, BinaryIO

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from facepipe.archive_bytes import shown_name
from facepipe.containers import Member
from facepipe.parquet_columns import (
    BYTES_CHILD,
    IMAGE_COLUMNS,
    PATH_CHILD,
    PhotoColumns,
    find_columns,
)

BATCH_ROWS = 16  # photos: some megabytes each at most
BUFFER_BYTES = 1 << 20  # of a column that is being read; 0 would mean the whole column
MAX_FOOTER_BYTES = 64 << 20  # of the strings in it; pyarrow's own limit is 100 MB
MAGIC = b"PAR1"
_NO_IMAGE = "the row has no image"
SUCCESS = "success"  # status of a download, as img2dataset has it

# What pyarrow and the conversion of what it read raise for a file that is damaged.
_BROKEN = (
    *(pa.ArrowException, OSError, ValueError, TypeError, KeyError, IndexError),
    *(OverflowError, MemoryError, RuntimeError),
)


class _Damaged(OSError):
    """The Parquet file is damaged, as opposed to one that could not be read."""


def is_parquet(head: bytes, name: str) -> bool:
    """Return whether a .parquet begins as one; whether it has photos, opening it shows."""
    return name.lower().endswith(".parquet") and head.startswith(MAGIC)


def open_parquet(stream: BinaryIO, batch_rows: int = BATCH_ROWS) -> ParquetContainer:
    """Open a Parquet file of photos. Raises OSError where its footer is damaged.

    Member.name is the key or file name of the row, else its number; label is the row's, by its
    name where the file has names; offset is the number of the row. A file without a column of
    photos has one member, with a problem.
    """
    return ParquetContainer(stream, batch_rows)


class ParquetContainer:
    """The photos of a Parquet file, a row each."""

    sequential = False

    def __init__(self, stream: BinaryIO, batch_rows: int) -> None:
        """Read the footer."""
        self._stream = _Watched(stream)
        self._batch_rows = batch_rows
        with self._explained():
            self._file = pq.ParquetFile(
                pa.PythonFile(self._stream, mode="r"),
                buffer_size=BUFFER_BYTES,
                pre_buffer=False,
                thrift_string_size_limit=MAX_FOOTER_BYTES,
            )
            self._columns = find_columns(self._file.schema_arrow)
            groups = [self._file.metadata.row_group(n) for n in range(self._file.num_row_groups)]
            rows = [group.num_rows for group in groups]
            if min(rows, default=0) < 0 or sum(rows) > stream.seek(0, os.SEEK_END):
                # Run-length encoding holds any number of nulls in a few bytes.
                raise ValueError(f"{sum(rows)} rows are more than the file has bytes")
        self._starts = [0, *accumulate(rows)]  # of the row groups, and the number of rows
        self._last: tuple[_Batch, Iterator[_Batch]] | None = None

    def members(self) -> Iterator[Member]:
        """Yield a Member for every row; of a damaged row group, one for all that is lost."""
        if self._columns is None:
            wanted = ", ".join(IMAGE_COLUMNS)
            problem = f"it has no column of photos: bytes, or a struct of them, in one of {wanted}"
            yield Member(name="0", offset=0, problem=problem)
            return
        for group, (start, end) in enumerate(pairwise(self._starts)):
            row = start
            try:
                for batch in self._batches(group, self._columns.all()):
                    with self._explained():
                        found = _rows(batch.table, self._columns)
                    for number, fields in enumerate(found, batch.start):
                        yield _member(number, fields)
                    row = batch.end
                if row < end:
                    raise _Damaged("the row group ends early")
            except _Damaged as error:
                problem = f"rows {row} to {end - 1} are lost: {error}"
                yield Member(name=str(row), offset=row, problem=problem)

    def read(self, member: Member, max_bytes: int) -> bytes:
        """Return the photo of a row, at most ``max_bytes`` + 1 bytes of it."""
        if self._columns is None or not 0 <= member.offset < self._starts[-1]:
            raise OSError(f"the file has no photo in row {member.offset}")
        batch = self._batch_of(member.offset, self._columns.image)
        with self._explained():
            images = _images(batch.table, self._columns)
            value = images[member.offset - batch.start].as_buffer()
            if not value:
                raise _Damaged(_NO_IMAGE)
            return bytes(value.slice(0, min(value.size, max_bytes + 1)))

    def close(self) -> None:
        """Close the file."""
        self._last = None
        self._stream.close()

    def _batch_of(self, row: int, column: str) -> _Batch:
        """Return the batch with a row, going on from the last one where that is possible."""
        group = bisect_right(self._starts, row) - 1
        start = self._starts[group]
        batch, batches = self._last or (None, iter(()))
        if batch is None or not start <= batch.start <= row:
            batch, batches = None, self._batches(group, [column])
        self._last = None  # where this fails, the next read begins anew
        while batch is None or row >= batch.end:
            batch = next(batches, None)
            if batch is None:
                raise _Damaged("the row group ends before this row")
        self._last = batch, batches
        return batch

    def _batches(self, group: int, columns: list[str]) -> Iterator[_Batch]:
        """Yield the batches of a row group, without such rows as it has too many."""
        start, end = self._starts[group : group + 2]
        with self._explained():
            tables = self._file.iter_batches(
                self._batch_rows, row_groups=[group], columns=columns, use_threads=False
            )
        while start < end:
            with self._explained():
                table = next(tables, None)
            if table is None:
                return
            batch = _Batch(table.slice(0, end - start), start)
            yield batch
            start = batch.end

    @contextmanager
    def _explained(self) -> Iterator[None]:
        """Raise what pyarrow raises as _Damaged, but a failure of the stream as it is."""
        self._stream.failure = None
        try:
            yield
        except _Damaged:
            raise
        except _BROKEN as error:
            if self._stream.failure is not None:
                raise self._stream.failure from error
            words = str(error).split("\n", 1)[0][:200]
            raise _Damaged(f"the Parquet file is damaged: {words}") from error


@dataclass(frozen=True, slots=True)
class _Batch:
    table: pa.RecordBatch
    start: int

    @property
    def end(self) -> int:
        return self.start + int(self.table.num_rows)


class _Watched:
    """A stream that remembers its failure: pyarrow raises OSError for damage too."""

    def __init__(self, stream: BinaryIO) -> None:
        self._stream = stream
        self.failure: OSError | None = None

    @property
    def closed(self) -> bool:
        return self._stream.closed

    def read(self, size: int = -1) -> bytes:
        try:
            return self._stream.read(size)
        except OSError as error:
            self.failure = error
            raise

    def seek(self, offset: int, whence: int = 0) -> int:
        return self._stream.seek(offset, whence)

    def tell(self) -> int:
        return self._stream.tell()

    def close(self) -> None:
        self._stream.close()


@dataclass(frozen=True, slots=True)
class _Row:
    size: int | None
    name: str | None
    label: str | None
    status: str | None
    error: str | None
    path: str | None


def _images(table: pa.RecordBatch, columns: PhotoColumns) -> Any:
    column = table.column(columns.image)
    return pc.struct_field(column, BYTES_CHILD) if columns.is_struct else column


def _rows(table: pa.RecordBatch, columns: PhotoColumns) -> list[_Row]:
    sizes = pc.binary_length(_images(table, columns).cast(pa.large_binary())).to_pylist()
    nothing: list[str | None] = [None] * len(sizes)
    paths = nothing
    if columns.has_path:
        paths = _texts(pc.struct_field(table.column(columns.image), PATH_CHILD))

    def texts(column: str | None) -> list[str | None]:
        return nothing if column is None else _texts(table.column(column))

    labels = texts(columns.label)
    if columns.label_names is not None:
        labels = [_named(label, columns.label_names) for label in labels]
    others = (texts(columns.status), texts(columns.error), paths)
    return [_Row(*row) for row in zip(sizes, texts(columns.name), labels, *others, strict=True)]


def _texts(column: Any) -> list[str | None]:
    """Return text, bytes or numbers as text; None for null, empty and what is not finite."""
    if pa.types.is_dictionary(column.type):
        column = column.dictionary_decode()
    if pa.types.is_floating(column.type):
        values = column.cast(pa.float64()).to_pylist()
        return [None if v is None or v - v != 0 else f"{v:.15g}" for v in values]
    if pa.types.is_integer(column.type):
        column = column.cast(pa.string())
    # By way of bytes: nothing says that a file's text is UTF-8.
    raw = column.cast(pa.large_binary()).to_pylist()
    return [shown_name(value) if value else None for value in raw]


def _named(label: str | None, names: tuple[str, ...]) -> str | None:
    """Return the name of a ClassLabel's number; -1 stands for none."""
    if label is None or label.startswith("-"):
        return None
    number = int(label) if label.isdecimal() else len(names)
    return shown_name(names[number].encode(errors="replace")) if number < len(names) else label


def _member(number: int, row: _Row) -> Member:
    problem = None
    if not row.size:
        problem = _NO_IMAGE
        if row.status is not None and row.status != SUCCESS:
            problem = f"not downloaded: {row.error or row.status}"
        elif row.path is not None:
            problem = "the row has the path of an image, not its bytes"
    return Member(
        name=row.name or row.path or str(number),
        offset=number,
        bytes=row.size or 0,
        label=row.label,
        problem=problem,
    )

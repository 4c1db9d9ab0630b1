"""Vectors of float16 from a Parquet file, as the bytes they are.

Parquet has no lists of fixed length and no floats of 16 bits of its own: a vector is a list of
strings of two bytes, and Arrow takes 3 ns for each. What facepipe writes is uncompressed, so that
the numbers of a page lie side by side behind two tables of levels, which say where lists begin and
what is null. Where the tables say that every list is whole and nothing is null, the bytes are the
vectors. Where they say anything else, or are written in another way, Arrow reads them.

Source: the Parquet format, github.com/apache/parquet-format (Encodings.md, parquet.thrift; the
compact protocol of Thrift). Legend: R rows, D dimensions.
"""

from __future__ import annotations

import io
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import BinaryIO, cast

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

Half = NDArray[np.float16]
Int64 = NDArray[np.int64]

ITEM_BYTES = 2
_PACKED = 8  # levels in one byte: a list begins with so many, the rest of it is a run
_DATA_PAGE, _PLAIN, _RLE = 0, 0, 3
_PAGE_TYPE, _PAGE_BYTES, _STORED_BYTES, _DATA_HEADER = 1, 2, 3, 5  # fields of PageHeader
_VALUES, _ENCODING, _DEFINITION, _REPETITION = 1, 2, 3, 4  # fields of DataPageHeader
_MOST_FIELDS = 64  # of a header, and of what is in it
_MOST_HEADER = 1024  # bytes; one of ours has some 40
_BOOLEANS, _INTEGERS, _BINARY, _STRUCT = (1, 2), (4, 5, 6), 8, 12  # types of Thrift


class _Other(Exception):
    """It is written in another way."""


@dataclass(slots=True)
class _Reader:
    """Thrift's compact protocol, as far as headers of pages have it."""

    data: memoryview
    at: int = 0

    def byte(self) -> int:
        if self.at >= len(self.data):
            raise _Other
        self.at += 1
        return self.data[self.at - 1]

    def number(self) -> int:
        value = 0
        for shift in range(0, 70, 7):
            part = self.byte()
            value |= (part & 127) << shift
            if part < 128:
                return value
        raise _Other

    def signed(self) -> int:
        value = self.number()
        return (value >> 1) ^ -(value & 1)

    def numbers(self, depth: int = 0) -> dict[int, int]:
        """Read a structure; return its numbers, and those of the page's header within it."""
        found, field = dict[int, int](), 0
        for _ in range(_MOST_FIELDS):
            start = self.byte()
            if not start:
                return found
            kind = start & 15
            field = field + (start >> 4) if start >> 4 else self.signed()
            if kind in _INTEGERS:
                found[field] = self.signed()
            elif kind == _BINARY:
                size = self.number()
                self.at += size
            elif kind == _STRUCT and depth < 2:
                inner = self.numbers(depth + 1)
                if not depth and field == _DATA_HEADER:
                    found |= {_DATA_HEADER * 100 + key: value for key, value in inner.items()}
            elif kind not in _BOOLEANS:
                raise _Other
        raise _Other


def read_halves(
    stream: BinaryIO, metadata: pq.FileMetaData, group: int, field: pa.Field, *, far: bool
) -> pa.Array | None:
    """Return a column of a row group, R vectors (fixed-size lists of D float16), none null.

    None where they are written in another way than here, or where anything is null: then Arrow
    has to read them. ``stream`` is left elsewhere; ``far``: it is read in one request. Raises
    OSError where it cannot be read.
    """
    place = _place(stream, metadata, group, field)
    if place is None:
        return None
    if far:
        stream.seek(place.start)
        stream, place = io.BytesIO(stream.read(place.size_bytes)), replace(place, start=0)
    pages = _pages(stream, place)
    if pages is None:
        return None
    halves = np.empty(place.rows * place.dim, np.float16)
    first = 0
    for page in pages:
        count = page.rows * place.dim
        _fill(stream, page.start, halves[first : first + count])
        first += count
    return pa.FixedSizeListArray.from_arrays(pa.array(halves), type=field.type)


def take_halves(
    stream: BinaryIO, metadata: pq.FileMetaData, group: int, field: pa.Field, rows_R: Int64
) -> Half | None:
    """Return some vectors of a row group of a file (R x D), by rising row, and read no others.

    None where Arrow has to read them, as in `read_halves`. Raises OSError.
    """
    place = _place(stream, metadata, group, field)
    pages = None if place is None else _pages(stream, place)
    if place is None or pages is None:
        return None
    first_P = np.cumsum([0, *(page.rows for page in pages)])
    page_R = np.searchsorted(first_P, rows_R, side="right") - 1
    size = place.dim * ITEM_BYTES
    start_P = np.array([page.start for page in pages])
    halves_RD = np.empty((len(rows_R), place.dim), np.float16)
    for row, start in enumerate((start_P[page_R] + (rows_R - first_P[page_R]) * size).tolist()):
        _fill(stream, start, halves_RD[row])
    return halves_RD


@dataclass(frozen=True, slots=True)
class _Place:
    """Where the pages of a column of vectors lie in a file, and what they should hold."""

    start: int
    size_bytes: int
    rows: int
    dim: int
    level: int  # of what is there


@dataclass(frozen=True, slots=True)
class _Page:
    """So many vectors, and where the first one lies in the file."""

    rows: int
    start: int


def _place(
    stream: BinaryIO, metadata: pq.FileMetaData, group: int, field: pa.Field
) -> _Place | None:
    found, dim = metadata.row_group(group), int(field.type.list_size)
    paths = [found.column(i).path_in_schema for i in range(found.num_columns)]
    if dim % _PACKED or dim <= _PACKED or f"{field.name}.list.element" not in paths:
        return None
    number = paths.index(f"{field.name}.list.element")
    column, level = found.column(number), metadata.schema.column(number).max_definition_level
    rows, start, size = found.num_rows, column.data_page_offset, column.total_compressed_size
    if (
        (column.physical_type, column.compression) != ("FIXED_LEN_BYTE_ARRAY", "UNCOMPRESSED")
        or column.has_dictionary_page
        or rows <= 0
        or column.num_values != rows * dim
        or start < 0
        or not rows * dim * ITEM_BYTES <= size <= stream.seek(0, io.SEEK_END) - start
    ):
        return None
    return _Place(start, size, rows, dim, level)


def _fill(stream: BinaryIO, start: int, halves: Half) -> None:
    stream.seek(start)
    if cast(io.BufferedReader, stream).readinto(halves.data) != halves.nbytes:
        raise OSError("the file ends within its vectors")


def is_halves(field: pa.Field) -> bool:
    """Return whether a column is of vectors of float16."""
    kind = field.type
    return bool(pa.types.is_fixed_size_list(kind) and pa.types.is_float16(kind.value_type))


def _pages(stream: BinaryIO, place: _Place) -> list[_Page] | None:
    """Return the pages of a column; None where anything of them is written in another way."""
    at, end, pages = place.start, place.start + place.size_bytes, list[_Page]()
    try:
        while at < end:
            stream.seek(at)
            reader = _Reader(memoryview(stream.read(min(_MOST_HEADER, end - at))))
            count, size = _counted(reader.numbers(), place.dim)
            at += reader.at
            if at + size > end:
                return None
            stream.seek(at)
            before = _levels(stream, size, _whole_lists(place.dim) * (count // place.dim))
            before += _levels(stream, size, bytes([*_varint(count << 1), place.level]))  # one run
            if before + count * ITEM_BYTES != size:
                return None
            pages.append(_Page(count // place.dim, at + before))
            at += size
    except _Other:
        return None
    return pages if sum(page.rows for page in pages) == place.rows else None


def _counted(header: dict[int, int], dim: int) -> tuple[int, int]:
    """Return how many numbers a page has, and its bytes. Raises _Other."""
    count, size = header.get(_DATA_HEADER * 100 + _VALUES, 0), header.get(_PAGE_BYTES, 0)
    kinds = [header.get(_DATA_HEADER * 100 + k) for k in (_ENCODING, _DEFINITION, _REPETITION)]
    if (
        header.get(_PAGE_TYPE) != _DATA_PAGE
        or kinds != [_PLAIN, _RLE, _RLE]
        or header.get(_STORED_BYTES) != size
        or not 0 < count <= size
        or count % dim
    ):
        raise _Other
    return count, size


def _levels(stream: BinaryIO, size: int, wanted: bytes) -> int:
    """Read a table of levels of a page of so many bytes; return its own. Raises _Other."""
    if int.from_bytes(stream.read(4), "little") != len(wanted) or len(wanted) > size:
        raise _Other
    if stream.read(len(wanted)) != wanted:
        raise _Other
    return 4 + len(wanted)


def _whole_lists(dim: int) -> bytes:
    """Return the levels of one whole list: 0, then 1 for each further number."""
    return bytes([1 << 1 | 1, 0b11111110, *_varint((dim - _PACKED) << 1), 1])


def _varint(value: int) -> list[int]:
    found = []
    while value > 127:
        found.append(value & 127 | 128)
        value >>= 7
    return [*found, value]


def read_groups(
    stream: BinaryIO,
    parquet: pq.ParquetFile,
    groups: Sequence[int],
    columns: Sequence[str] | None,
    *,
    far: bool,
) -> pa.Table:
    """Return row groups of a file as Arrow reads them; ``stream`` is what ``parquet`` reads."""
    schema = parquet.schema_arrow
    names = list(schema.names if columns is None else columns)
    if len(set(schema.names)) < len(schema.names):  # not ours: Arrow knows what it does
        return parquet.read_row_groups(list(groups), columns=columns, use_threads=False)
    quick = {}
    for field in (schema.field(name) for name in names):
        parts = _column(stream, parquet, groups, field, far=far) if is_halves(field) else None
        if parts is not None:
            quick[field.name] = pa.chunked_array(parts, field.type)
    others = [name for name in names if name not in quick]
    table = parquet.read_row_groups(list(groups), columns=others, use_threads=False)
    for place, name in enumerate(names):
        if name in quick:
            table = table.add_column(place, schema.field(name), quick[name])
    return table


def _column(
    stream: BinaryIO, parquet: pq.ParquetFile, groups: Sequence[int], field: pa.Field, *, far: bool
) -> list[pa.Array] | None:
    parts = []
    for group in groups:
        part = read_halves(stream, parquet.metadata, group, field, far=far)
        if part is None:
            return None
        parts.append(part)
    return parts


def take_rows(stream: BinaryIO, parquet: pq.ParquetFile, name: str, rows_R: Int64) -> Half:
    """Return some vectors of a file on a disk (R x D), whose rows rise; null ones hold anything.

    Only these are read where they are written as here. Raises OSError, ArrowException.
    """
    field, first, parts = parquet.schema_arrow.field(name), 0, list[Half]()
    for group in range(parquet.num_row_groups):
        count = parquet.metadata.row_group(group).num_rows
        low, high = np.searchsorted(rows_R, [first, first + count])
        own = rows_R[low:high] - first
        found = take_halves(stream, parquet.metadata, group, field, own) if len(own) else None
        if len(own) and found is None:
            column = parquet.read_row_group(group, columns=[name], use_threads=False).column(name)
            whole = column.combine_chunks()
            found = whole.values.to_numpy(False).reshape(-1, field.type.list_size)[own]
        parts.extend([] if found is None else [found])
        first += count
    return np.concatenate([np.empty((0, field.type.list_size), np.float16), *parts])

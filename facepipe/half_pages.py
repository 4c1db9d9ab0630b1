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

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import BinaryIO

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

Half = NDArray[np.float16]

ITEM_BYTES = 2
_PACKED = 8  # levels in one byte: a list begins with so many, the rest of it is a run
_DATA_PAGE, _PLAIN, _RLE = 0, 0, 3
_PAGE_TYPE, _PAGE_BYTES, _STORED_BYTES, _DATA_HEADER = 1, 2, 3, 5  # fields of PageHeader
_VALUES, _ENCODING, _DEFINITION, _REPETITION = 1, 2, 3, 4  # fields of DataPageHeader
_MOST_FIELDS = 64  # of a header, and of what is in it
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
    stream: BinaryIO, metadata: pq.FileMetaData, group: int, field: pa.Field
) -> pa.Array | None:
    """Return a column of a row group, R vectors (fixed-size lists of D float16), none null.

    None where they are written in another way than here, or where anything is null: then Arrow
    has to read them. ``stream`` is left elsewhere. Raises OSError where it cannot be read.
    """
    found, dim = metadata.row_group(group), int(field.type.list_size)
    paths = [found.column(i).path_in_schema for i in range(found.num_columns)]
    if dim % _PACKED or dim <= _PACKED or f"{field.name}.list.element" not in paths:
        return None
    place = paths.index(f"{field.name}.list.element")
    column, level = found.column(place), metadata.schema.column(place).max_definition_level
    rows = found.num_rows
    if (
        (column.physical_type, column.compression) != ("FIXED_LEN_BYTE_ARRAY", "UNCOMPRESSED")
        or column.has_dictionary_page
        or not rows
        or column.num_values != rows * dim
        or column.total_compressed_size < rows * dim * ITEM_BYTES
    ):
        return None
    stream.seek(column.data_page_offset)
    data = stream.read(column.total_compressed_size)
    halves = np.empty(rows * dim, np.float16)
    filled = 0
    try:
        for part in _pages(memoryview(data), dim, level):
            halves[filled : filled + len(part)] = part
            filled += len(part)
    except (_Other, ValueError):
        return None
    if filled != len(halves):
        return None
    return pa.FixedSizeListArray.from_arrays(pa.array(halves), type=field.type)


def is_halves(field: pa.Field) -> bool:
    """Return whether a column is of vectors of float16."""
    kind = field.type
    return bool(pa.types.is_fixed_size_list(kind) and pa.types.is_float16(kind.value_type))


def _pages(data: memoryview, dim: int, level: int) -> Iterator[Half]:
    """Yield the numbers of each page; ``level``: of what is there. Raises _Other."""
    reader = _Reader(data)
    while reader.at < len(data):
        header = reader.numbers()
        count, size = header.get(_DATA_HEADER * 100 + _VALUES, 0), header.get(_PAGE_BYTES, 0)
        kinds = [header.get(_DATA_HEADER * 100 + k) for k in (_ENCODING, _DEFINITION, _REPETITION)]
        if (
            header.get(_PAGE_TYPE) != _DATA_PAGE
            or kinds != [_PLAIN, _RLE, _RLE]
            or header.get(_STORED_BYTES) != size
            or not 0 < count <= size
            or count % dim
            or reader.at + size > len(data)
        ):
            raise _Other
        page = data[reader.at : reader.at + size]
        starts, page = _levels(page)
        nulls, values = _levels(page)
        if starts != _whole_lists(dim) * (count // dim) or len(values) != count * ITEM_BYTES:
            raise _Other
        if nulls != bytes([*_varint(count << 1), level]):  # one run
            raise _Other
        yield np.frombuffer(values, np.float16)
        reader.at += size


def _levels(page: memoryview) -> tuple[bytes, memoryview]:
    """Return a table of levels, and what comes after it."""
    end = 4 + int.from_bytes(page[:4], "little")
    if end > len(page):
        raise _Other
    return bytes(page[4:end]), page[end:]


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
    stream: BinaryIO, parquet: pq.ParquetFile, groups: Sequence[int], columns: Sequence[str] | None
) -> pa.Table:
    """Return row groups of a file as Arrow reads them; ``stream`` is what ``parquet`` reads."""
    schema = parquet.schema_arrow
    names = list(schema.names if columns is None else columns)
    vectors = {
        field.name: [read_halves(stream, parquet.metadata, group, field) for group in groups]
        for field in (schema.field(name) for name in names)
        if is_halves(field)
    }
    quick = {name: parts for name, parts in vectors.items() if all(p is not None for p in parts)}
    others = [name for name in names if name not in quick]
    table = parquet.read_row_groups(list(groups), columns=others, use_threads=False)
    for place, name in enumerate(names):
        if name in quick:
            whole = pa.chunked_array(quick[name], schema.field(name).type)
            table = table.add_column(place, schema.field(name), whole)
    return table

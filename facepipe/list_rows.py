"""The rows of a list of photos: a path or URL and perhaps a label, of CSV, TSV or Parquet.

Read as a stream, within limits that no row can pass. A row that cannot be read is a row with
a problem, and the rows after it are read: a quote that is never closed costs its line alone.
"""

from __future__ import annotations

import csv
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, BinaryIO

import pyarrow as pa
import pyarrow.parquet as pq

# In the order in which they are looked for; case does not matter.
PHOTO_COLUMNS = ("path", "file", "filename", "image", "image_path", "uri", "url")
# `name` is not among them: it is the photo's as often as the person's.
LABEL_COLUMNS = ("label", "identity", "class", "person", "source_label")

MAX_RECORD_LINES = 100  # of a record with line breaks in its quotes
BATCH_ROWS = 4096
MAX_FOOTER_BYTES = 64 << 20  # of the strings in it; the reader's own limit is 100 MB
BROKEN = (pa.ArrowException, OSError)  # what reading a damaged Parquet file raises


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """A row as it is written. Bytes that are no UTF-8 are lone surrogates."""

    where: str  # "line 7": what a row without a path is called
    place: str = ""  # path or URL
    label: str | None = None
    problem: str | None = None


def lists_photos(schema: pa.Schema) -> bool:
    """Return whether a Parquet file has a column of paths or URLs, and none of photos."""
    holds_bytes = any(_is_bytes(field.type) for field in schema)
    return _first_of(PHOTO_COLUMNS, schema, _is_text) is not None and not holds_bytes


def text_rows(stream: BinaryIO, max_line_bytes: int) -> Iterator[Row]:
    """Yield the rows of a CSV or TSV file; one with a problem alone where it is no list."""
    lines = _Lines(stream, max_line_bytes)
    first = lines.header()
    header = None if first is None else find_columns(first)
    if header is None:
        looked_for = ", ".join(PHOTO_COLUMNS)
        problem = "no list of photos: its first line must name its columns, one of them "
        yield Row(where="line 1", problem=f"{problem}{looked_for} (in UTF-8)")
        return
    delimiter, photo, label = header
    records = _reader(lines, delimiter)
    while True:
        lines.start()
        try:
            cells = next(records)
        except StopIteration:
            return
        except csv.Error as error:
            yield Row(where=lines.where, problem=f"the row cannot be read: {error}")
            lines.go_back()
            continue
        if cells:  # else a blank line
            cells = [*cells, *[""] * (max(photo, label) + 1 - len(cells))]
            place, found = cells[photo], cells[label] if label >= 0 else None
            if delimiter == "\t":
                place, found = _unquoted(place), found and _unquoted(found)
            yield Row(where=lines.where, place=place, label=found)


class _Lines:
    """The lines of a list for csv.reader, which can be given again all but a record's first."""

    def __init__(self, stream: BinaryIO, max_line_bytes: int) -> None:
        self._stream, self._limit = stream, max_line_bytes
        self._again: deque[str | None] = deque()
        self._taken: list[str | None] = []  # of this record; None is a line over the limit
        self._taken_chars, self._number = 0, 0

    @property
    def where(self) -> str:
        return f"line {self._number - max(len(self._taken), 1) + 1}"

    def header(self) -> str | None:
        line = self._line()
        self._number = 1
        return None if line is None else line.removeprefix("\ufeff")

    def start(self) -> None:
        """Begin a record."""
        self._taken, self._taken_chars = [], 0

    def go_back(self) -> None:
        """Give a record's lines again, all but the first: its quote was never closed."""
        self._again.extendleft(reversed(self._taken[1:]))
        self._number -= len(self._taken[1:])

    def __iter__(self) -> _Lines:
        return self

    def __next__(self) -> str:
        line: str | None = self._again.popleft() if self._again else self._line()
        if line == "":
            raise StopIteration
        self._taken.append(line)
        self._number += 1
        self._taken_chars += self._limit if line is None else len(line)
        if line is None and len(self._taken) == 1:
            raise csv.Error(f"longer than {self._limit} bytes")
        if len(self._taken) > MAX_RECORD_LINES or self._taken_chars > self._limit:
            raise csv.Error("a quote is not closed")
        assert line is not None  # it would be over the limit
        return line

    def _line(self) -> str | None:
        """Return a line, "" at the end, None for one that is too long and was passed over."""
        data = self._stream.readline(self._limit + 1)
        if len(data) <= self._limit:
            return decoded(data)
        while data and not data.endswith(b"\n"):
            data = self._stream.readline(self._limit)
        return None


def _reader(lines: Iterator[str], delimiter: str) -> Iterator[list[str]]:
    if delimiter == "\t":  # a quote in a TSV is a quote (IANA text/tab-separated-values)
        return csv.reader(lines, delimiter="\t", quoting=csv.QUOTE_NONE, strict=True)
    return csv.reader(lines, delimiter=delimiter, skipinitialspace=True, strict=True)


def _unquoted(cell: str) -> str:
    """Return a cell without the quotes that spreadsheets put around it, in a TSV too."""
    if len(cell) > 1 and cell[0] == cell[-1] == '"':
        return cell[1:-1].replace('""', '"')
    return cell


def find_columns(
    line: str, delimiters: Sequence[str] = (",", "\t", ";")
) -> tuple[str, int, int] | None:
    """Return (delimiter, column of photos, column of labels or -1) of a list's first line.

    A semicolon is what spreadsheets write where the comma is the decimal one.
    """
    for delimiter in delimiters:
        try:
            cells = next(_reader(iter([line]), delimiter), [])
        except csv.Error:
            continue
        names = [_unquoted(cell).strip().lower() for cell in cells]
        photo = next((names.index(n) for n in PHOTO_COLUMNS if n in names), None)
        if photo is not None:
            label = next((names.index(n) for n in LABEL_COLUMNS if n in names), -1)
            return delimiter, photo, label
    return None


def parquet_rows(stream: BinaryIO, max_line_bytes: int) -> Iterator[Row]:
    """Yield the rows of a Parquet file; damage costs the rest of its row group."""
    try:
        file = pq.ParquetFile(
            stream, pre_buffer=False, buffer_size=1 << 20, thrift_string_size_limit=MAX_FOOTER_BYTES
        )
        photo = _first_of(PHOTO_COLUMNS, file.schema_arrow, _is_text)
        label = _first_of(LABEL_COLUMNS, file.schema_arrow, _is_label)
    except BROKEN as error:
        yield Row(where="row 0", problem=f"damaged: {_words(error)}")
        return
    if photo is None:
        looked_for = ", ".join(PHOTO_COLUMNS)
        problem = f"no list of photos: no column of text is one of {looked_for}"
        yield Row(where="row 0", problem=problem)
        return
    end = 0
    for group in range(file.num_row_groups):
        number, end = end, end + file.metadata.row_group(group).num_rows
        try:
            for place, found in _group(file, group, photo, label):
                long = len(place or "") + len(found or "") > max_line_bytes
                words = f"longer than {max_line_bytes} bytes" if long else None
                yield Row(where=f"row {number}", place=place or "", label=found, problem=words)
                number += 1
        except BROKEN as error:
            problem = f"damaged: {end - number} rows from here: {_words(error)}"
            yield Row(where=f"row {number}", problem=problem)


def _group(
    file: pq.ParquetFile, group: int, photo: str, label: str | None
) -> Iterator[tuple[str | None, str | None]]:
    """Yield (path or URL, label) of a row group, read by pages."""
    columns = [photo] if label is None else [photo, label]
    for batch in file.iter_batches(BATCH_ROWS, [group], columns, use_threads=False):
        places = _texts(batch.column(photo))
        nothing: list[str | None] = [None] * len(places)
        yield from zip(
            places, nothing if label is None else _texts(batch.column(label)), strict=True
        )


def _words(error: Exception) -> str:
    return str(error).split("\n", 1)[0][:200]


def _first_of(
    names: Sequence[str], schema: pa.Schema, fits: Callable[[pa.DataType], bool]
) -> str | None:
    for name in names:
        for field in schema:
            only = schema.get_field_index(field.name) >= 0  # two of a name cannot be told apart
            if field.name.strip().lower() == name and only and fits(field.type):
                return str(field.name)
    return None


def _is_text(kind: pa.DataType) -> bool:
    kind = kind.value_type if pa.types.is_dictionary(kind) else kind
    return bool(
        pa.types.is_string(kind) or pa.types.is_large_string(kind) or pa.types.is_string_view(kind)
    )


def _is_label(kind: pa.DataType) -> bool:
    return _is_text(kind) or bool(pa.types.is_integer(kind))


def _is_bytes(kind: pa.DataType) -> bool:
    if pa.types.is_struct(kind):
        return any(_is_bytes(field.type) for field in kind)
    return bool(pa.types.is_binary(kind) or pa.types.is_large_binary(kind))


def _texts(column: Any) -> list[str | None]:
    """Return a column of text or whole numbers; bytes that are no UTF-8 as lone surrogates."""
    if pa.types.is_dictionary(column.type):
        column = column.dictionary_decode()
    if pa.types.is_integer(column.type):
        column = column.cast(pa.string())
    # By way of bytes: nothing says that a file's text is UTF-8.
    values = column.cast(pa.large_binary()).to_pylist()
    return [None if value is None else decoded(value) for value in values]


def decoded(data: bytes) -> str:
    """Return text of any bytes; those that are no UTF-8 become lone surrogates."""
    return data.decode("utf-8", "surrogateescape")

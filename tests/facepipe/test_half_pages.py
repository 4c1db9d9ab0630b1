"""Vectors read by their pages are those that Arrow reads, or Arrow reads them."""

from __future__ import annotations

import io
from dataclasses import dataclass, field
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from facepipe import half_pages
from facepipe.half_pages import read_groups, read_halves, take_rows


def made(rows: int, dim: int, *, null: str = "", seed: int = 0) -> pa.Table:
    vectors = np.random.default_rng(seed).standard_normal((rows, dim)).astype(np.float16)
    vectors.reshape(-1)[: rows * dim : 7] = np.float16("nan")
    element = pa.field("element", pa.float16(), nullable=null != "never")
    kind = pa.list_(element, dim)
    flat = pa.array(vectors.reshape(-1), pa.float16())
    if null == "element":
        flat = pa.array([None, *flat.to_pylist()[1:]], pa.float16())
    column = pa.FixedSizeListArray.from_arrays(flat, type=kind)
    schema = pa.schema(
        [pa.field("name", pa.string()), pa.field("vector", kind, nullable=False)],
        metadata={"facepipe.table": "embeddings"},
    )
    return pa.table([pa.array([f"f{n}" for n in range(rows)]), column], schema=schema)


def stored(table: pa.Table, **options: Any) -> bytes:
    sink = io.BytesIO()
    plain = {"name": "ZSTD", "vector.list.element": "NONE"}
    options = {"compression": plain, "use_dictionary": ["name"]} | options
    pq.write_table(table, sink, store_schema=True, **options)
    return sink.getvalue()


def quick(data: bytes, groups: list[int] | None = None) -> tuple[pa.Table, bool]:
    """Return the table, and whether its vectors were read by their pages, near and far alike."""
    stream = io.BytesIO(data)
    parquet = pq.ParquetFile(stream)
    groups = list(range(parquet.num_row_groups)) if groups is None else groups
    column = parquet.schema_arrow.field("vector")
    by_pages, found = [], []
    for far in (False, True):
        parts = [read_halves(stream, parquet.metadata, group, column, far=far) for group in groups]
        by_pages.append(all(part is not None for part in parts))
        found.append(read_groups(stream, parquet, groups, None, far=far))
    assert by_pages[0] == by_pages[1]
    same(*found)
    return found[0], by_pages[0]


def same(one: pa.Table, other: pa.Table) -> None:
    assert one.schema.equals(other.schema, check_metadata=True)
    assert one.column("name").equals(other.column("name"))
    flat = [t.column("vector").combine_chunks().flatten() for t in (one, other)]
    np.testing.assert_array_equal(*(np.asarray(f.is_null()) for f in flat))
    bits = [np.asarray(f.fill_null(np.float16(0))).view(np.uint16) for f in flat]
    np.testing.assert_array_equal(*bits)


@pytest.mark.parametrize("dim", [16, 24, 128, 512, 1024])
@pytest.mark.parametrize("rows", [1, 2, 33, 3000])
def test_vectors_are_those_that_arrow_reads(dim: int, rows: int) -> None:
    data = stored(made(rows, dim))
    found, by_pages = quick(data)
    assert by_pages
    same(found, pq.read_table(io.BytesIO(data)))


@pytest.mark.parametrize("options", [{"data_page_size": 4096}, {"row_group_size": 100}])
def test_pages_and_groups_of_other_sizes(options: dict[str, int]) -> None:
    data = stored(made(1234, 64), **options)
    found, by_pages = quick(data)
    assert by_pages
    same(found, pq.read_table(io.BytesIO(data)))
    if "row_group_size" in options:
        same(quick(data, [2, 5])[0], pq.ParquetFile(io.BytesIO(data)).read_row_groups([2, 5]))


def test_nulls_are_arrows() -> None:
    data = stored(made(50, 32, null="element"))
    found, by_pages = quick(data)
    assert not by_pages
    assert found.column("vector").to_pylist()[0][0] is None
    same(found, pq.read_table(io.BytesIO(data)))


@pytest.mark.parametrize(
    "options",
    [
        {"compression": "ZSTD"},
        {"data_page_version": "2.0"},
        {"column_encoding": {"vector.list.element": "BYTE_STREAM_SPLIT"}, "use_dictionary": False},
        {"use_dictionary": ["vector.list.element"]},
    ],
)
def test_what_is_written_in_another_way_is_arrows(options: dict[str, Any]) -> None:
    data = stored(made(300, 32), **options)
    found, by_pages = quick(data)
    assert not by_pages
    same(found, pq.read_table(io.BytesIO(data)))


@pytest.mark.parametrize(("rows", "dim"), [(0, 32), (5, 7), (5, 8), (40, 20)])
def test_no_rows_and_odd_dimensions_are_arrows(rows: int, dim: int) -> None:
    data = stored(made(rows, dim))
    found, by_pages = quick(data)
    assert not by_pages or not rows
    same(found, pq.read_table(io.BytesIO(data)))


def test_elements_that_are_never_null() -> None:
    data = stored(made(70, 32, null="never"))
    found, by_pages = quick(data)
    assert by_pages
    same(found, pq.read_table(io.BytesIO(data)))


def test_a_changed_byte_gives_what_arrow_gives_or_is_left_to_it() -> None:
    """Of the headers and levels; Arrow may refuse, and so may not be asked to compare."""
    data = stored(made(40, 16))
    column = pq.ParquetFile(io.BytesIO(data)).metadata.row_group(0).column(1)
    start = column.data_page_offset
    end = start + column.total_compressed_size - 40 * 16 * 2
    taken = 0
    for at in range(start, end):
        for bit in (1, 16, 128):
            changed = bytearray(data)
            changed[at] ^= bit
            stream = io.BytesIO(bytes(changed))
            parquet = pq.ParquetFile(stream)
            vectors = parquet.schema_arrow.field("vector")
            found = read_halves(stream, parquet.metadata, 0, vectors, far=False)
            if found is None:
                continue
            taken += 1  # such as a statistic
            assert len(found) == 40
            same(quick(bytes(changed))[0], pq.read_table(io.BytesIO(data)))
    assert 0 < taken < 3 * (end - start) // 2


def test_a_header_that_never_ends_is_left_to_arrow() -> None:
    for data in (b"", b"\x15" * 300, b"\x1c" * 300, b"\xff" * 300, b"\x18\xff\xff\xff\xff\x7f" * 9):
        with pytest.raises(half_pages._Other):
            half_pages._Reader(memoryview(data)).numbers()


@pytest.mark.parametrize("options", [{}, {"row_group_size": 100}, {"compression": "ZSTD"}])
@pytest.mark.parametrize("share", [0.0, 0.03, 1.0])
def test_some_rows_are_those_of_all(options: dict[str, Any], share: float, tmp_path: Path) -> None:
    (tmp_path / "x.parquet").write_bytes(stored(made(1234, 64), **options))
    rows = np.flatnonzero(np.random.default_rng(0).random(1234) < share)
    with (tmp_path / "x.parquet").open("rb") as stream, pq.ParquetFile(stream) as parquet:
        found = take_rows(stream, parquet, "vector", rows)
        flat = parquet.read(["vector"]).column("vector").combine_chunks().flatten()
    assert found.shape == (len(rows), 64)
    wanted = flat.to_numpy(False).reshape(-1, 64)[rows]
    np.testing.assert_array_equal(found.view(np.uint16), wanted.view(np.uint16))


def test_only_the_rows_asked_for_are_read(tmp_path: Path) -> None:
    path = tmp_path / "x.parquet"
    path.write_bytes(stored(made(20_000, 512)))
    with path.open("rb", buffering=0) as raw, pq.ParquetFile(path) as parquet:
        counted = Counted(raw)
        take_rows(io.BufferedReader(counted), parquet, "vector", np.array([7, 19_000]))
    assert counted.bytes < path.stat().st_size / 20


class Counted(io.RawIOBase):
    """Counts what is read."""

    def __init__(self, raw: io.FileIO) -> None:
        self.raw, self.bytes = raw, 0

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def seek(self, place: int, whence: int = 0) -> int:
        return self.raw.seek(place, whence)

    def readinto(self, target: Any) -> int:
        count = self.raw.readinto(target)
        assert count is not None
        self.bytes += count
        return count


@dataclass
class Told:
    """Metadata that say of the vectors' column what they are told to."""

    real: pq.FileMetaData
    rows: int | None = None
    of_column: dict[str, int] = field(default_factory=dict)

    @property
    def schema(self) -> Any:
        return self.real.schema

    def row_group(self, group: int) -> Any:
        found = self.real.row_group(group)
        columns = [found.column(i) for i in range(found.num_columns)]
        names = ("path_in_schema", "physical_type", "compression", "has_dictionary_page")
        names += ("num_values", "data_page_offset", "total_compressed_size")
        said = [{name: getattr(column, name) for name in names} for column in columns]
        told = [SimpleNamespace(**own | self.of_column) for own in said]
        rows = found.num_rows if self.rows is None else self.rows
        return SimpleNamespace(num_rows=rows, num_columns=len(told), column=told.__getitem__)


@pytest.mark.parametrize("far", [False, True])
@pytest.mark.parametrize(
    ("rows", "of_column"),
    [
        (None, {"total_compressed_size": 2**45}),
        (None, {"data_page_offset": -1}),
        (None, {"data_page_offset": 2**40}),
        (-1, {"num_values": -32}),
        (2**40, {"num_values": 2**45}),
        (2**40, {"num_values": 2**45, "total_compressed_size": 2**50}),
        (99, {"num_values": 99 * 32}),
    ],
)
def test_numbers_that_cannot_be_are_left_to_arrow(
    rows: int | None, of_column: dict[str, int], far: bool
) -> None:
    """Nothing is allocated on the word of a file."""
    stream = io.BytesIO(stored(made(100, 32)))
    parquet = pq.ParquetFile(stream)
    told: Any = Told(parquet.metadata, rows, of_column)
    column = parquet.schema_arrow.field("vector")
    assert read_halves(stream, told, 0, column, far=far) is None

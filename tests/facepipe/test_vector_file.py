"""The file of exact vectors: what is written is what is mapped, and nothing else gets in."""

from __future__ import annotations

import hashlib
import io
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from facepipe.errors import CorruptData
from facepipe.vector_file import BLOCK_ROWS, VectorWriter, open_vectors


def units(count: int, dim: int = 8) -> NDArray[np.float16]:
    raw = np.random.default_rng(count).normal(size=(count, dim))
    return (raw / np.linalg.norm(raw, axis=1, keepdims=True)).astype(np.float16)


@pytest.mark.parametrize("count", [0, 1, 2, BLOCK_ROWS - 1, BLOCK_ROWS, 2 * BLOCK_ROWS + 3])
@pytest.mark.parametrize("step", [1 << 30, 1000])
def test_the_bytes_are_the_rows(tmp_path: Path, count: int, step: int) -> None:
    vectors = units(count)
    path = tmp_path / "v"
    with path.open("wb") as stream:
        writer = VectorWriter(stream, 8)
        for start in range(0, count, step):
            writer.add(vectors[start : start + step])
        file = writer.close()
        assert not stream.closed
    data = path.read_bytes()
    assert data == b"".join(row.astype("<f2").tobytes() for row in vectors)
    assert (file.bytes, file.sha256) == (len(data), hashlib.sha256(data).hexdigest())
    mapped = open_vectors(path, count, 8)
    assert mapped.dtype == np.float16
    np.testing.assert_array_equal(mapped, vectors)
    assert not mapped.flags.writeable


def test_rows_that_are_not_next_to_each_other(tmp_path: Path) -> None:
    vectors = units(20, 16)
    stream = io.BytesIO()
    writer = VectorWriter(stream, 8)
    writer.add(vectors[:0, ::2])
    turned = np.ascontiguousarray(units(20).T).T
    writer.add(turned[::2])
    assert stream.getvalue() == turned[::2].tobytes()


@pytest.mark.parametrize(
    "wrong", [np.nan, np.inf, -np.inf, 0.0, 2.0], ids=["nan", "inf", "-inf", "short", "long"]
)
@pytest.mark.parametrize("row", [0, 7, BLOCK_ROWS + 1])
def test_a_row_that_is_no_unit_vector_is_named_and_nothing_is_written(
    wrong: float, row: int
) -> None:
    vectors = units(BLOCK_ROWS + 2)
    vectors[row] = 0
    vectors[row, 0] = wrong
    stream = io.BytesIO()
    writer = VectorWriter(stream, 8)
    writer.add(units(3))
    with pytest.raises(CorruptData, match=rf"row {row + 3} is not a unit vector .* --repair"):
        writer.add(vectors)
    assert (writer.rows, len(stream.getvalue())) == (3, 48)


@pytest.mark.parametrize("length", [0.991, 1.0, 1.009])
def test_what_rounding_bends_is_a_unit_vector(length: float) -> None:
    VectorWriter(io.BytesIO(), 2).add(np.array([[length, 0]], np.float16))


@pytest.mark.parametrize("length", [0.98, 1.02])
def test_what_it_does_not_bend_is_none(length: float) -> None:
    with pytest.raises(CorruptData, match=f"length {length}"):
        VectorWriter(io.BytesIO(), 2).add(np.array([[length, 0]], np.float16))


@pytest.mark.parametrize(
    "vectors", [np.ones((2, 7), np.float16), np.ones((2, 8), np.float32), np.ones(8, np.float16)]
)
def test_another_shape_or_type_is_refused(vectors: NDArray[np.float16]) -> None:
    with pytest.raises(ValueError, match="cannot be written"):
        VectorWriter(io.BytesIO(), 8).add(vectors)


@pytest.mark.parametrize("size", [0, 1, 31, 33, 64])
def test_a_file_of_another_size_is_refused(tmp_path: Path, size: int) -> None:
    path = tmp_path / "v"
    path.write_bytes(bytes(size))
    with pytest.raises(CorruptData, match=f"has {size} bytes and not 32"):
        open_vectors(path, 2, 8)


def test_a_file_that_is_not_there_is_damage(tmp_path: Path) -> None:
    with pytest.raises(CorruptData, match="cannot be read"):
        open_vectors(tmp_path / "none", 0, 8)

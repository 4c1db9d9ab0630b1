"""Nearest neighbours against a brute-force sort, and vectors found by their face."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pytest

from facepipe import neighbors
from facepipe.neighbors import nearest, unit_rows, vector_matrix, vector_rows

Array = npt.NDArray[np.floating]


def brute_force(queries: Array, base: Array, k: int) -> tuple[Array, npt.NDArray[np.int64]]:
    scores = queries.astype(np.float32) @ base.astype(np.float32).T
    rows = np.argsort(-scores, axis=1, kind="stable")[:, :k]
    return np.take_along_axis(scores, rows, axis=1), rows


def grid(rng: np.random.Generator, *shape: int) -> npt.NDArray[np.float32]:
    """Small integers: products are exact in any order, and full of ties."""
    return rng.integers(-2, 3, shape).astype(np.float32)


@pytest.mark.parametrize("dtype", [np.float16, np.float32])
@pytest.mark.parametrize("queries", [0, 1, 7, 40])
@pytest.mark.parametrize("base", [1, 5, 16, 33])
@pytest.mark.parametrize("k", [1, 4, 100])
def test_agrees_with_brute_force_also_in_ties_and_over_blocks(
    monkeypatch: pytest.MonkeyPatch, dtype: type, queries: int, base: int, k: int
) -> None:
    monkeypatch.setattr(neighbors, "QUERY_BLOCK_ROWS", 8)
    monkeypatch.setattr(neighbors, "BASE_BLOCK_ROWS", 8)
    rng = np.random.default_rng([queries, base, k])
    a, b = grid(rng, queries, 3).astype(dtype), grid(rng, base, 3).astype(dtype)
    scores, rows = nearest(a, b, k)
    expected_scores, expected_rows = brute_force(a, b, k)
    assert scores.dtype == np.float32 and rows.dtype == np.int64
    np.testing.assert_array_equal(scores, expected_scores)
    np.testing.assert_array_equal(rows, expected_rows)


def test_zero_and_minus_zero_tie() -> None:
    base = np.array([[-0.0, 1.0], [0.0, 1.0], [-0.0, 1.0]], np.float32)
    scores, rows = nearest(np.array([[1.0, 0.0]], np.float32), base, 3)
    assert rows.tolist() == [[0, 1, 2]]
    assert scores.tolist() == [[0.0, 0.0, 0.0]]


def test_an_empty_base_has_no_neighbours() -> None:
    scores, rows = nearest(np.ones((2, 3), np.float32), np.empty((0, 3), np.float32), 5)
    assert scores.shape == rows.shape == (2, 0)


def test_no_neighbours_cannot_be_asked_for() -> None:
    with pytest.raises(ValueError, match="k is 0"):
        nearest(np.ones((1, 3), np.float32), np.ones((1, 3), np.float32), 0)


def test_unit_rows_leaves_its_input_alone_and_zero_at_zero() -> None:
    vectors = np.array([[3.0, 4.0], [0.0, 0.0]], np.float32)
    np.testing.assert_allclose(unit_rows(vectors), [[0.6, 0.8], [0.0, 0.0]], rtol=1e-6)
    assert vectors.tolist() == [[3.0, 4.0], [0.0, 0.0]]


def embeddings(ids: list[str], vectors: list[list[float] | None]) -> pa.Table:
    rows = [None if v is None else np.array(v, np.float16) for v in vectors]
    columns = [pa.array(ids, pa.string()), pa.array(rows, pa.list_(pa.float16(), 2))]
    return pa.table(columns, names=["face_id", "vector"])


def test_vectors_are_found_by_face_over_chunks_slices_nulls_and_repeats() -> None:
    first = embeddings(["x", "a", "b"], [[9, 9], [1, 2], None])
    second = embeddings(["b", "a", "c"], [[3, 4], [7, 7], None])
    table = pa.concat_tables([first.slice(1), second])  # a, b (null), b, a (again), c (null)
    rows = vector_rows(pa.chunked_array([["c", "b"], ["a", "nobody", "x"]]), table)
    assert rows.tolist() == [-1, 2, 0, -1, -1]
    matrix = vector_matrix(table)
    assert matrix.dtype == np.float16 and matrix.shape == (5, 2)
    np.testing.assert_array_equal(matrix[rows[[1, 2]]], [[3, 4], [1, 2]])


def test_one_chunk_is_not_copied() -> None:
    table = embeddings(["a", "b"], [[1, 2], [3, 4]])
    assert not vector_matrix(table).flags.owndata


def test_an_empty_table_gives_an_empty_matrix() -> None:
    assert vector_matrix(embeddings([], [])).shape == (0, 2)
    assert vector_rows(pa.chunked_array([["a"]]), embeddings([], [])).tolist() == [-1]

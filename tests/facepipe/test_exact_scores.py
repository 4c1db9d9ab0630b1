"""Scores that depend on the query and the row alone, and their order."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from facepipe.exact_scores import (
    NO_ROW,
    PAIRS,
    pair_scores,
    pairs_of,
    ranked,
    scan,
)
from tests.facepipe.made_index import names, units

Half = NDArray[np.float16]


def gather(base: Half) -> Callable[[Any, Half], None]:
    def write(rows: Any, out: Half) -> None:
        out[:] = base[rows]

    return write


@pytest.mark.parametrize("dim", [1, 3, 16, 512])
def test_a_score_does_not_depend_on_the_pairs_around_it(dim: int) -> None:
    base, queries = units(900, dim), units(7, dim, seed=1).astype(np.float32)
    query_P, row_P = np.divmod(np.arange(7 * 900), 900)
    assert len(query_P) > PAIRS  # more than one block, cut through a query
    scores = pair_scores(queries, (query_P, row_P), gather(base))
    expected = queries.astype(np.float64) @ base.astype(np.float64).T
    np.testing.assert_allclose(scores.reshape(7, 900), expected, atol=2e-6)
    rng = np.random.default_rng(3)
    for size in (1, 2, 3, 50):
        some = np.sort(rng.choice(len(query_P), size, replace=False))
        alone = pair_scores(queries, (query_P[some], row_P[some]), gather(base))
        np.testing.assert_array_equal(alone, scores[some])
    hits = scan(queries, base, None, 900, np.full(7, -np.inf, np.float32))
    np.testing.assert_array_equal(
        np.take_along_axis(scores.reshape(7, 900), hits[1], axis=1), hits[0]
    )


@pytest.mark.parametrize("asked", [1, 6, 7, 40])
@pytest.mark.parametrize(("count", "k"), [(3, 5), (500, 10), (6221, 3)])
def test_a_scan_finds_the_best_rows(count: int, k: int, asked: int) -> None:
    base, queries = units(count, 16), units(asked, 16, seed=1).astype(np.float32)
    scores, rows = scan(queries, base, None, k, np.full(asked, -np.inf, np.float32))
    every = np.divmod(np.arange(asked * count), count)
    exact = pair_scores(queries, every, gather(base)).reshape(asked, count)
    order = np.lexsort((np.broadcast_to(np.arange(count), exact.shape), -exact))[:, :k]
    kept = min(k, count)
    np.testing.assert_array_equal(rows[:, :kept], order)
    np.testing.assert_array_equal(scores[:, :kept], np.take_along_axis(exact, order, axis=1))
    assert (rows[:, kept:] == NO_ROW).all()
    assert np.isneginf(scores[:, kept:]).all()


def test_a_scan_of_some_rows_and_from_a_floor() -> None:
    base, queries = units(300, 16), units(5, 16, seed=1).astype(np.float32)
    none = np.full(5, -np.inf, np.float32)
    some = np.arange(1, 300, 7)
    all_scores, all_rows = scan(queries, base, some, len(some), none)
    assert set(all_rows.ravel()) == set(some)
    floor = all_scores[:, 3]
    scores, rows = scan(queries, base, some, 10, floor)
    for q in range(5):  # what is below the floor may be left out, nothing above it
        kept = rows[q] != NO_ROW
        np.testing.assert_array_equal(rows[q][kept][:4], all_rows[q][:4])
        assert (scores[q][kept] == all_scores[q][: kept.sum()]).all()


@given(st.lists(st.integers(0, 3), min_size=1, max_size=80), st.integers(1, 90))
def test_equal_scores_are_in_the_order_of_the_rows(which: list[int], k: int) -> None:
    base = np.eye(4, 16, dtype=np.float16)[which]
    query = np.array([[0.8, 0.5, 0.3, 0.1] + [0] * 12], np.float32)
    _, rows = scan(query, base, None, k, np.full(1, -np.inf, np.float32))
    expected = sorted(range(len(which)), key=lambda row: (which[row], row))[:k]
    assert rows[0][: len(expected)].tolist() == expected


@given(st.lists(st.tuples(st.integers(0, 3), st.integers(0, 2)), max_size=60), st.integers(1, 9))
def test_hits_are_ranked_by_score_then_name(found: list[tuple[int, int]], k: int) -> None:
    """Rows 0.. have the names of the face ids in reverse."""
    named = names(len(found))[::-1]
    query = np.array([q for q, _ in found], np.int64)
    value = np.array([s for _, s in found], np.float32)
    rows = np.arange(len(found))
    scores, ranks = ranked(
        4, (query, rows), value, k, lambda r: np.array([named[i].encode() for i in r])
    )
    for q in range(4):
        expected = sorted(rows[query == q], key=lambda r: (-value[r], named[r]))[:k]
        missing = k - len(expected)
        assert ranks[q].tolist() == expected + [NO_ROW] * missing
        assert scores[q].tolist() == value[expected].tolist() + [-np.inf] * missing
    (query_P, row_P), score_P = pairs_of((scores, ranks))
    assert (np.diff(query_P) >= 0).all()
    assert sorted(row_P) == sorted(r for row in ranks.tolist() for r in row if r != NO_ROW)
    np.testing.assert_array_equal(score_P, value[row_P])

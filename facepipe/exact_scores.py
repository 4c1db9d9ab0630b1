"""Exact cosines of float16 vectors, and the order of hits.

A score is one float32 sum over the widened row in a fixed order (numpy's einsum), so it depends
on the query and the row alone: not on the batch, the shard or the thread it is computed in. What is
faster (`facepipe.rough_scores`) only says which rows are worth it.

Legend: Q queries, N rows, D dimensions, B rows of a block, P pairs of a query and a row, K hits.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

import numpy as np
from numpy.typing import NDArray

from facepipe.half_floats import widened
from facepipe.rough_scores import rough_scores

Float16 = NDArray[np.float16]
Float32 = NDArray[np.float32]
Int64 = NDArray[np.int64]
Pairs = tuple[Int64, Int64]  # query, row
Hits = tuple[Float32, Int64]  # scores_QK falling, rows_QK
Gather = Callable[[Int64, Float16], None]  # writes the vectors of rows into an array

NO_ROW = -1  # of a hit that is missing; its score is -inf
SCAN_QUERIES = 1024  # a pass over the gallery for so many
PAIRS = 256  # gathered, widened and scored at a time: 750 KB at 512 dimensions
FEW_EACH = (
    8  # pairs of a query: with fewer it is as fast to repeat the query; the sums are the same
)
TABLE_ITEMS = 2**22  # scores laid out by query to find the best: 16 MB


def pair_scores(queries_QD: Float32, pairs: Pairs, gather: Gather) -> Float32:
    """Return the exact score of each pair; they come query by query."""
    query_P, row_P = pairs
    scores_P = np.empty(len(row_P), np.float32)
    shape = min(PAIRS, len(row_P)), queries_QD.shape[1]
    half_PD, wide_PD = np.empty(shape, np.float16), np.empty(shape, np.float32)
    for start in range(0, len(row_P), PAIRS):
        some = slice(start, start + PAIRS)
        count = len(row_P[some])
        gather(row_P[some], half_PD[:count])
        widened(half_PD[:count], wide_PD[:count])
        _score(queries_QD, query_P[some], wide_PD, scores_P[some])
    return scores_P


def _score(queries_QD: Float32, query_P: Int64, wide_PD: Float32, scores_P: Float32) -> None:
    """Write the scores of pairs that come query by query."""
    starts = np.flatnonzero(np.diff(query_P, prepend=-1))
    if len(starts) * FEW_EACH > len(query_P):
        np.einsum("pd,pd->p", wide_PD[: len(query_P)], queries_QD[query_P], out=scores_P)
        return
    for start, end in zip(starts, np.append(starts[1:], len(query_P)), strict=True):
        query_D = queries_QD[query_P[start]]
        np.einsum("pd,d->p", wide_PD[start:end], query_D, out=scores_P[start:end])


def scan(
    queries_QD: Float32, vectors_ND: Float16, rows_N: Int64 | None, k: int, floor_Q: Float32
) -> Hits:
    """Return each query's k best of some rows (None: of all), by score, then row.

    queries_QD, vectors_ND: unit vectors. floor_Q: what a hit must score at least; -inf takes
    all. Missing hits are NO_ROW.
    """
    count = len(queries_QD)
    best = np.full((count, k), -np.inf, np.float32), np.full((count, k), NO_ROW)
    if not count:
        return best
    rough = rough_scores(queries_QD)
    for rows_B, vectors_BD in _blocks(vectors_ND, rows_N, rough.block_rows):
        least_Q = np.maximum(floor_Q, best[0][:, -1])
        query_P, place_P = rough.worth(vectors_BD, least_Q, k)
        if not len(query_P):
            continue

        def gather(places: Int64, out: Float16, block: Float16 = vectors_BD) -> None:
            np.take(block, places, axis=0, out=out, mode="clip")

        scores_P = pair_scores(queries_QD, (query_P, place_P), gather)
        _add_better(best, query_P, scores_P, rows_B[place_P])
    return best


def _blocks(
    vectors_ND: Float16, rows_N: Int64 | None, size: int
) -> Iterator[tuple[Int64, Float16]]:
    total = len(vectors_ND) if rows_N is None else len(rows_N)
    for start in range(0, total, size):
        if rows_N is None:
            block = vectors_ND[start : start + size]
            yield np.arange(start, start + len(block)), block
        else:
            rows_B = rows_N[start : start + size]
            yield rows_B, vectors_ND[rows_B]


def _add_better(best: Hits, query_P: Int64, scores_P: Float32, rows_P: Int64) -> None:
    """Put scores that come query by query among the K best of their queries so far."""
    starts = np.flatnonzero(np.diff(query_P, prepend=-1))
    asked = query_P[starts]
    count_A = np.diff(np.append(starts, len(query_P)))
    at_P = np.repeat(np.arange(len(asked)), count_A), _within(query_P)
    scores = np.full((len(asked), int(count_A.max())), -np.inf, np.float32)
    rows = np.full(scores.shape, NO_ROW)
    scores[at_P], rows[at_P] = scores_P, rows_P
    scores, rows = np.hstack([best[0][asked], scores]), np.hstack([best[1][asked], rows])
    order = np.lexsort((rows, -scores), axis=-1)[:, : best[0].shape[1]]
    best[0][asked] = np.take_along_axis(scores, order, 1)
    best[1][asked] = np.take_along_axis(rows, order, 1)


def _within(query_P: Int64) -> Int64:
    """Return each pair's place among those of its query; they come query by query."""
    starts = np.flatnonzero(np.diff(query_P, prepend=-1))
    lengths = np.diff(np.append(starts, len(query_P)))
    within: Int64 = np.arange(len(query_P)) - np.repeat(starts, lengths)
    return within


def ranked(
    queries: int,
    pairs: Pairs,
    scores_P: Float32,
    k: int,
    names: Callable[[Int64], NDArray[np.bytes_]],
) -> Hits:
    """Return each query's k best pairs, by falling score; equal scores by ``names`` of rows."""
    query_P, row_P, scores_P = _worth_ranking(queries, pairs, scores_P, k)
    order = np.lexsort((-scores_P, query_P))
    query_P, row_P, scores_P = query_P[order], row_P[order], scores_P[order]
    same = (query_P[1:] == query_P[:-1]) & (scores_P[1:] == scores_P[:-1])
    tied = np.append(same, False) | np.append(False, same)
    if tied.any():
        name_P = np.zeros(len(row_P), np.int64)
        name_P[tied] = np.unique(names(row_P[tied]), return_inverse=True)[1]
        order = np.lexsort((name_P, -scores_P, query_P))
        row_P, scores_P = row_P[order], scores_P[order]
    place_P = _within(query_P)
    kept = place_P < k
    scores_QK = np.full((queries, k), -np.inf, np.float32)
    rows_QK = np.full((queries, k), NO_ROW)
    scores_QK[query_P[kept], place_P[kept]] = scores_P[kept]
    rows_QK[query_P[kept], place_P[kept]] = row_P[kept]
    return scores_QK, rows_QK


def _worth_ranking(
    queries: int, pairs: Pairs, scores_P: Float32, k: int
) -> tuple[Int64, Int64, Float32]:
    """Leave out pairs that are not among the k best, where there are not too many to say so."""
    query_P, row_P = pairs
    most = int(np.bincount(query_P, minlength=1).max())
    if most <= k or queries * most > TABLE_ITEMS or (np.diff(query_P) < 0).any():
        return query_P, row_P, scores_P
    scores_QC = np.full((queries, most), -np.inf, np.float32)
    scores_QC[query_P, _within(query_P)] = scores_P
    least_Q = np.partition(scores_QC, most - k, axis=1)[:, most - k]
    fit = scores_P >= least_Q[query_P]
    return query_P[fit], row_P[fit], scores_P[fit]


def pairs_of(hits: Hits) -> tuple[Pairs, Float32]:
    """Return hits as pairs query by query, with their scores; missing ones are left out."""
    scores_QK, rows_QK = hits
    query_P, place_P = np.nonzero(rows_QK != NO_ROW)
    return (query_P, rows_QK[query_P, place_P]), scores_QK[query_P, place_P]

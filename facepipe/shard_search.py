"""One search over all shards of a gallery: by their codes, or of every row.

Legend: Q queries, D dimensions, K hits, P pairs of a query and a row, N rows of all shards.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np

from facepipe.exact_scores import (
    SCAN_QUERIES,
    Float16,
    Float32,
    Hits,
    Int64,
    pair_scores,
    pairs_of,
    ranked,
    scan,
)
from facepipe.gallery_codes import Bits, Codes
from facepipe.open_shards import Mask, Shards

CODE_QUERIES = 1024  # answered at once: a list that is read serves 11 of them
SLICE_QUERIES = 32  # for a thread of its own
PIECE_ROWS = 8192  # likewise, of an exact search
# So few allowed rows, or this share of those in the lists of a search, are scored exactly, which
# also finds them all: a row costs about 10 ns in a batch, its codes 1 to 4 (4 bits) or 50 (8
# bits); but it is read from disk where the vectors do not fit in memory.
EXACT_ROWS, EXACT_SHARE = 4096, 0.1


@dataclass(frozen=True, slots=True)
class Allowed:
    """The rows that a search may find."""

    mask: Mask  # N
    count: int
    bits: Bits | None  # the same for codes

    @classmethod
    def of(cls, mask: Mask, codes: Codes | None) -> Allowed:
        """Take a mask over all rows."""
        return cls(mask, int(np.count_nonzero(mask)), None if codes is None else codes.bits(mask))


@dataclass(frozen=True, slots=True)
class Piece:
    """Consecutive rows of one shard, from ``first``; places: those that are allowed, None: all."""

    first: int
    vectors: Float16
    places: Int64 | None


def is_exact_cheaper(codes: Codes, nprobe: int, allowed: Allowed | None) -> bool:
    """Tell whether to score all rows that are allowed, rather than to look at their codes."""
    rows = codes.rows if allowed is None else allowed.count
    looked_at = codes.rows * nprobe / codes.nlist
    return bool(rows <= max(EXACT_ROWS, EXACT_SHARE * looked_at))


def search_codes(
    shards: Shards,
    codes: Codes,
    queries_QD: Float32,
    k: int,
    nprobe: int,
    candidates: int,
    allowed: Allowed | None,
    threads: int,
) -> Hits:
    """Return the k best of the rows that look best by their codes, in so many lists."""

    def answer(some_QD: Float32) -> Hits:
        bits = None if allowed is None else allowed.bits
        pairs = codes.candidates(some_QD, max(candidates, k), nprobe, bits)
        scores = pair_scores(some_QD, pairs, shards.gather)
        return ranked(len(some_QD), pairs, scores, k, shards.face_ids)

    threads = max(1, min(threads, len(queries_QD) // SLICE_QUERIES))
    blocks = _blocks(queries_QD, min(CODE_QUERIES, -(-len(queries_QD) // threads)))
    if threads == 1:
        return _stacked(map(answer, blocks), k)
    with ThreadPoolExecutor(threads) as pool:
        return _stacked(pool.map(answer, blocks), k)


def search_all(
    shards: Shards, queries_QD: Float32, k: int, allowed: Allowed | None, threads: int
) -> Hits:
    """Return the k best of all rows that are allowed."""
    pieces = list(_pieces(shards, allowed, threads))
    blocks = _blocks(queries_QD, SCAN_QUERIES)
    if threads == 1 or len(pieces) < 2:
        return _stacked((_nearest(shards, pieces, some_QD, k, None) for some_QD in blocks), k)
    with ThreadPoolExecutor(threads) as pool:
        return _stacked((_nearest(shards, pieces, some_QD, k, pool) for some_QD in blocks), k)


def _pieces(shards: Shards, allowed: Allowed | None, threads: int) -> Iterator[Piece]:
    """Yield all vectors, shard by shard, in pieces that occupy so many threads."""
    most = max(PIECE_ROWS, -(-len(shards) // threads))
    for shard in shards.all:
        for start in range(0, len(shard), most):
            vectors = shard.vectors[start : start + most]
            first = shard.first + start
            own = slice(first, first + len(vectors))
            places = None if allowed is None else np.flatnonzero(allowed.mask[own])
            yield Piece(first, vectors, places)


def _nearest(
    shards: Shards,
    pieces: Sequence[Piece],
    queries_QD: Float32,
    k: int,
    pool: ThreadPoolExecutor | None,
) -> Hits:
    floor_Q = np.full(len(queries_QD), -np.inf, np.float32)
    if pool is not None:
        found = list(pool.map(lambda p: scan(queries_QD, p.vectors, p.places, k, floor_Q), pieces))
    else:
        found = []
        for piece in pieces:  # each knows what the ones before have found
            found.append(scan(queries_QD, piece.vectors, piece.places, k, floor_Q))
            floor_Q = np.maximum(floor_Q, found[-1][0][:, -1])
    queries, rows, scores = [np.zeros(0, np.int64)], [np.zeros(0, np.int64)], [floor_Q[:0]]
    for piece, hits in zip(pieces, found, strict=True):
        (query_P, place_P), score_P = pairs_of(hits)
        queries.append(query_P)
        rows.append(piece.first + place_P)
        scores.append(score_P)
    pairs = np.concatenate(queries), np.concatenate(rows)
    return ranked(len(queries_QD), pairs, np.concatenate(scores), k, shards.face_ids)


def _blocks(queries_QD: Float32, rows: int) -> list[Float32]:
    return [queries_QD[i : i + rows] for i in range(0, len(queries_QD), max(1, rows))]


def _stacked(blocks: Iterable[Hits], k: int) -> Hits:
    none = np.zeros((0, k), np.float32), np.zeros((0, k), np.int64)
    scores, rows = zip(none, *blocks, strict=True)
    return np.concatenate(scores), np.concatenate(rows)

"""The codes of a gallery: which rows of all its shards are worth an exact score.

A row is a number over all shards: the first of its shard plus its place there.
Legend: Q queries, D dimensions, L lists, K hits, P pairs of a query and a row.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from facepipe.errors import CorruptData
from facepipe.exact_scores import Float32, Hits, Int64, Pairs
from facepipe.index_template import TrainedTemplate, load_faiss
from facepipe.nearest_lists import NearestLists

Bits = tuple[NDArray[np.uint8], ...]  # of each part: one for each row, the lowest first

SLACK = 16  # rows asked for beyond the candidates: 4-bit codes give neighbours the same score
FAIR_SHARE = 4  # candidates asked of one part of several: so many times its share of the rows
ASK_MORE = 4  # times as many rows, where those were not enough
HITS = 2**24  # approximate hits at a time: 200 MB


@dataclass(frozen=True, slots=True)
class Part:
    """Codes of consecutive shards: id i of the faiss index is row ``first + i``."""

    first: int
    index: Any = field(repr=False)
    uri: str = ""

    @property
    def rows(self) -> int:
        """Return how many rows it has."""
        return int(self.index.ntotal)


@dataclass(frozen=True, slots=True)
class Codes:
    """The codes of a gallery; safe to search from several threads."""

    parts: tuple[Part, ...]
    rows: int
    nlist: int
    code_bytes: int
    nearest: NearestLists = field(repr=False)

    def bits(self, mask: NDArray[np.bool_]) -> Bits:
        """Return which rows of all may be found, as a search takes it."""
        parts = (mask[part.first : part.first + part.rows] for part in self.parts)
        return tuple(np.packbits(part, bitorder="little") for part in parts)

    @classmethod
    def of(cls, template: TrainedTemplate, parts: list[Part]) -> Codes:
        """Put parts with one template together."""
        some = tuple(part for part in parts if part.rows)
        rows = sum(part.rows for part in some)
        return cls(some, rows, template.record.nlist, template.code_bytes, NearestLists(template))

    def candidates(
        self, queries_QD: Float32, count: int, nprobe: int, allowed: Bits | None
    ) -> Pairs:
        """Return each query's rows whose approximate score is among the ``count`` best.

        All rows with the score of the last one are taken: which of them faiss keeps depends on
        their order in its lists, and so on how the gallery is cut into shards. Rows that are
        not allowed are not looked at. The pairs come query by query.

        Raises CorruptData for an id that is no row.
        """
        lists_QL, products_QL = self.nearest.find(queries_QD, nprobe)
        found: list[Pairs] = []
        todo = [(np.arange(len(queries_QD)), 1)]
        while todo:
            asked, times = todo.pop()
            query = queries_QD[asked], lists_QL[asked], products_QL[asked]
            (query_P, row_P), unsure = self._best(query, count, times, allowed)
            found.append((asked[query_P], row_P))
            step = max(1, HITS // (count * times * ASK_MORE * max(1, len(self.parts))))
            again = asked[unsure]
            todo += [(again[i : i + step], times * ASK_MORE) for i in range(0, len(again), step)]
        query_P, row_P = (np.concatenate(column) for column in zip(*found, strict=True))
        order = slice(None) if len(found) == 1 else np.argsort(query_P, kind="stable")
        return query_P[order], row_P[order]

    def _best(
        self,
        query: tuple[Float32, Int64, Float32],
        count: int,
        times: int,
        allowed: Bits | None,
    ) -> tuple[Pairs, Int64]:
        """Return the best pairs, and the queries for which more must be asked."""
        found = [(np.zeros((len(query[0]), 0), np.float32), np.zeros((len(query[0]), 0), np.int64))]
        ends = []  # of each part: its last score, where it may have more
        for number, part in enumerate(self.parts):
            share = 1.0 if len(self.parts) == 1 else min(1.0, FAIR_SHARE * part.rows / self.rows)
            ask = min(part.rows, times * (int(count * share) + SLACK))
            scores_QK, rows_QK = _search(
                part, *query, ask, None if allowed is None else allowed[number]
            )
            ends.append(scores_QK[:, -1] if ask < part.rows else np.full(len(scores_QK), -np.inf))
            found.append((scores_QK, rows_QK))
        scores_QK, rows_QK = (np.hstack(column) for column in zip(*found, strict=True))
        last = scores_QK.shape[1] - count
        least_Q = np.full(len(scores_QK), -np.inf, np.float32)
        if last > 0:
            least_Q = np.partition(scores_QK, last, axis=1)[:, last]
        unsure_Q = np.zeros(len(scores_QK), dtype=bool)
        for end_Q in ends:
            unsure_Q |= (end_Q >= least_Q) & (end_Q > -np.inf)
        kept_QK = (scores_QK >= least_Q[:, None]) & (rows_QK >= 0) & ~unsure_Q[:, None]
        # Five times faster than nonzero of two dimensions.
        query_P, place_P = np.divmod(np.flatnonzero(kept_QK), kept_QK.shape[1])
        return (query_P, rows_QK[query_P, place_P]), np.flatnonzero(unsure_Q)


def _search(
    part: Part,
    queries_QD: Float32,
    lists_QL: Int64,
    products_QL: Float32,
    k: int,
    allowed: NDArray[np.uint8] | None,
) -> Hits:
    """Return the approximate scores and rows of the k best; -inf and -1 where there are fewer."""
    faiss = load_faiss()  # also: one thread, for the thread this runs in
    selector = None if allowed is None else faiss.IDSelectorBitmap(allowed)
    scores_QK = np.empty((len(queries_QD), k), np.float32)
    rows_QK = np.empty((len(queries_QD), k), np.int64)
    part.index.search_preassigned_c(
        len(queries_QD),
        faiss.swig_ptr(queries_QD),
        k,
        faiss.swig_ptr(lists_QL),
        faiss.swig_ptr(products_QL),
        faiss.swig_ptr(scores_QK),
        faiss.swig_ptr(rows_QK),
        False,
        faiss.IVFSearchParameters(nprobe=lists_QL.shape[1], sel=selector),
    )
    missing = rows_QK < 0
    if (rows_QK >= part.rows).any():
        raise CorruptData(
            f"{part.uri} names row {rows_QK.max()} of {part.rows}: the index is damaged; build "
            "it again with facepipe index build"
        )
    rows_QK += part.first
    scores_QK[missing], rows_QK[missing] = -np.inf, -1
    return scores_QK, rows_QK

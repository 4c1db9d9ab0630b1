"""Which list of a gallery a face is in, and which a query is looked for in.

By products of small integers: four times as fast as float32, and exact, so that the lists of a
vector are the same whatever others there are, on every processor. 98 of 100 are those of
float32. Very many centres are searched by a graph instead, query by query.
Legend: Q queries or faces, D dimensions, L lists, N of them searched, K faces beside a query.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
from numpy.typing import NDArray

from facepipe.index_template import TrainedTemplate, load_faiss
from facepipe.rough_scores import open_session

Float32 = NDArray[np.float32]
Int64 = NDArray[np.int64]

# 127 x 127 x 2 is still a sum of 16 bits: 8 bits of the query would saturate without VNNI.
QUERY_LEVELS, ZERO, CENTRE_LEVELS = 63, 64, 127
TABLE_ITEMS = 2**23  # scores of queries and lists at a time: 32 MB
ASSIGNED = 64  # faces at a time: their scores stay in the cache
RANKED, ROUNDING = 8192, 1e-6  # lists of a graph at a time; of their products


class NearestLists:
    """The centres of a template; safe to use from several threads."""

    def __init__(self, template: TrainedTemplate) -> None:
        """Take a template, which stays open."""
        faiss = load_faiss()
        self._template = template
        self._count = template.record.nlist
        self._session = self._centres_LD = None
        if isinstance(faiss.downcast_index(template.quantizer), faiss.IndexFlat):
            centres_LD = template.quantizer.reconstruct_n(0, self._count)
            levels_LD = _levels(centres_LD, np.abs(centres_LD).max(), CENTRE_LEVELS)
            if template.record.kind == "ivf_sq8":  # codes of what is left beside the centre
                self._centres_LD = centres_LD
            self._session = _products_with(levels_LD)

    def find(self, queries_QD: Float32, wanted: int) -> tuple[Int64, Float32]:
        """Return each query's nearest lists (Q x N, in no order), and its products with them.

        The products are 0 where the codes do not need them: those of 4 bits are of the whole
        vector, not of what is left of it beside the centre.
        """
        wanted = min(wanted, self._count)
        if self._session is None:
            load_faiss()  # one thread, for the thread this runs in
            products, lists = self._template.quantizer.search(queries_QD, wanted)
            return lists, products
        lists_QN = np.empty((len(queries_QD), wanted), np.int64)
        products_QN = np.zeros((len(queries_QD), wanted), np.float32)
        for some, scores_QL in self._scores(self._session, queries_QD, TABLE_ITEMS):
            lists_QN[some] = self._nearest(scores_QL, wanted)
        if self._centres_LD is not None:
            for query, lists in enumerate(lists_QN):
                np.einsum(
                    "nd,d->n", self._centres_LD[lists], queries_QD[query], out=products_QN[query]
                )
        return lists_QN, products_QN

    def assign(self, vectors_QD: Float32) -> Int64:
        """Return the list that each face goes to (Q): the nearest, of equal ones the first."""
        if self._session is None:
            load_faiss()
            lists: Int64 = self._template.quantizer.search(vectors_QD, 1)[1][:, 0]
            return lists
        found = np.empty(len(vectors_QD), np.int64)
        for some, scores_QL in self._scores(self._session, vectors_QD, ASSIGNED):
            found[some] = scores_QL.argmax(axis=1)
        return found

    def ranks(self, queries_QD: Float32, lists_QK: Int64) -> Int64:
        """Return how many lists of each query come before others (Q x K).

        Of a graph, which looks at a part of the centres only, this is what it would be for all.
        """
        ranks_QK = np.zeros(lists_QK.shape, np.int64)
        if self._session is None:
            self._rank_floats(queries_QD, lists_QK, ranks_QK)
            return ranks_QK
        for some, scores_QL in self._scores(self._session, queries_QD, ASSIGNED):
            for scores_L, lists_K, ranks_K in zip(
                scores_QL, lists_QK[some], ranks_QK[some], strict=True
            ):
                for k, own in enumerate(lists_K):
                    least = scores_L[own]
                    ranks_K[k] = np.count_nonzero(scores_L > least)
                    ranks_K[k] += np.count_nonzero(scores_L[:own] == least)
        return ranks_QK

    def _rank_floats(self, queries_QD: Float32, lists_QK: Int64, ranks_QK: Int64) -> None:
        quantizer = self._template.quantizer
        own_QK = np.empty(lists_QK.shape, np.float32)
        for query, lists_K in enumerate(lists_QK):
            centres_KD = np.stack([quantizer.reconstruct(int(own)) for own in lists_K])
            own_QK[query] = centres_KD @ queries_QD[query]
        for start in range(0, self._count, RANKED):
            count = min(RANKED, self._count - start)
            scores_QL = queries_QD @ quantizer.reconstruct_n(start, count).T
            for query, scores_L in enumerate(scores_QL):
                ahead = scores_L > own_QK[query][:, None] + ROUNDING
                ranks_QK[query] += ahead.sum(axis=1)

    def _scores(
        self, session: Any, queries_QD: Float32, most: int
    ) -> Iterator[tuple[slice, NDArray[np.int32]]]:
        """Yield products of some queries and all lists."""
        step = max(1, min(most, TABLE_ITEMS // self._count))
        for start in range(0, len(queries_QD), step):
            some = slice(start, start + step)
            largest_Q1 = np.abs(queries_QD[some]).max(axis=1, keepdims=True)
            levels_QD = _levels(queries_QD[some], largest_Q1, QUERY_LEVELS)
            levels_QD += ZERO
            yield some, session.run(None, {"queries": levels_QD.view(np.uint8)})[0]

    def _nearest(self, scores_QL: NDArray[np.int32], wanted: int) -> Int64:
        others = self._count - wanted
        least_Q = np.partition(scores_QL, others, axis=1)[:, others]
        near_QL = scores_QL >= least_Q[:, None]
        extra_Q = np.count_nonzero(near_QL, axis=1) - wanted
        for query in np.flatnonzero(extra_Q):  # equal scores: the first lists
            equal = np.flatnonzero(scores_QL[query] == least_Q[query])
            near_QL[query, equal[-extra_Q[query] :]] = False
        lists: Int64 = (np.flatnonzero(near_QL) % self._count).reshape(len(scores_QL), wanted)
        return lists


def _levels(vectors: Float32, largest: Any, most: int) -> NDArray[np.int8]:
    """Return integers in proportion to vectors; ``largest`` becomes ``most``."""
    scaled: NDArray[np.int8] = np.rint(vectors * (most / np.maximum(largest, 1e-6))).astype(np.int8)
    return scaled


def _products_with(levels_LD: NDArray[np.int8]) -> Any:
    """Return a session: bytes of queries, ZERO for 0 (Q x D) -> products with centres (Q x L)."""
    from onnx import TensorProto, helper, numpy_helper

    count, dim = levels_LD.shape
    # A constant is laid out for the product once.
    centres = numpy_helper.from_array(np.ascontiguousarray(levels_LD.T), "centres")
    zero = numpy_helper.from_array(np.array(ZERO, np.uint8), "zero")
    graph = helper.make_graph(
        [helper.make_node("MatMulInteger", ["queries", "centres", "zero"], ["products"])],
        "nearest_lists",
        [helper.make_tensor_value_info("queries", TensorProto.UINT8, ["Q", dim])],
        [helper.make_tensor_value_info("products", TensorProto.INT32, ["Q", count])],
        [centres, zero],
    )
    return open_session(graph)

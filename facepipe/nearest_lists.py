"""Which lists of a gallery a query is looked for in.

By products of small integers: four times as fast as float32, and exact, so that the lists of a
query are the same whatever other queries there are, on every processor. 98 of 100 are those of
float32. Very many centres are searched by a graph instead, query by query.
Legend: Q queries, D dimensions, L lists, N of them searched.
"""

from __future__ import annotations

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
            self._shift_L = ZERO * levels_LD.sum(axis=1, dtype=np.int32)
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
        step = max(1, TABLE_ITEMS // self._count)
        for start in range(0, len(queries_QD), step):
            some = slice(start, start + step)
            lists_QN[some] = self._nearest(self._session, queries_QD[some], wanted)
        if self._centres_LD is not None:
            for query, lists in enumerate(lists_QN):
                np.einsum(
                    "nd,d->n", self._centres_LD[lists], queries_QD[query], out=products_QN[query]
                )
        return lists_QN, products_QN

    def _nearest(self, session: Any, queries_QD: Float32, wanted: int) -> Int64:
        largest_Q1 = np.abs(queries_QD).max(axis=1, keepdims=True)
        levels_QD = (_levels(queries_QD, largest_Q1, QUERY_LEVELS) + ZERO).astype(np.uint8)
        scores_QL = session.run(None, {"queries": levels_QD})[0] - self._shift_L
        others = self._count - wanted
        least_Q = np.partition(scores_QL, others, axis=1)[:, others]
        near_QL = scores_QL >= least_Q[:, None]
        extra_Q = np.count_nonzero(near_QL, axis=1) - wanted
        for query in np.flatnonzero(extra_Q):  # equal scores: the first lists
            equal = np.flatnonzero(scores_QL[query] == least_Q[query])
            near_QL[query, equal[-extra_Q[query] :]] = False
        lists: Int64 = (np.flatnonzero(near_QL) % self._count).reshape(len(queries_QD), wanted)
        return lists


def _levels(vectors: Float32, largest: Any, most: int) -> NDArray[np.int8]:
    """Return integers in proportion to vectors; ``largest`` becomes ``most``."""
    scaled: NDArray[np.int8] = np.rint(vectors * (most / np.maximum(largest, 1e-6))).astype(np.int8)
    return scaled


def _products_with(levels_LD: NDArray[np.int8]) -> Any:
    """Return a session: queries as bytes (Q x D) -> their products with the centres (Q x L)."""
    from onnx import TensorProto, helper, numpy_helper

    count, dim = levels_LD.shape
    # A constant is laid out for the product once.
    centres = numpy_helper.from_array(np.ascontiguousarray(levels_LD.T), "centres")
    graph = helper.make_graph(
        [helper.make_node("MatMulInteger", ["queries", "centres"], ["products"])],
        "nearest_lists",
        [helper.make_tensor_value_info("queries", TensorProto.UINT8, ["Q", dim])],
        [helper.make_tensor_value_info("products", TensorProto.INT32, ["Q", count])],
        [centres],
    )
    return open_session(graph)

"""Which rows may be among the best, by arithmetic that is fast and whose error has a bound.

Many queries: products of integers. A row x of float16 becomes bytes, x = s (u - 128) + e with
|e| <= s / 2 in each dimension, a query q becomes small integers, q = t p + f. Then q.x is
s t p.(u - 128), at most |t p|_1 s / 2 + |f| |x| away (Cauchy-Schwarz). Measured at 512
dimensions, one thread with VNNI: 3.6 us a row for 512 queries, where float32 products take 7.5.
Few queries: faiss's scan of float16, 90 ns a row and query, where a pass over the rows to make
integers of them takes 500 ns a row.

What is returned holds every row that is asked for, and a few more: exact scores decide.
Legend: Q queries, B rows of a block, D dimensions, P pairs of a query and a row.
"""

from __future__ import annotations

from functools import cache
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from facepipe.index_template import load_faiss

Float16 = NDArray[np.float16]
Float32 = NDArray[np.float32]
Int64 = NDArray[np.int64]
Pairs = tuple[Int64, Int64]  # query, place in the block; query by query

FEW_QUERIES = 6
SLACK = 16  # rows asked for beyond the k best, at first
LONGEST = 1.01  # of a row, gallery.UNIT_TOLERANCE
# With 8 bits on both sides, processors without VNNI saturate 16-bit sums: 255 x 127 x 2.
ROW_LEVELS, QUERY_LEVELS, ZERO = 127, 63, 128


class Rough(Protocol):
    """Looks at blocks of rows for some queries."""

    block_rows: int

    def worth(self, vectors_BD: Float16, least_Q: Float32, k: int) -> Pairs:
        """Return all pairs that may score ``least_Q`` and be among the query's k best here."""
        ...


def rough_scores(queries_QD: Float32) -> Rough:
    """Return what is fastest for so many unit vectors."""
    return FewScores(queries_QD) if len(queries_QD) <= FEW_QUERIES else ManyScores(queries_QD)


def sum_error(dim: int) -> float:
    """Return how far two float32 sums of a product of unit vectors may be apart; doubled.

    Each is at most D 2**-24 off (Higham 2002, 3.1).
    """
    return dim * 2.0**-22


class FewScores:
    """Float16 rows as faiss scans them, where they lie."""

    block_rows = 65536  # 64 MB at 512 dimensions, where they are gathered

    def __init__(self, queries_QD: Float32) -> None:
        """Take queries (unit vectors)."""
        self._queries = queries_QD
        self._error = sum_error(queries_QD.shape[1])

    def worth(self, vectors_BD: Float16, least_Q: Float32, k: int) -> Pairs:
        """Return all pairs that may score ``least_Q`` and be among the query's k best here."""
        index, rows, ask = index_over(vectors_BD), len(vectors_BD), k + SLACK
        while True:
            ask = min(ask, rows)
            scores_QK, places_QK = index.search(self._queries, ask)
            if rows > k:
                least_Q = np.maximum(least_Q, scores_QK[:, k - 1] - self._error)
            if ask == rows or (scores_QK[:, -1] < least_Q - self._error).all():
                break
            ask *= 4
        query_P, place_P = np.nonzero(scores_QK >= (least_Q - self._error)[:, None])
        return query_P, places_QK[query_P, place_P]


def index_over(vectors_ND: Float16) -> Any:
    """Return a faiss index over rows that are not copied; they must outlive it."""
    faiss = load_faiss()
    dim = vectors_ND.shape[1]
    empty = faiss.IndexScalarQuantizer(
        dim, faiss.ScalarQuantizer.QT_fp16, faiss.METRIC_INNER_PRODUCT
    )
    data = faiss.serialize_index(empty)
    # What is read without a copy has codes that belong to somebody else: these do.
    index = faiss.read_index(faiss.ZeroCopyIOReader(faiss.swig_ptr(data), data.size))
    codes = vectors_ND.reshape(-1).view(np.uint8)
    index.codes.view_data = index.codes.c_ptr = faiss.swig_ptr(codes)
    index.codes.view_size = index.codes.c_size = codes.size
    index.ntotal = len(vectors_ND)
    return index


class ManyScores:
    """Rows as bytes, queries as integers of 7 bits."""

    block_rows = 512  # 2 MB of products with 1024 queries: they stay in the cache

    def __init__(self, queries_QD: Float32) -> None:
        """Take queries (unit vectors)."""
        self._step_Q = np.abs(queries_QD).max(axis=1) / QUERY_LEVELS
        levels_QD = np.rint(queries_QD / self._step_Q[:, None])
        rest_QD = queries_QD - levels_QD * self._step_Q[:, None]
        self._rest_Q = np.sqrt(np.einsum("qd,qd->q", rest_QD, rest_QD))
        self._reach_Q = np.abs(levels_QD).sum(axis=1) * self._step_Q
        self._zero_Q = ZERO * levels_QD.sum(axis=1).astype(np.int64)
        self._levels_DQ = np.ascontiguousarray(levels_QD.T.astype(np.int8))
        self._error = sum_error(queries_QD.shape[1])

    def worth(self, vectors_BD: Float16, least_Q: Float32, k: int) -> Pairs:
        """Return all pairs that may score ``least_Q`` and be among the query's k best here."""
        largest = (vectors_BD.view(np.int16) & 0x7FFF).max().astype(np.int16).view(np.float16)
        step = max(float(largest), 1e-6) / ROW_LEVELS
        inputs = {
            "rows": vectors_BD,
            "step": np.array(step, np.float32),
            "queries": self._levels_DQ,
        }
        products_BQ = integer_products().run(None, inputs)[0]
        bound_Q = 1.001 * (self._reach_Q * step / 2 + self._rest_Q * LONGEST) + self._error
        unit_Q = step * self._step_Q
        least_Q = least_Q.astype(np.float64)
        if len(vectors_BD) > k and np.isneginf(least_Q).any():
            place = len(vectors_BD) - k
            products_QB = np.ascontiguousarray(products_BQ.T)
            kth_Q = np.partition(products_QB, place, axis=1)[:, place]
            least_Q = np.maximum(least_Q, (kth_Q - self._zero_Q) * unit_Q - bound_Q)
        lowest_Q = np.maximum(least_Q - bound_Q, -2.0) / unit_Q + self._zero_Q
        found = np.flatnonzero(products_BQ >= np.floor(lowest_Q).astype(np.int32))
        place_P, query_P = np.divmod(found, products_BQ.shape[1])  # 5 times as fast as nonzero
        order = np.argsort(query_P, kind="stable")
        return query_P[order], place_P[order]


@cache
def integer_products() -> Any:
    """Return a session: float16 rows (B, D), their step, int8 queries (D, Q) -> int32 (B, Q)."""
    from onnx import TensorProto, helper

    value = helper.make_tensor_value_info
    graph = helper.make_graph(
        [
            helper.make_node("Cast", ["rows"], ["wide"], to=TensorProto.FLOAT),
            helper.make_node("QuantizeLinear", ["wide", "step", "zero"], ["bytes"]),
            # Bytes on the left and signed integers on the right: the other ways are 7 to 30
            # times slower.
            helper.make_node("MatMulInteger", ["bytes", "queries"], ["products"]),
        ],
        "integer_products",
        [
            value("rows", TensorProto.FLOAT16, ["B", "D"]),
            value("step", TensorProto.FLOAT, []),
            value("queries", TensorProto.INT8, ["D", "Q"]),
        ],
        [value("products", TensorProto.INT32, ["B", "Q"])],
        [helper.make_tensor("zero", TensorProto.UINT8, [], [ZERO])],
    )
    return open_session(graph)


def open_session(graph: Any) -> Any:
    """Return a session for an ONNX graph of integer products, on one thread."""
    import onnxruntime
    from onnx import helper

    onnxruntime.disable_telemetry_events()
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    options.log_severity_level = 3
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)
    return onnxruntime.InferenceSession(
        model.SerializeToString(), options, providers=["CPUExecutionProvider"]
    )

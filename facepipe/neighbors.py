"""Exact nearest neighbours by cosine, block by block, and vectors looked up by face.

Legend: Q queries, N base vectors, D dimensions, K neighbours, F faces.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from facepipe.half_floats import WIDEN_ITEMS, widened
from facepipe.schema import EmbeddingStatus

Float32 = npt.NDArray[np.float32]
Int64 = npt.NDArray[np.int64]

QUERY_BLOCK_ROWS = 512  # with the base block: 4 Mi similarities, about 50 MB of temporaries
BASE_BLOCK_ROWS = 8192
_LOW_BITS = np.uint64(0xFFFFFFFF)
_SIGN_BIT = np.uint32(0x80000000)


def unit_rows(vectors_ND: npt.NDArray[np.floating]) -> Float32:
    """Return the rows as float32 of length one; a zero row stays zero.

    float16 storage bends the length of a vector by up to 0.05 %, which matters where
    lengths are subtracted (leave-one-out centres).
    """
    vectors_ND = np.asarray(vectors_ND)
    unit_ND = np.empty(vectors_ND.shape, np.float32)
    step = max(1, WIDEN_ITEMS // max(vectors_ND.shape[-1], 1))
    for start in range(0, len(unit_ND), step):
        stored_BD, unit_BD = vectors_ND[start : start + step], unit_ND[start : start + step]
        if stored_BD.dtype == np.float16:
            widened(stored_BD, unit_BD)
        else:
            unit_BD[...] = stored_BD
        lengths_B = np.sqrt(np.einsum("nd,nd->n", unit_BD, unit_BD))
        lengths_B[lengths_B == 0.0] = 1.0
        unit_BD *= (1 / lengths_B)[:, None]
    return unit_ND


def nearest(
    queries_QD: npt.NDArray[np.floating], base_ND: npt.NDArray[np.floating], k: int
) -> tuple[Float32, Int64]:
    """Return the K = min(k, N) base rows of highest inner product with each query.

    queries_QD, base_ND: finite, float16 or float32, unit rows where cosines are wanted;
    float16 is widened one block at a time, and never more than one block of similarities
    exists. Returns scores_QK (float32, falling) and rows_QK (int64); equal scores are in
    the order of their row. N must be under 2**32.
    """
    if k < 1:
        raise ValueError(f"k is {k}; ask for at least one neighbour")
    kept = min(k, len(base_ND))
    scores_QK = np.empty((len(queries_QD), kept), np.float32)
    rows_QK = np.empty((len(queries_QD), kept), np.int64)
    if kept == 0:
        return scores_QK, rows_QK
    for start in range(0, len(queries_QD), QUERY_BLOCK_ROWS):
        block = slice(start, start + QUERY_BLOCK_ROWS)
        keys_QK = _best_keys(np.asarray(queries_QD[block], np.float32), base_ND, kept)
        scores_QK[block], rows_QK[block] = _unpack(keys_QK)
    return scores_QK, rows_QK


def _best_keys(
    queries_QD: Float32, base_ND: npt.NDArray[np.floating], k: int
) -> npt.NDArray[np.uint64]:
    """Return the k largest keys of each query over all base blocks, falling; k <= N."""
    best_QK = np.zeros((len(queries_QD), k), np.uint64)  # 0: none yet, below every key
    for start in range(0, len(base_ND), BASE_BLOCK_ROWS):
        block_BD = np.asarray(base_ND[start : start + BASE_BLOCK_ROWS], np.float32)
        scores_QB = queries_QD @ block_BD.T
        scores_QB += np.float32(0.0)  # turns -0.0 into 0.0
        floor_Q = np.where(best_QK[:, 0] > 0, _unpack(best_QK[:, 0])[0], -np.inf)
        if scores_QB.shape[1] > k and not best_QK[:, 0].all():
            floor_Q = np.partition(scores_QB, scores_QB.shape[1] - k, axis=1)[:, -k]
        query, place = np.nonzero(scores_QB >= floor_Q[:, None])
        keys = _pack(scores_QB[query, place], start + place)
        best_QK = _merge(best_QK, query, keys)
    return best_QK[:, ::-1]


def _merge(
    best_QK: npt.NDArray[np.uint64], query: Int64, keys: npt.NDArray[np.uint64]
) -> npt.NDArray[np.uint64]:
    """Return the K largest, rising, of the best so far and of keys listed query by query."""
    count_Q = np.bincount(query, minlength=len(best_QK))
    rank = np.arange(len(query)) - np.repeat(np.cumsum(count_Q) - count_Q, count_Q)
    fresh = np.zeros((len(best_QK), int(count_Q.max(initial=0))), np.uint64)
    fresh[query, rank] = keys
    merged = np.sort(np.concatenate([best_QK, fresh], axis=1), axis=1)
    return merged[:, merged.shape[1] - best_QK.shape[1] :]


def _pack(scores: Float32, rows: Int64) -> npt.NDArray[np.uint64]:
    """Fold score and row into one integer, so that ties have an order and sorting is exact.

    IEEE 754 floats sort as integers once the sign bit of positives, or all bits of
    negatives, are flipped; the row is complemented so that the lower row is the larger key.
    """
    bits = scores.view(np.uint32)
    ordered = np.where(bits & _SIGN_BIT, ~bits, bits | _SIGN_BIT)
    return (ordered.astype(np.uint64) << np.uint64(32)) | (_LOW_BITS - rows.astype(np.uint64))


def _unpack(keys: npt.NDArray[np.uint64]) -> tuple[Float32, Int64]:
    ordered = (keys >> np.uint64(32)).astype(np.uint32)
    bits = np.where(ordered & _SIGN_BIT, ordered ^ _SIGN_BIT, ~ordered)
    return bits.view(np.float32), (_LOW_BITS - (keys & _LOW_BITS)).astype(np.int64)


def vector_matrix(embeddings: pa.Table) -> npt.NDArray[np.float16]:
    """Return the vectors of an embeddings table as one (N, D) float16 array.

    Rows without a vector hold anything; ``vector_rows`` never points at them. One
    chunk is viewed, several are copied into one.
    """
    column = embeddings.column("vector")
    dim = column.type.list_size
    chunks = [c for c in column.chunks if len(c)]
    parts = [c.values.slice(c.offset * dim, len(c) * dim).to_numpy(False) for c in chunks]
    flat = parts[0] if len(parts) == 1 else np.concatenate(parts or [np.empty(0, np.float16)])
    return flat.reshape(-1, dim)


def has_vector(embeddings: pa.Table) -> npt.NDArray[np.bool_]:
    """Return which rows of an embeddings table have a vector.

    Their ``status`` says so; where that column was not read, a vector that is not all zeros.
    """
    column = embeddings.column("vector")
    if "status" in embeddings.column_names:
        fit = pc.equal(embeddings.column("status"), EmbeddingStatus.OK.value)
        return np.asarray(fit.to_numpy())
    valid: npt.NDArray[np.bool_] = column.is_valid().to_numpy()
    if pa.types.is_fixed_size_list(column.type) and len(column):
        valid &= vector_matrix(embeddings).any(axis=1)
    return valid


def vector_rows(face_ids: pa.ChunkedArray, embeddings: pa.Table) -> Int64:
    """Return for each face id its row in ``vector_matrix(embeddings)``, -1 where it has none.

    A face id that occurs more than once (a photo found under two names) takes its first
    row that has a vector; a face whose vector is null counts as having none.
    """
    usable = np.flatnonzero(has_vector(embeddings))
    known = embeddings.column("face_id").take(pa.array(usable)).combine_chunks()
    found = pc.index_in(face_ids, value_set=known).fill_null(-1)
    places: Int64 = found.to_numpy().astype(np.int64)
    places[places >= 0] = usable[places[places >= 0]]
    return places

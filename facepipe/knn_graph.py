"""The nearest neighbours of every face among all faces: the graph that people are found in.

Up to EXACT_ROWS faces each is compared with all others. Beyond, faces lie in cells around centres
that k-means found, and each is compared with the faces of the cells it is nearest to (an inverted
file, Sivic and Zisserman 2003). A sample that is compared with all others says how many cells that
takes, and what share of the true neighbours is found.

Products are made by faiss, on one thread a block, and blocks do not depend on how many threads
there are: the same faces give the same bits.

Legend: N faces, D dimensions, K neighbours, Q a block of faces, B a block they are compared with,
C cells, S sampled faces, T cells that a face's neighbours are looked for in.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt

from facepipe.centres import VectorRows
from facepipe.neighbors import unit_rows

Float32 = npt.NDArray[np.float32]
Int32 = npt.NDArray[np.int32]
Int64 = npt.NDArray[np.int64]

QUERY_ROWS = 8192  # 16 MB of float32 at 512 dimensions
BASE_ROWS = 32768  # 64 MB
EXACT_ROWS = 1 << 17  # 160 s on one core at 110 GFLOP/s and 512 dimensions
CELLS_PER_ROOT = 4  # cells for each square root of N: 4,000 for a million faces, of 250 each
TRAIN_FACES, TRAIN_ROUNDS = 32, 8  # of k-means: faces a cell
RECALL_FACES = 512
WANTED_RECALL = 0.95  # of the K nearest, most of whom are strangers
MOST_CELLS = 64  # to look in: the cost rises with them
BATCH_TASKS = 64  # of cells whose neighbours are found before they are taken in
SEED = 20


@dataclass(frozen=True, slots=True, kw_only=True)
class KnnGraph:
    """The K nearest other faces of each face, nearest first, ties by row."""

    rows_NK: Int32  # -1 where there are fewer
    cosine_NK: Float32  # -inf there
    recall: float = 1.0  # share of the true neighbours that are in it


def knn_graph(vectors: VectorRows, k: int, *, threads: int = 1) -> KnnGraph:
    """Return the k nearest other faces of each face by cosine.

    vectors: (N, D) float16 or float32, read and widened a block at a time.
    """
    if k < 1:
        raise ValueError(f"k is {k}; ask for at least one neighbour")
    with _pool(threads) as pool:
        find = _exact if vectors.shape[0] <= EXACT_ROWS else _by_cell
        return _ties_by_row(find(vectors, k, pool))


def _exact(vectors: VectorRows, k: int, pool: ThreadPoolExecutor) -> KnnGraph:
    graph = _empty(vectors.shape[0], k)
    everybody = np.arange(vectors.shape[0])

    def fill(query_Q: Int64) -> None:
        found = _nearest_others(vectors, query_Q, everybody, k)
        graph.rows_NK[query_Q], graph.cosine_NK[query_Q] = found

    list(pool.map(fill, _blocks(everybody)))
    return graph


def _empty(total: int, k: int) -> KnnGraph:
    return KnnGraph(
        rows_NK=np.full((total, k), -1, np.int32),
        cosine_NK=np.full((total, k), -np.inf, np.float32),
    )


def _blocks(rows: Int64) -> Iterator[Int64]:
    for start in range(0, len(rows), QUERY_ROWS):
        yield rows[start : start + QUERY_ROWS]


def _pool(threads: int) -> ThreadPoolExecutor:
    """Return threads each of which faiss uses as one."""
    import faiss

    return ThreadPoolExecutor(threads, initializer=faiss.omp_set_num_threads, initargs=(1,))


def _nearest_others(
    vectors: VectorRows, query_Q: Int64, base: Int64, k: int
) -> tuple[Int32, Float32]:
    """Return the k nearest of the base rows of each query row but itself, -1 for none."""
    import faiss

    wide_QD = unit_rows(vectors[query_Q])
    rows_QK = np.full((len(query_Q), k), -1, np.int32)
    cosine_QK = np.full((len(query_Q), k), -np.inf, np.float32)
    for start in range(0, len(base), BASE_ROWS):
        rows_B = base[start : start + BASE_ROWS]
        cosine, place = faiss.knn(
            wide_QD,
            unit_rows(vectors[rows_B]),
            min(k + 1, len(rows_B)),
            metric=faiss.METRIC_INNER_PRODUCT,
        )
        rows = rows_B[place].astype(np.int32)
        cosine[rows == query_Q[:, None]] = -np.inf
        rows_QK, cosine_QK = _best(np.hstack([rows_QK, rows]), np.hstack([cosine_QK, cosine]), k)
    rows_QK[cosine_QK == -np.inf] = -1
    return rows_QK, cosine_QK


def _best(rows_QM: Int32, cosine_QM: Float32, k: int) -> tuple[Int32, Float32]:
    """Return the k of highest cosine, the first of equal ones."""
    best_QK = np.argsort(-cosine_QM, axis=1, kind="stable")[:, :k]
    return np.take_along_axis(rows_QM, best_QK, 1), np.take_along_axis(cosine_QM, best_QK, 1)


def _ties_by_row(graph: KnnGraph) -> KnnGraph:
    """Put neighbours that are as near into the order of their rows, in place."""
    for rows_Q in _blocks(np.arange(len(graph.rows_NK))):
        rows_QK, cosine_QK = graph.rows_NK[rows_Q], graph.cosine_NK[rows_Q]
        tied = np.flatnonzero((cosine_QK[:, 1:] == cosine_QK[:, :-1]).any(axis=1))
        order = np.argsort(rows_QK[tied], axis=1)
        rows_TK = np.take_along_axis(rows_QK[tied], order, 1)
        cosine_TK = np.take_along_axis(cosine_QK[tied], order, 1)
        found = _best(rows_TK, cosine_TK, rows_TK.shape[1])
        graph.rows_NK[rows_Q[tied]], graph.cosine_NK[rows_Q[tied]] = found
    return graph


# -- cells -------------------------------------------------------------------------------


def _by_cell(vectors: VectorRows, k: int, pool: ThreadPoolExecutor) -> KnnGraph:
    total = vectors.shape[0]
    centres_CD = pool.submit(_cell_centres, vectors).result()
    looked_in, recall = pool.submit(_cells_to_look_in, vectors, centres_CD, k).result()

    def cells(rows_Q: Int64) -> Int32:
        return _nearest_cells(unit_rows(vectors[rows_Q]), centres_CD, looked_in)

    cell_NT = np.concatenate(list(pool.map(cells, _blocks(np.arange(total)))))
    graph = _empty(total, k)

    def find(task: tuple[Int64, Int64]) -> tuple[Int32, Float32]:
        return _nearest_others(vectors, *task, k)

    tasks = _tasks(cell_NT, len(centres_CD))
    while batch := list(itertools.islice(tasks, BATCH_TASKS)):
        for (query_Q, _), (rows_QK, cosine_QK) in zip(batch, pool.map(find, batch), strict=True):
            nearer = cosine_QK[:, 0] > graph.cosine_NK[query_Q, -1]
            rows_Q = query_Q[nearer]
            graph.rows_NK[rows_Q], graph.cosine_NK[rows_Q] = _best(
                np.hstack([graph.rows_NK[rows_Q], rows_QK[nearer]]),
                np.hstack([graph.cosine_NK[rows_Q], cosine_QK[nearer]]),
                k,
            )
    return replace(graph, recall=recall)


def _tasks(cell_NT: Int32, cells: int) -> Iterator[tuple[Int64, Int64]]:
    """Yield for each cell the faces that look for neighbours in it, in blocks, and its own."""
    own = np.argsort(cell_NT[:, 0], kind="stable")
    own_ends = np.searchsorted(cell_NT[own, 0], np.arange(cells + 1))
    looking = np.argsort(cell_NT.ravel(), kind="stable")
    ends = np.append(0, np.cumsum(np.bincount(cell_NT.ravel(), minlength=cells)))
    for cell in range(cells):
        base = own[own_ends[cell] : own_ends[cell + 1]]
        if len(base):
            for place_Q in _blocks(looking[ends[cell] : ends[cell + 1]]):
                yield place_Q // cell_NT.shape[1], base


def _cell_centres(vectors: VectorRows) -> Float32:
    """Return the unit centres of the cells, by k-means over a sample."""
    import faiss

    total, dim = vectors.shape
    cells = CELLS_PER_ROOT * math.isqrt(total)
    sample = np.arange(0, total, max(1, total // (cells * TRAIN_FACES)))
    means = faiss.Kmeans(
        dim,
        cells,
        niter=TRAIN_ROUNDS,
        seed=SEED,
        spherical=True,
        min_points_per_centroid=1,
        max_points_per_centroid=2 * TRAIN_FACES,
    )
    means.train(unit_rows(vectors[sample]))
    return np.asarray(means.centroids, np.float32)


def _nearest_cells(unit_QD: Float32, centres_CD: Float32, count: int) -> Int32:
    import faiss

    _, cell_QT = faiss.knn(unit_QD, centres_CD, count, metric=faiss.METRIC_INNER_PRODUCT)
    cells: Int32 = cell_QT.astype(np.int32)
    return cells


def _cells_to_look_in(vectors: VectorRows, centres_CD: Float32, k: int) -> tuple[int, float]:
    """Return how many cells hold enough of a face's true neighbours, and what share they hold."""
    total = vectors.shape[0]
    sample_S = np.arange(0, total, max(1, total // RECALL_FACES))[:RECALL_FACES]
    true_SK, _ = _nearest_others(vectors, sample_S, np.arange(total), k)
    there, place = np.unique(true_SK.ravel().astype(np.int64), return_inverse=True)
    true_cell = _nearest_cells(unit_rows(vectors[there]), centres_CD, 1)[place, 0]
    order_SC = _nearest_cells(unit_rows(vectors[sample_S]), centres_CD, len(centres_CD))
    rank_SC = np.argsort(order_SC, axis=1)
    rank_SK = np.take_along_axis(rank_SC, true_cell.reshape(true_SK.shape).astype(np.int64), 1)
    enough = int(np.quantile(rank_SK, WANTED_RECALL, method="higher")) + 1
    looked_in = min(enough, MOST_CELLS)
    return looked_in, float((rank_SK < looked_in).mean())

"""The people nearest to each of many faces: exact for few people, by short codes for many.

Comparing all with all grows with the square. From EXACT_PAIRS on every centre is coded in half a
byte for each few of its dimensions (product quantization, Jegou 2011; in registers, Andre 2015;
FAISS "PQ..x4fs"), all codes are scanned, and the best CANDIDATES are scored exactly. No cells
are left out: an inverted file found .87 of the right people of doubted faces where it saved as
much, since those are near to nobody. The centres' main directions come first (PCA without
centring, as inner products are compared), then a rotation that spreads what is left evenly over
the codes (Jegou 2010).

Legend: Q queries, P people, D dimensions, R reduced dimensions, K neighbours, C candidates.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from facepipe.in_order import in_order
from facepipe.neighbors import Float32, Int64, nearest

EXACT_PAIRS = 1 << 27  # of query and centre: two seconds; training codes takes as long
CANDIDATES = 128  # scored exactly
CODES = 64  # of half a byte, for each centre
REDUCED = (64, 128, 256)  # dimensions that are coded: the fewest with that much of the energy
ENERGY = 0.98
TRAIN_CENTRES = 16384
QUERY_ROWS = 1024
SEED = 1


class NearCentres:
    """Looks for the centres of highest cosine."""

    def __init__(self, centres_PD: Float32, queries: int, threads: int = 1) -> None:
        """Code unit centres, float32, if that many queries are worth it."""
        self._centres_PD, self._threads = centres_PD, threads
        self._codes: Any = None
        if len(centres_PD) * queries > EXACT_PAIRS and len(centres_PD) > CANDIDATES:
            self._project_DR = _main_directions(centres_PD)
            self._codes = _coded(centres_PD, self._project_DR)

    def find(self, queries_QD: Float32, k: int) -> Int64:
        """Return the min(k, P) nearest centres of each query, the nearest first."""
        if self._codes is None:
            return nearest(queries_QD, self._centres_PD, k)[1]
        starts = range(0, len(queries_QD), QUERY_ROWS)
        blocks = in_order(
            lambda start: self._find(queries_QD[start : start + QUERY_ROWS], k),
            starts,
            self._threads,
        )
        return np.concatenate([np.empty((0, k), np.int64), *blocks])

    def _find(self, queries_QD: Float32, k: int) -> Int64:
        _one_thread()
        _, found_QC = self._codes.search(queries_QD @ self._project_DR, max(CANDIDATES, 2 * k))
        found_QC.sort(axis=1)  # of equal scores the lower centre comes first
        score_QC = np.empty(found_QC.shape, np.float32)
        for query_D, found_C, score_C in zip(queries_QD, found_QC, score_QC, strict=True):
            np.einsum("cd,d->c", self._centres_PD[found_C], query_D, out=score_C)
        best_QK = np.argsort(-score_QC, axis=1, kind="stable")[:, :k]
        nearest_QK: Int64 = np.take_along_axis(found_QC, best_QK, axis=1)
        return nearest_QK


def _main_directions(centres_PD: Float32) -> Float32:
    """Return a projection (D, R) on the main directions of a sample, evenly mixed.

    R is a multiple of CODES: where there are fewer dimensions, the others are zero.
    """
    sample = centres_PD[:: max(1, len(centres_PD) // TRAIN_CENTRES)].astype(np.float64)
    energy_D, direction_DD = np.linalg.eigh(np.einsum("pa,pb->ab", sample, sample, optimize=True))
    share_D = np.cumsum(energy_D[::-1]) / energy_D.sum()
    enough = [r for r in REDUCED if share_D[min(r, len(share_D)) - 1] >= ENERGY]
    reduced = min(enough, default=REDUCED[-1])
    rng = np.random.default_rng(SEED)
    mix_RR, _ = np.linalg.qr(rng.standard_normal((reduced, reduced)))
    main_DR = direction_DD[:, ::-1][:, :reduced]
    projection: Float32 = (main_DR @ mix_RR[: main_DR.shape[1]]).astype(np.float32)
    return projection


def _one_thread() -> None:
    """Keep faiss to the thread it is called in: OpenMP counts for each thread by itself."""
    import faiss

    faiss.omp_set_num_threads(1)


def _coded(centres_PD: Float32, project_DR: Float32) -> Any:
    import faiss

    _one_thread()
    codes = faiss.IndexPQFastScan(project_DR.shape[1], CODES, 4, faiss.METRIC_INNER_PRODUCT)
    step = max(1, len(centres_PD) // TRAIN_CENTRES)
    codes.train(centres_PD[::step] @ project_DR)
    for start in range(0, len(centres_PD), TRAIN_CENTRES):
        codes.add(centres_PD[start : start + TRAIN_CENTRES] @ project_DR)
    return codes

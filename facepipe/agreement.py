"""How well a clustering agrees with the truth: pairwise and BCubed precision and recall.

Legend: N points.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

Float = npt.NDArray[np.float64]


@dataclass(frozen=True, slots=True, kw_only=True)
class Agreement:
    """Precision, recall and their harmonic mean."""

    precision: float
    recall: float
    f: float


def pairwise(truth_N: npt.ArrayLike, found_N: npt.ArrayLike) -> Agreement:
    """Return precision and recall over pairs of points that were put together.

    P = sum(n_ij^2 - n_ij) / sum(p_j^2 - p_j), R with the true sizes t_i (learn-to-cluster,
    Yang et al. 2019). A found cluster under 0 is noise: each such point stands alone. With
    no pair at all the share is 1: nothing was claimed, or nothing was there to find.
    """
    true_N, found_N, both_N = _own_sizes(truth_N, found_N)  # of each point's own cluster
    together = float((both_N - 1).sum())  # sum over points of n - 1 is sum over cells of n^2 - n
    precision = _share(together, float((found_N - 1).sum()))
    return _agreement(precision, _share(together, float((true_N - 1).sum())))


def bcubed(truth_N: npt.ArrayLike, found_N: npt.ArrayLike) -> Agreement:
    """Return BCubed precision and recall (Bagga and Baldwin 1998; Amigo et al. 2009).

    P = 1/N sum(n_ij^2 / p_j), R = 1/N sum(n_ij^2 / t_i): over points, the share of a
    point's cluster that is of its kind. Noise (under 0) stands alone.
    """
    true_N, found_N, both_N = _own_sizes(truth_N, found_N)
    points = float(len(both_N))
    precision = _share(float((both_N / found_N).sum()), points)
    return _agreement(precision, _share(float((both_N / true_N).sum()), points))


def _own_sizes(truth_N: npt.ArrayLike, found_N: npt.ArrayLike) -> tuple[Float, Float, Float]:
    """Return for each point the size of its true class, its cluster, and their overlap."""
    true_N = np.unique(np.asarray(truth_N), return_inverse=True)[1]
    clusters_N = np.asarray(found_N, dtype=np.int64).copy()
    if clusters_N.shape != true_N.shape:
        raise ValueError(f"{clusters_N.shape} clusters for {true_N.shape} points")
    noise = clusters_N < 0
    clusters_N[noise] = clusters_N.max(initial=0) + 1 + np.arange(noise.sum())
    found = np.unique(clusters_N, return_inverse=True)[1]
    cell_N = true_N.astype(np.int64) * (int(found.max(initial=0)) + 1) + found
    cell_N = np.unique(cell_N, return_inverse=True)[1]
    sizes = [np.bincount(code).astype(np.float64)[code] for code in (true_N, found, cell_N)]
    return sizes[0], sizes[1], sizes[2]


def _share(part: float, whole: float) -> float:
    return part / whole if whole else 1.0


def _agreement(precision: float, recall: float) -> Agreement:
    total = precision + recall
    f = 2 * precision * recall / total if total else 0.0
    return Agreement(precision=precision, recall=recall, f=f)

"""How well people found without labels agree with the truth: BCubed and pairwise measures.

A face that is nobody else's (-1) is a person of its own, for every method alike: one that leaves
half of all faces out is not better for it.

Legend: N faces, P found people, T true people, C pairs of them that share a face.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

Int64 = npt.NDArray[np.int64]


@dataclass(frozen=True, slots=True, kw_only=True)
class ClusterScore:
    """Precision, recall and F of faces (BCubed) and of pairs of faces."""

    bcubed_precision: float
    bcubed_recall: float
    pair_precision: float
    pair_recall: float
    people: int  # found, single faces included

    @property
    def bcubed_f(self) -> float:
        """Return the harmonic mean of BCubed precision and recall."""
        return _harmonic(self.bcubed_precision, self.bcubed_recall)

    @property
    def pair_f(self) -> float:
        """Return the harmonic mean of pairwise precision and recall."""
        return _harmonic(self.pair_precision, self.pair_recall)


def score_people(person_N: Int64, truth_N: Int64) -> ClusterScore:
    """Compare people found with who the faces are, at least one face.

    With n_ij faces of person j found as i, p_i found as i and t_j of person j, N in all:
    BCubed P = 1/N sum n_ij^2 / p_i, R = 1/N sum n_ij^2 / t_j (Bagga and Baldwin 1998; Amigo
    et al. 2009); pairwise P = sum (n_ij^2 - n_ij) / sum (p_i^2 - p_i), R with t_j. No pairs
    at all count as 1: nothing wrong was said, nothing missed.
    """
    found_N, true_N = _numbered(person_N), _numbered(truth_N)
    size_P, size_T = np.bincount(found_N), np.bincount(true_N)
    cell_C, shared_C = np.unique(found_N * len(size_T) + true_N, return_counts=True)
    square_C = shared_C.astype(np.float64) ** 2
    pairs = float((square_C - shared_C).sum())
    return ClusterScore(
        bcubed_precision=float((square_C / size_P[cell_C // len(size_T)]).sum()) / len(found_N),
        bcubed_recall=float((square_C / size_T[cell_C % len(size_T)]).sum()) / len(found_N),
        pair_precision=_share(pairs, size_P),
        pair_recall=_share(pairs, size_T),
        people=len(size_P),
    )


def _numbered(group_N: Int64) -> Int64:
    """Return 0.. for each group, and one of its own for each -1."""
    alone_N = group_N < 0
    numbered_N = np.where(alone_N, int(group_N.max()) + np.cumsum(alone_N), group_N)
    return np.unique(numbered_N, return_inverse=True)[1].astype(np.int64)


def _share(pairs: float, sizes: Int64) -> float:
    total = float((sizes.astype(np.float64) ** 2 - sizes).sum())
    return pairs / total if total else 1.0


def _harmonic(a: float, b: float) -> float:
    return 2 * a * b / (a + b) if a + b else 0.0

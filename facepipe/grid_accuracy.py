"""insightface's verification accuracy, digit for digit: a grid of squared distances, ten folds.

The arithmetic of recognition/arcface_torch/eval/verification.py (deepinsight/insightface,
commit 166d743), after facenet's: `LFold` lines 42-52, `calculate_roc` 55-107,
`calculate_accuracy` 110-123, thresholds of `evaluate` 184. `facepipe.evaluate.fold_accuracy`
tries every cut instead of the grid's 400, so the two differ by a pair or two: compare numbers
of one kind. Its TAR (`calculate_val`) is not here: it interpolates between FARs that no
threshold gives, and the interpolation needs FARs that are all different, which they never are.

Legend: P pairs, T thresholds, F folds.
"""

from __future__ import annotations

import math

import numpy as np
import numpy.typing as npt

from facepipe.evaluate import FoldAccuracy

Float = npt.NDArray[np.float64]
Int = npt.NDArray[np.int64]

GRID_T: Float = np.arange(0, 4, 0.01)  # squared distances of unit vectors: 0 to 4
FOLDS = 10


def folds_in_order(pairs: int, folds: int = FOLDS) -> Int:
    """Return the fold of each pair, (P,) int64: runs of neighbours, the first ones longer by one.

    scikit-learn's KFold without shuffling, which insightface uses on its .bin sets. Raises
    ValueError for fewer pairs than folds, or fewer than two folds.
    """
    if not 2 <= folds <= pairs:
        raise ValueError(f"{pairs} pairs cannot be cut in {folds} folds")
    sizes = np.full(folds, pairs // folds)
    sizes[: pairs % folds] += 1
    return np.repeat(np.arange(folds), sizes)


def squared_distances(first_PD: npt.ArrayLike, second_PD: npt.ArrayLike) -> Float:
    """Return the squared Euclidean distance of each pair of rows, (P,) float64."""
    gap_PD = np.asarray(first_PD, np.float64) - np.asarray(second_PD, np.float64)
    return np.asarray(np.sum(np.square(gap_PD), 1), np.float64)


def grid_accuracy(
    distances_P: npt.ArrayLike, same_P: npt.ArrayLike, folds_P: npt.ArrayLike
) -> FoldAccuracy:
    """Return the accuracy of each fold, judged with the grid's first best threshold elsewhere.

    distances_P: squared distances of unit vectors; a pair is accepted *under* a threshold.
    NaN (no face) is wrong in its fold and has no say in thresholds. The thresholds returned
    are squared distances d: a cosine of 1 - d / 2. Raises ValueError for fewer than two folds
    and for lengths that differ.
    """
    distance_P, matched_P = np.asarray(distances_P, np.float64), np.asarray(same_P, bool)
    fold_P = np.asarray(folds_P)
    if distance_P.ndim != 1 or distance_P.shape != matched_P.shape or fold_P.ndim != 1:
        raise ValueError(f"{distance_P.shape} distances for {matched_P.shape} pairs")
    folds, place_P = np.unique(fold_P, return_inverse=True)
    if len(folds) < 2:
        raise ValueError("fold accuracy needs at least two folds: one to judge, one to learn")
    right_FT = np.stack(
        [_right(distance_P[place_P == f], matched_P[place_P == f]) for f in range(len(folds))]
    )
    elsewhere_FT = right_FT.sum(axis=0) - right_FT
    best_F = elsewhere_FT.argmax(axis=1)
    accuracy = right_FT[np.arange(len(folds)), best_F] / np.bincount(place_P)
    right_P = (distance_P < GRID_T[best_F][place_P]) == matched_P
    return FoldAccuracy(
        folds=folds,
        accuracy=accuracy,
        threshold=GRID_T[best_F],
        right_P=right_P & ~np.isnan(distance_P),
        mean=float(accuracy.mean()),
        standard_error=float(accuracy.std(ddof=1) / math.sqrt(len(folds))),
        std=float(accuracy.std()),
    )


def _right(distance_P: Float, matched_P: npt.NDArray[np.bool_]) -> Int:
    """Return how many pairs each threshold of the grid judges right, (T,)."""
    known_P = ~np.isnan(distance_P)
    near = np.sort(distance_P[known_P & matched_P])
    far = np.sort(distance_P[known_P & ~matched_P])
    rejected_T = len(far) - np.searchsorted(far, GRID_T, side="left")
    return np.asarray(np.searchsorted(near, GRID_T, side="left") + rejected_T, np.int64)

"""Modes of labels from the cosines of their faces, many labels side by side.

The cosines of a label's faces to each other say all that its modes depend on: with w the
weights and G the cosines, the sum S of the weighted vectors has v.S = G w and |S|^2 = w.G w.
So vectors are read and widened once, whatever the number of modes and rounds. Labels of like
size lie in one array; what the smaller ones lack is closed, like faces that have a mode.

Legend: B labels side by side, n faces of the largest of them.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from facepipe.centres import MIN_WEIGHT, Float, Float32, Int64, LabelledFaces

Bool = npt.NDArray[np.bool_]

GROUP_COSINES = 1 << 20  # 4 MB: stays in the cache of a core
STEPS_PER_OCTAVE = 4  # sizes of arrays: a label fills at least four fifths of its place
TRIM_ROUNDS = 3


@dataclass(frozen=True, slots=True, kw_only=True)
class Floors:
    """Cosines under which two faces, or a face and a centre, do not agree."""

    floor_M: Float  # by the faces that the centre is worth, from 1; the last for more

    @property
    def pair(self) -> float:
        """Return the cosine of two faces."""
        return float(self.floor_M[0])

    def of(self, others_N: Float) -> Float:
        """Return the cosine to centres of so many others."""
        return np.interp(others_N, np.arange(1, len(self.floor_M) + 1), self.floor_M)


@dataclass(frozen=True, slots=True, kw_only=True)
class LabelCosines:
    """Labels of like size: rows of their faces, -1 where there is none, and their cosines."""

    rows_Bn: Int64
    cosine_Bnn: Float32

    @property
    def open_Bn(self) -> Bool:
        """Return which places have a face."""
        return self.rows_Bn >= 0


def weights(cosine_N: Float, floor: float | Float) -> Float:
    """Return what each cosine has over the floor, at least MIN_WEIGHT; 0 under it."""
    return np.where(cosine_N >= floor, np.maximum(cosine_N - floor, MIN_WEIGHT), 0.0)


def label_cosines(faces: LabelledFaces, most: int) -> Iterator[LabelCosines]:
    """Yield the cosines of all labels of two to ``most`` faces.

    faces: widened already (``unit``), of no more than memory has room for.
    """
    size_L = faces.size_L
    start_L = np.cumsum(size_L) - size_L
    fit_L = (size_L > 1) & (size_L <= most)
    if not fit_L.any():
        return
    place_L = _places(size_L)
    vectors_ND = np.asarray(faces.vectors_ND, np.float32)
    for places in np.unique(place_L[fit_L]).tolist():
        labels = np.flatnonzero(fit_L & (place_L == places))
        step = max(1, GROUP_COSINES // places**2)
        for low in range(0, len(labels), step):
            some = labels[low : low + step]
            offset_n = np.arange(places)
            there_Bn = offset_n < size_L[some, None]
            rows_Bn = np.where(there_Bn, start_L[some, None] + offset_n, 0)
            vectors_BnD = vectors_ND[rows_Bn.ravel()].reshape(*rows_Bn.shape, -1)
            yield LabelCosines(
                rows_Bn=np.where(there_Bn, rows_Bn, -1),
                cosine_Bnn=vectors_BnD @ vectors_BnD.transpose(0, 2, 1),
            )


def _places(size_L: Int64) -> Int64:
    """Return the size of the array a label goes into: itself to 8, then STEPS_PER_OCTAVE."""
    octave_L = np.maximum(np.floor(np.log2(np.maximum(size_L, 1) - 0.5)).astype(np.int64), 0)
    step_L = np.maximum(2**octave_L // STEPS_PER_OCTAVE, 1)
    places_L: Int64 = -(-size_L // step_L) * step_L
    return places_L


def modes_of(group: LabelCosines, floors: Floors, most: int) -> tuple[Int64, Float]:
    """Return which of its label's modes each face is in (B, n), -1 for none, and its weight.

    The dominant one first, then that of the faces left, at most ``most``.
    """
    mode_Bn = np.full(group.rows_Bn.shape, -1)
    weight_Bn = np.zeros(group.rows_Bn.shape)
    left, open_Bn, cosine_Bnn = np.arange(len(mode_Bn)), group.open_Bn, group.cosine_Bnn
    for mode in range(most):
        found_Bn = _dominant(cosine_Bnn, open_Bn, floors)
        taken_Bn = found_Bn > 0
        mode_Bn[left] = np.where(taken_Bn, mode, mode_Bn[left])
        weight_Bn[left] += found_Bn
        open_Bn = open_Bn & ~taken_Bn
        again_B = taken_Bn.any(axis=1) & (open_Bn.sum(axis=1) > 1)
        if not again_B.any():
            break
        left, open_Bn, cosine_Bnn = left[again_B], open_Bn[again_B], cosine_Bnn[again_B]
    return mode_Bn, weight_Bn


def _dominant(cosine_Bnn: Float32, open_Bn: Bool, floors: Floors) -> Float:
    """Return the weight of each open face in its label's dominant identity.

    As `facepipe.modes.dominant_centre` describes it.
    """
    weight_Bn = _seeds(cosine_Bnn, open_Bn, floors.pair)
    for _ in range(TRIM_ROUNDS):
        small_Bn = weight_Bn.astype(np.float32)
        dot_Bn = (cosine_Bnn @ small_Bn[:, :, None])[:, :, 0].astype(np.float64)
        weight_Bn = small_Bn.astype(np.float64)
        length2_Bn = (weight_Bn * dot_Bn).sum(axis=1, keepdims=True)
        length2_Bn = length2_Bn - weight_Bn * (2 * dot_Bn - weight_Bn)
        others_Bn = _others(weight_Bn)
        good_Bn = (others_Bn > 0) & (length2_Bn > 1e-6)
        cosine_Bn = np.where(good_Bn, dot_Bn - weight_Bn, 0.0)
        cosine_Bn /= np.sqrt(np.where(good_Bn, length2_Bn, 1.0))
        found_Bn = weights(np.clip(cosine_Bn, -1.0, 1.0), floors.of(others_Bn))
        weight_Bn = np.where(open_Bn & (others_Bn > 0), found_Bn, 0.0)
    return weight_Bn


def _seeds(cosine_Bnn: Float32, open_Bn: Bool, floor: float) -> Float:
    """Return the weights that each label's best supported open face gives, its own as highest."""
    support_Bnn = np.maximum(cosine_Bnn - np.float32(floor), np.float32(0.0))
    support_Bnn *= open_Bn[:, None, :]
    own_n = np.arange(cosine_Bnn.shape[1])
    support_Bnn[:, own_n, own_n] = 0.0  # none for oneself
    support_Bn = np.where(open_Bn, support_Bnn.sum(axis=2), -1.0)
    best_B, labels = support_Bn.argmax(axis=1), np.arange(len(open_Bn))
    near_Bn = np.where(open_Bn, cosine_Bnn[labels, best_B], -1.0).astype(np.float64)
    near_Bn[labels, best_B] = -1.0
    weight_Bn = weights(near_Bn, floor)
    weight_Bn[labels, best_B] = weight_Bn.max(axis=1)
    return weight_Bn


def _others(weight_Bn: Float) -> Float:
    """Return how many equal weights the others' are worth: (sum w)^2 / sum w^2 (Kish 1965)."""
    sum_Bn, square_Bn = (
        power.sum(axis=1, keepdims=True) - power for power in (weight_Bn, weight_Bn**2)
    )
    some_Bn = sum_Bn > MIN_WEIGHT / 2
    return np.where(some_Bn, sum_Bn**2 / np.where(some_Bn, square_Bn, 1.0), 0.0)

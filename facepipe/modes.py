"""Groups of faces that agree within a label: near copies, the dominant one, and those after it.

Legend: N faces (rows sorted by label), L labels, D dimensions, M modes, B labels of one size n.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt

from facepipe.centres import Float, Float32, Int64, LabelledFaces
from facepipe.label_cosines import TRIM_ROUNDS, Floors, label_cosines, modes_of, weights
from facepipe.neighbors import unit_rows

SUBCENTER_COSINE = 0.2588  # cos 75 deg: sub-center ArcFace drops faces further off (Deng 2020)
# Two photos of a person hardly come so near: on LFW one pair in 2,500, all of one scene. CAST
# (Zhu 2021) takes the same for a duplicate. Such faces are one witness, not two.
COPY_COSINE = 0.95
SEED_FACES = 2048  # of a larger label, evenly spread: 16 MB of cosines
# Modes looked for in one label. The label of somebody whom many resemble gets faces of them all.
MOST_MODES = 6
GRAM_FACES = 2048  # whose cosines are held at a time, in labels of one size


@dataclass(frozen=True, slots=True, kw_only=True)
class Modes:
    """Groups of two or more faces of one label that agree, the largest support first.

    Last come the faces that labels have lost to others (`facepipe.contest`), be it a single one.
    mode_N: int64, -1 in none; the first modes of all labels, then the second ones, and so on.
    weight_N: of a face in its mode's centre. label_M: the label of each mode.
    """

    mode_N: Int64
    weight_N: Float
    label_M: Int64


def near_copies(faces: LabelledFaces) -> Int64:
    """Return for each face the row it is a near copy of: an earlier one of its label, or itself.

    Stars, not chains: every copy is within COPY_COSINE of the face it is a copy of. Of labels
    with more than SEED_FACES only stretches of so many are compared.
    """
    copied_N = np.arange(len(faces.label_N))
    for rows, found in faces.each_part(_copies):
        copied_N[rows] = rows.start + found
    return copied_N


def _copies(faces: LabelledFaces) -> Int64:
    copied_N = np.arange(len(faces.label_N))
    for rows_Bn, cosine_Bnn in _grams(faces, spread=False):
        near_Bnn = np.tril(cosine_Bnn >= COPY_COSINE, -1)
        for place in np.flatnonzero(near_Bnn.any(axis=(1, 2))):
            own_n = np.arange(rows_Bn.shape[1])
            for row in np.flatnonzero(near_Bnn[place].any(axis=1)):
                firsts = np.flatnonzero(near_Bnn[place, row] & (own_n == np.arange(len(own_n))))
                if len(firsts):
                    own_n[row] = firsts[0]
            copied_N[rows_Bn[place]] = rows_Bn[place][own_n]
    return copied_N


def find_modes(faces: LabelledFaces, floors: Floors) -> Modes:
    """Find the dominant identity of each label, then that of the faces left, and so on."""
    total = len(faces.label_N)
    mode_N, weight_N = np.full(total, -1), np.zeros(total)
    for rows, found in faces.each_part(lambda part: _modes_of_labels(part, floors)):
        mode_N[rows], weight_N[rows] = found
    known_N = mode_N >= 0
    key_M, place = np.unique(
        mode_N[known_N] * faces.labels + faces.label_N[known_N], return_inverse=True
    )
    mode_N[known_N] = place
    return Modes(mode_N=mode_N, weight_N=weight_N, label_M=key_M % max(faces.labels, 1))


def main_modes(modes: Modes, labels: int) -> Int64:
    """Return the first mode of each label, -1 where there is none."""
    main_L = np.full(labels, -1)
    main_L[modes.label_M[::-1]] = np.arange(len(modes.label_M))[::-1]
    return main_L


def _modes_of_labels(faces: LabelledFaces, floors: Floors) -> tuple[Int64, Float]:
    """Return the modes of the labels of a part: the first of each is 0."""
    mode_N, weight_N = np.full(len(faces.label_N), -1), np.zeros(len(faces.label_N))
    small = SEED_FACES if faces.unit else 1
    for group in label_cosines(faces, small):
        found_Bn, weight_Bn = modes_of(group, floors, MOST_MODES)
        place = group.rows_Bn[group.open_Bn]
        mode_N[place], weight_N[place] = found_Bn[group.open_Bn], weight_Bn[group.open_Bn]
    for label in np.flatnonzero(faces.size_L > small).tolist():
        among = np.flatnonzero(faces.label_N == label)
        mode_N[among], weight_N[among] = _modes_of_large(subset(faces, among), floors)
    return mode_N, weight_N


def _modes_of_large(faces: LabelledFaces, floors: Floors) -> tuple[Int64, Float]:
    """Return the modes of the faces of one label, from vectors: it has too many cosines."""
    mode_N, weight_N = np.full(len(faces.label_N), -1), np.zeros(len(faces.label_N))
    rows = np.arange(len(faces.label_N))
    for mode in range(MOST_MODES):
        found_n = dominant_weights(subset(faces, rows), floors)
        taken_n = found_n > 0
        if not taken_n.any():
            break
        mode_N[rows[taken_n]], weight_N[rows[taken_n]] = mode, found_n[taken_n]
        rows = rows[~taken_n]
    return mode_N, weight_N


def subset(faces: LabelledFaces, rows: Int64) -> LabelledFaces:
    """Return some of the faces, under the same labels."""
    return replace(faces, label_N=faces.label_N[rows], vector_N=faces.vector_N[rows], unit=False)


def dominant_centre(
    vectors_ND: npt.NDArray[np.floating], floor: float = SUBCENTER_COSINE
) -> tuple[Float32, Float32]:
    """Return the unit centre (D,) of the dominant identity, and each face's weight (N,).

    vectors_ND: unit rows, float16 or float32, at least one. The seed is the face with most
    support, the sum over the other faces of what their cosine has over ``floor``. Then
    TRIM_ROUNDS times the weighted mean, where a face weighs what its cosine to the mean of
    the *other* faces has over ``floor`` (0 under it): a look-alike just over it counts little.
    All are 0, the centre too, where no two faces agree.

    The mean of the densest quartile by median cosine, the usual seed, needs the dominant
    identity to hold the majority; support needs it to be the largest that agrees. On LFW
    with half of all labels wrong that is the difference between F1 .974 and .987.
    """
    rows = np.arange(len(vectors_ND), dtype=np.int64)
    faces = LabelledFaces(
        label_N=np.zeros_like(rows), vector_N=rows, vectors_ND=vectors_ND, labels=1
    )
    floors = Floors(floor_M=np.array([floor]))
    weight_N = dominant_weights(faces, floors) if len(rows) > 1 else np.ones(1)
    return unit_rows(faces.sums(weight_N))[0], weight_N.astype(np.float32)


def dominant_weights(faces: LabelledFaces, floors: Floors) -> Float:
    """Return each face's weight in its label's dominant identity (see dominant_centre)."""
    weight_N = np.zeros(len(faces.label_N))
    for _, rows, part in faces.parts():
        weight_B = _seeds(part, floors.pair)
        for _ in range(TRIM_ROUNDS):
            near = part.leave_one_out(weight_B)
            found_B = weights(near.cosine_N, floors.of(near.others_N))
            weight_B = np.where(near.others_N > 0, found_B, 0.0)
        weight_N[rows] = weight_B
    return weight_N


def _seeds(faces: LabelledFaces, floor: float) -> Float:
    """Return the weights that each label's best supported face gives, its own as highest."""
    weight_N = np.zeros(len(faces.label_N))
    for rows_Bn, cosine_Bnn in _grams(faces, spread=True):
        size = rows_Bn.shape[1]
        cosine_Bnn[:, np.arange(size), np.arange(size)] = -1.0  # no support for oneself
        best_B = np.maximum(cosine_Bnn - np.float32(floor), 0.0).sum(axis=2).argmax(axis=1)
        labels = np.arange(len(rows_Bn))
        weight_Bn = weights(cosine_Bnn[labels, best_B].astype(np.float64), floor)
        weight_Bn[labels, best_B] = weight_Bn.max(axis=1)
        weight_N[rows_Bn] = weight_Bn
    return weight_N


def _grams(faces: LabelledFaces, spread: bool) -> Iterator[tuple[Int64, Float32]]:
    """Yield rows (B, n) of labels of one size, two or more, and their cosines (B, n, n).

    Of a label of more than SEED_FACES, as many evenly spread, or all in stretches of so many.
    """
    size_L = faces.size_L
    start_L = np.cumsum(size_L) - size_L
    for size in np.unique(size_L[size_L > 1]).tolist():
        starts = start_L[size_L == size]
        if size <= SEED_FACES:
            offsets = [np.arange(size)]
        elif spread:
            offsets = [np.arange(0, size, -(-size // SEED_FACES))]
        else:
            offsets = np.array_split(np.arange(size), -(-size // SEED_FACES))
        for offset_n in offsets:
            step = max(1, GRAM_FACES // len(offset_n))
            for low in range(0, len(starts), step):
                rows_Bn = starts[low : low + step, None] + offset_n
                flat = faces.vectors_ND[faces.vector_N[rows_Bn.ravel()]]
                flat = flat if faces.unit else unit_rows(flat)
                vectors_BnD = np.asarray(flat).reshape(*rows_Bn.shape, -1)
                yield rows_Bn, vectors_BnD @ vectors_BnD.transpose(0, 2, 1)

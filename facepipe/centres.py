"""Centres of identities: the dominant one of each label, and who is how near to it.

Every pass goes over the faces in blocks; vectors are widened to float32 one block at a
time, and no more than a block of cosines exists. Sums and products are done in a fixed
order, outside of any threaded library, so that the same faces give the same bits.

Legend: N faces (rows sorted by label), L labels, D dimensions, B a block of faces.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from facepipe.neighbors import unit_rows

Float = npt.NDArray[np.float64]
Float32 = npt.NDArray[np.float32]
Int64 = npt.NDArray[np.int64]
Bool = npt.NDArray[np.bool_]

SUBCENTER_COSINE = 0.2588  # cos 75 deg: sub-center ArcFace drops faces further off (Deng 2020)
# Cosines of different people's faces on LFW: mean 0.017, spread 0.067 with a 512-d ArcFace
# model, 0.10 with a 128-d one; and what this knowledge is worth, in pairs of labels.
PRIOR_IMPOSTOR_MEAN, PRIOR_IMPOSTOR_STD, PRIOR_STD_ROOT_DIM = 0.02, 0.067, 1.12
PRIOR_LABEL_PAIRS = 30.0
TRIM_ROUNDS = 3
BLOCK_ROWS = 16384  # 32 MB of float32 at 512 dimensions
PART_ROWS = 4 * BLOCK_ROWS
MIN_WEIGHT = 0.05  # of a face that counts; leaving one out would lose the digits of smaller ones
SEED_FACES = 2048  # of a larger label, evenly spread: 16 MB of cosines
IMPOSTOR_FACES = 1 << 16
LABEL_STRIDES = (1, 7, 31)  # a face is tried against the centres of these labels after its own


@dataclass(frozen=True, slots=True, kw_only=True)
class LabelledFaces:
    """Faces sorted by label; their vectors stay where they are, in float16 if so stored.

    label_N: int64, 0..labels-1, rising. vector_N: row of each face in vectors_ND.
    """

    label_N: Int64
    vector_N: Int64
    vectors_ND: npt.NDArray[np.floating]
    labels: int
    unit: bool = False  # vectors_ND is float32, of length one, in the order of the faces

    @property
    def size_L(self) -> Int64:
        """Return how many faces each label has."""
        return np.bincount(self.label_N, minlength=self.labels)

    def blocks(self, rows: Int64 | None = None) -> Iterator[tuple[Int64, Float32]]:
        """Yield rows (all, or those given) and their unit vectors, a block at a time."""
        rows = np.arange(len(self.label_N)) if rows is None else rows
        for start in range(0, len(rows), BLOCK_ROWS):
            block = rows[start : start + BLOCK_ROWS]
            yield block, unit_rows(self.vectors_ND[self.vector_N[block]])

    def parts(self) -> Iterator[tuple[slice, LabelledFaces]]:
        """Yield rows that are whole labels, about a block of them, widened once.

        A label of more than PART_ROWS faces is left as it is, to be widened by the block.
        """
        ends_L = np.cumsum(self.size_L)
        low = 0
        while low < self.labels:
            start = int(ends_L[low - 1]) if low else 0
            high = max(low + 1, int(np.searchsorted(ends_L, start + BLOCK_ROWS, side="right")))
            rows = slice(start, int(ends_L[high - 1]))
            small = rows.stop - start <= PART_ROWS
            vector_N = self.vector_N[rows]
            yield (
                rows,
                LabelledFaces(
                    label_N=self.label_N[rows] - low,
                    vector_N=np.arange(len(vector_N)) if small else vector_N,
                    vectors_ND=unit_rows(self.vectors_ND[vector_N]) if small else self.vectors_ND,
                    labels=high - low,
                    unit=small,
                ),
            )
            low = high

    def _widened(self) -> Iterator[tuple[slice, Float32]]:
        """Yield all rows and their unit vectors; a part that is widened already, at once."""
        if self.unit:
            yield slice(0, len(self.label_N)), self.vectors_ND
        else:
            for rows, vectors_BD in self.blocks():
                yield slice(int(rows[0]), int(rows[-1]) + 1), vectors_BD

    def sums(self, weight_N: Float) -> Float32:
        """Return the weighted sum of each label's vectors, (L, D)."""
        sums_LD = np.zeros((self.labels, self.vectors_ND.shape[1]), np.float32)
        small_N = weight_N.astype(np.float32)
        for rows, vectors_BD in self._widened():
            weight_B, label_B = small_N[rows], self.label_N[rows]
            first = np.flatnonzero(np.diff(label_B, prepend=-1)).tolist()
            # einsum by label: a tenth of the time of np.add.reduceat, and no threads.
            for start, end in itertools.pairwise([*first, len(label_B)]):
                sums_LD[label_B[start]] += np.einsum(
                    "n,nd->d", weight_B[start:end], vectors_BD[start:end]
                )
        return sums_LD

    def leave_one_out(self, weight_N: Float) -> LeaveOneOut:
        """Compare each face with the weighted mean of its label's *other* faces.

        With S the weighted sum and v a face of unit length and weight w, the others' sum is
        S - w v: v.(S - w v) = v.S - w and |S - w v|^2 = |S|^2 - 2 w v.S + w^2.
        """
        weight_N = weight_N.astype(np.float32).astype(np.float64)
        sums_LD = self.sums(weight_N)
        square_L = np.einsum("ld,ld->l", sums_LD, sums_LD).astype(np.float64)
        dot_N = np.empty(len(self.label_N), np.float64)
        for rows, vectors_BD in self._widened():
            dot_N[rows] = np.einsum("nd,nd->n", vectors_BD, sums_LD[self.label_N[rows]])
        length2_N = square_L[self.label_N] - weight_N * (2 * dot_N - weight_N)
        others_N = self._others(weight_N)
        good_N = (others_N > 0) & (length2_N > 1e-6)
        cosine_N = np.zeros(len(dot_N))
        cosine_N[good_N] = (dot_N - weight_N)[good_N] / np.sqrt(length2_N[good_N])
        return LeaveOneOut(
            cosine_N=np.clip(cosine_N, -1.0, 1.0), others_N=others_N, sums_LD=sums_LD
        )

    def _others(self, weight_N: Float) -> Float:
        """Return how many equal weights the others' are worth: (sum w)^2 / sum w^2 (Kish 1965)."""
        sum_N, square_N = (
            np.bincount(self.label_N, power, minlength=self.labels)[self.label_N] - power
            for power in (weight_N, weight_N**2)
        )
        some_N = sum_N > MIN_WEIGHT / 2
        return np.where(some_N, sum_N**2 / np.where(some_N, square_N, 1.0), 0.0)


@dataclass(frozen=True, slots=True, kw_only=True)
class LeaveOneOut:
    """How near each face is to the other faces of its label."""

    cosine_N: Float  # 0 where no other has a weight
    others_N: Float  # what they are worth, in faces of equal weight
    sums_LD: Float32  # of all faces of each label


def leave_one_out(faces: LabelledFaces, weight_N: Float) -> LeaveOneOut:
    """Compare each face with the mean of its label's other faces, a part at a time."""
    found = LeaveOneOut(
        cosine_N=np.zeros(len(faces.label_N)),
        others_N=np.zeros(len(faces.label_N)),
        sums_LD=np.zeros((faces.labels, faces.vectors_ND.shape[1]), np.float32),
    )
    low = 0
    for rows, part in faces.parts():
        this = part.leave_one_out(weight_N[rows])
        found.cosine_N[rows], found.others_N[rows] = this.cosine_N, this.others_N
        found.sums_LD[low : low + part.labels] = this.sums_LD
        low += part.labels
    return found


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
    weight_N = dominant_weights(faces, floor) if len(rows) > 1 else np.ones(1)
    return unit_rows(faces.sums(weight_N))[0], weight_N.astype(np.float32)


def dominant_weights(faces: LabelledFaces, floor: float) -> Float:
    """Return each face's weight in its label's dominant identity (see dominant_centre)."""
    weight_N = np.zeros(len(faces.label_N))
    for rows, part in faces.parts():
        weight_B = _seeds(part, floor)
        for _ in range(TRIM_ROUNDS):
            near = part.leave_one_out(weight_B)
            weight_B = np.where(near.others_N > 0, weights(near.cosine_N, floor), weight_B)
        weight_N[rows] = weight_B
    return weight_N


def weights(cosine_N: Float, floor: float) -> Float:
    """Return what each cosine has over the floor, at least MIN_WEIGHT; 0 under it."""
    return np.where(cosine_N >= floor, np.maximum(cosine_N - floor, MIN_WEIGHT), 0.0)


def _seeds(faces: LabelledFaces, floor: float) -> Float:
    """Return the weights that each label's best supported face gives, its own as highest."""
    weight_N = np.zeros(len(faces.label_N))
    ends_L = np.cumsum(faces.size_L)
    for start, end in zip(ends_L - faces.size_L, ends_L, strict=True):
        if start == end:
            continue
        rows = np.arange(start, end, -(-(end - start) // SEED_FACES))
        vectors_BD = faces.vectors_ND[faces.vector_N[rows]]
        vectors_BD = vectors_BD if faces.unit else unit_rows(vectors_BD)
        cosine_BB = vectors_BD @ vectors_BD.T
        np.fill_diagonal(cosine_BB, floor)  # no support for oneself
        best = int(np.maximum(cosine_BB - floor, 0.0).sum(axis=1).argmax())
        weight_N[rows] = weights(cosine_BB[best].astype(np.float64), floor)
        weight_N[rows[best]] = weight_N[rows].max()
    return weight_N


@dataclass(frozen=True, slots=True, kw_only=True)
class Impostors:
    """Cosines of faces to what is not theirs, as measured on the data at hand."""

    mean: float
    std: float
    quantiles: tuple[tuple[float, float], ...]  # (share of them below, cosine)


def face_impostors(faces: LabelledFaces) -> Impostors:
    """Measure cosines between faces of different labels."""
    total = len(faces.label_N)
    found = [np.empty(0, np.float32)]
    for part in (2, 3, 5):
        shift = max(1, total // part)
        for rows, vectors_BD in faces.blocks(_sample(total)):
            others = (rows + shift) % total
            foreign = faces.label_N[rows] != faces.label_N[others]
            other_BD = unit_rows(faces.vectors_ND[faces.vector_N[others[foreign]]])
            found.append(np.einsum("nd,nd->n", vectors_BD[foreign], other_BD))
    return _impostors(np.concatenate(found), faces.labels, faces.vectors_ND.shape[1])


def centre_impostors(faces: LabelledFaces, centres_LD: Float32) -> Impostors:
    """Measure cosines of faces to the centres of other labels; a zero centre is left out."""
    found = [np.empty(0, np.float32)]
    filled_L = np.asarray(centres_LD.any(axis=1))
    for stride in sorted({s % max(faces.labels, 1) for s in LABEL_STRIDES} - {0}):
        for rows, vectors_BD in faces.blocks(_sample(len(faces.label_N))):
            others = (faces.label_N[rows] + stride) % faces.labels
            fit = filled_L[others]
            found.append(np.einsum("nd,nd->n", vectors_BD[fit], centres_LD[others[fit]]))
    return _impostors(np.concatenate(found), faces.labels, faces.vectors_ND.shape[1])


def _sample(faces: int) -> Int64:
    return np.arange(0, faces, max(1, faces // IMPOSTOR_FACES), dtype=np.int64)


def _impostors(cosine_N: Float32, labels: int, dim: int) -> Impostors:
    """Summarise impostor cosines by their middle, which a split identity does not move.

    Two labels of one person, or wrong labels, put a few genuine cosines among them: the
    median and the 16th percentile ignore those. With few labels that does not hold, and
    what ArcFace models do on LFW counts as PRIOR_LABEL_PAIRS pairs of labels.
    """
    label_pairs = labels * (labels - 1) / 2 if len(cosine_N) else 0.0
    prior_std = max(PRIOR_IMPOSTOR_STD, PRIOR_STD_ROOT_DIM / math.sqrt(dim))
    trust = label_pairs / (label_pairs + PRIOR_LABEL_PAIRS)
    shares = (0.001, 0.01, 0.16, 0.5, 0.84, 0.99, 0.999, 0.9999)
    values = np.quantile(cosine_N.astype(np.float64), shares) if len(cosine_N) else np.zeros(8)
    mean = trust * float(values[3]) + (1 - trust) * PRIOR_IMPOSTOR_MEAN
    spread = float(values[3] - values[2])
    std = math.sqrt(trust * spread**2 + (1 - trust) * prior_std**2)
    measured = zip(shares, values.tolist(), strict=True) if len(cosine_N) else ()
    return Impostors(mean=mean, std=std, quantiles=tuple(measured))

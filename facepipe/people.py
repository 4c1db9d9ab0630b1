"""People, each a group of faces that may lie under several labels, and their centres.

Legend: N faces (rows sorted by label), P people, D dimensions, B a block of faces.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from facepipe.centres import MIN_WEIGHT, Float, Float32, Int64, LabelledFaces

Bool = npt.NDArray[np.bool_]


@dataclass(frozen=True, slots=True, kw_only=True)
class People:
    """Who is on each face, as far as known, and the weighted sums of each person's vectors.

    person_N: int64, -1 nobody known. weight_N: of a face in its person's centre.
    sums_PD: float32. weight_P and square_P: sums of the weights and of their squares.
    """

    person_N: Int64
    weight_N: Float
    sums_PD: Float32
    weight_P: Float
    square_P: Float

    @property
    def total(self) -> int:
        """Return how many people there are."""
        return len(self.sums_PD)

    @property
    def size_P(self) -> Float:
        """Return how many equal faces each centre is worth: (sum w)^2 / sum w^2 (Kish 1965)."""
        return self.weight_P**2 / np.maximum(self.square_P, 1e-12)


def gather(faces: LabelledFaces, person_N: Int64, weight_N: Float) -> People:
    """Sum up the faces of each person, in one pass in the order of the faces."""
    from scipy.sparse import csr_array

    total = int(person_N.max(initial=-1)) + 1
    known_N = person_N >= 0
    weight_N = np.where(known_N, weight_N, 0.0).astype(np.float32).astype(np.float64)
    sums_PD = np.zeros((total, faces.vectors_ND.shape[1]), np.float32)

    def look(rows: Int64, vectors_BD: Float32) -> tuple[Int64, Float32]:
        # A sparse product adds row by row in a fixed order, and has no threads.
        person, place_B = np.unique(person_N[rows], return_inverse=True)
        order = np.argsort(place_B, kind="stable")
        starts = np.searchsorted(place_B[order], np.arange(len(person) + 1))
        weight_B = weight_N[rows[order]].astype(np.float32)
        shape = (len(person), len(rows))
        return person, csr_array((weight_B, order, starts), shape=shape) @ vectors_BD

    for _, (person, part_BD) in faces.each_block(look, np.flatnonzero(weight_N > 0)):
        sums_PD[person] += part_BD
    return People(
        person_N=person_N,
        weight_N=weight_N,
        sums_PD=sums_PD,
        weight_P=_totals(person_N[known_N], weight_N[known_N], total),
        square_P=_totals(person_N[known_N], weight_N[known_N] ** 2, total),
    )


def _totals(person_N: Int64, weight_N: Float, people: int) -> Float:
    return np.bincount(person_N, weight_N, minlength=people).astype(np.float64)


def cosines(faces: LabelledFaces, people: People, target_N: Int64) -> tuple[Float, Float]:
    """Compare each face with the *other* faces of one person.

    target_N: the person for each face, -1 for none. Returns the cosines to the mean of that
    person's other faces, and what those are worth in equal faces (Kish); 0 without any.

    With S the weighted sum and v a face of unit length and weight w in it, the others' sum is
    S - w v: v.(S - w v) = v.S - w and |S - w v|^2 = |S|^2 - 2 w v.S + w^2.
    """
    total = len(target_N)
    cosine_N, others_N = np.zeros(total), np.zeros(total)
    square_P = np.einsum("pd,pd->p", people.sums_PD, people.sums_PD).astype(np.float64)

    def look(rows: Int64, vectors_BD: Float32) -> None:
        target = target_N[rows]
        dot = np.einsum("nd,nd->n", vectors_BD, people.sums_PD[target]).astype(np.float64)
        own = np.where(people.person_N[rows] == target, people.weight_N[rows], 0.0)
        length2 = square_P[target] - own * (2 * dot - own)
        weight, square = people.weight_P[target] - own, people.square_P[target] - own**2
        some = (weight > MIN_WEIGHT / 2) & (length2 > 1e-6) & (square > 0)
        cosine = (dot - own)[some] / np.sqrt(length2[some])
        cosine_N[rows[some]] = np.clip(cosine, -1.0, 1.0)
        others_N[rows[some]] = np.maximum(weight[some] ** 2 / square[some], 1.0)

    for _ in faces.each_block(look, np.flatnonzero(target_N >= 0)):
        pass  # each has filled in its own rows
    return cosine_N, others_N

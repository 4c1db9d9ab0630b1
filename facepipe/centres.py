"""Faces by label, read by the block, and how near each is to the others of its label.

Every pass goes over the faces in blocks, most of them label by label; vectors are read and
widened to float32 one block at a time, and no more than a block of centres or of cosines
exists for each thread. Blocks do not depend on how many threads look at them, each is one
thread's, and what they give is taken in by their order: the same faces give the same bits.

Legend: N faces (rows sorted by label), L labels, D dimensions, B a block of faces.
"""

from __future__ import annotations

import itertools
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import Protocol, TypeVar

import numpy as np
import numpy.typing as npt

from facepipe.impostors import Impostors, impostors
from facepipe.in_order import in_order
from facepipe.neighbors import unit_rows

R = TypeVar("R")
Float = npt.NDArray[np.float64]
Float32 = npt.NDArray[np.float32]
Int64 = npt.NDArray[np.int64]
Bool = npt.NDArray[np.bool_]

BLOCK_ROWS = 4096  # 8 MB of float32 at 512 dimensions: larger blocks are new pages each time
# Labels of like size are worked on side by side: in fewer rows Python takes longer than they do.
PART_ROWS = 4 * BLOCK_ROWS
MIN_WEIGHT = 0.05  # of a face that counts; leaving one out would lose the digits of smaller ones
IMPOSTOR_FACES = 1 << 16
# How far apart by label the two faces of an impostor pair are, as shares of all: powers of the
# golden ratio. No two or three sets of the same people, one behind the other, have them in line.
APART = (0.381966, 0.236068, 0.145898)


class VectorRows(Protocol):
    """Vectors that are read by the row: an array, or a stored table that is never all read."""

    @property
    def shape(self) -> tuple[int, ...]:
        """Return (rows, dimensions)."""
        ...

    def __getitem__(self, rows: Int64, /) -> npt.NDArray[np.floating]:
        """Return the vectors of rows."""
        ...


class OneReader:
    """Vectors that one thread reads at a time: a stored table keeps what it has read last."""

    def __init__(self, vectors: VectorRows) -> None:
        """Read these."""
        self._vectors = vectors
        self._reading = threading.Lock()
        self.shape = vectors.shape

    def __getitem__(self, rows: Int64) -> npt.NDArray[np.floating]:
        """Return the vectors of rows."""
        with self._reading:
            return self._vectors[rows]


@dataclass(frozen=True, slots=True, kw_only=True)
class LabelledFaces:
    """Faces sorted by label; their vectors stay where they are, in float16 if so stored.

    label_N: int64, 0..labels-1, rising. vector_N: row of each face in vectors_ND, which with
    more than one thread has to bear being read by several (`OneReader`).
    """

    label_N: Int64
    vector_N: Int64
    vectors_ND: VectorRows
    labels: int
    unit: bool = False  # vectors_ND is float32, of length one, in the order of the faces
    threads: int = 1

    @property
    def size_L(self) -> Int64:
        """Return how many faces each label has."""
        return np.bincount(self.label_N, minlength=self.labels)

    def blocks(self, rows: Int64 | None = None) -> Iterator[tuple[Int64, Float32]]:
        """Yield rows (all, or those given) and their unit vectors, a block at a time."""
        for block in self._blocks(rows):
            yield block, self._unit(block)

    def each_block(
        self, look: Callable[[Int64, Float32], R], rows: Int64 | None = None
    ) -> Iterator[tuple[Int64, R]]:
        """Yield rows as `blocks` does and what ``look(rows, unit vectors)`` returns, by threads."""
        return in_order(lambda b: (b, look(b, self._unit(b))), self._blocks(rows), self.threads)

    def _blocks(self, rows: Int64 | None) -> Iterator[Int64]:
        rows = np.arange(len(self.label_N)) if rows is None else rows
        for start in range(0, len(rows), BLOCK_ROWS):
            yield rows[start : start + BLOCK_ROWS]

    def _unit(self, rows: Int64) -> Float32:
        return unit_rows(self.vectors_ND[self.vector_N[rows]])

    def parts(self) -> Iterator[tuple[int, slice, LabelledFaces]]:
        """Yield the labels in parts: the first label, and up to PART_ROWS rows, widened once.

        A label of more faces is left as it is, to be widened by the block.
        """
        for low, high, rows in self._part_spans():
            yield low, rows, self._part(low, high, rows)

    def each_part(self, look: Callable[[LabelledFaces], R]) -> Iterator[tuple[slice, R]]:
        """Yield rows as `parts` does and what ``look(part)`` returns, by threads."""
        return in_order(lambda s: (s[2], look(self._part(*s))), self._part_spans(), self.threads)

    def _part_spans(self) -> Iterator[tuple[int, int, slice]]:
        """Yield the first label of each part, the first after it, and the rows of both."""
        ends_L, low, start = np.cumsum(self.size_L), 0, 0
        while low < self.labels:
            high = max(low + 1, int(np.searchsorted(ends_L, start + PART_ROWS, side="right")))
            high = min(high, self.labels)
            rows = slice(start, int(ends_L[high - 1]))
            yield low, high, rows
            low, start = high, rows.stop

    def _part(self, low: int, high: int, rows: slice) -> LabelledFaces:
        small, vector_N = rows.stop - rows.start <= PART_ROWS, self.vector_N[rows]
        return LabelledFaces(
            label_N=self.label_N[rows] - low,
            vector_N=np.arange(len(vector_N)) if small else vector_N,
            vectors_ND=unit_rows(self.vectors_ND[vector_N]) if small else self.vectors_ND,
            labels=high - low,
            unit=small,
        )

    def in_memory(self) -> LabelledFaces:
        """Return the same faces with their vectors, as stored, in an array, to be read often."""
        if isinstance(self.vectors_ND, np.ndarray):
            return self
        found = [self.vectors_ND[self.vector_N[block]] for block in self._blocks(None)]
        vectors_ND = np.concatenate([np.empty((0, self.vectors_ND.shape[1]), np.float16), *found])
        return replace(self, vector_N=np.arange(len(self.vector_N)), vectors_ND=vectors_ND)

    def _widened(self) -> Iterator[tuple[slice, Float32]]:
        """Yield all rows and their unit vectors; a part that is widened already, at once."""
        if self.unit:
            yield slice(0, len(self.label_N)), np.asarray(self.vectors_ND)
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


def face_impostors(faces: LabelledFaces) -> Impostors:
    """Measure cosines between faces of different labels."""
    total = len(faces.label_N)

    def look(rows: Int64, vectors_BD: Float32) -> list[Float32]:
        found = []
        for part in APART:
            others = (rows + max(1, int(part * total))) % total
            foreign = faces.label_N[rows] != faces.label_N[others]
            other_BD = unit_rows(faces.vectors_ND[faces.vector_N[others[foreign]]])
            found.append(np.einsum("nd,nd->n", vectors_BD[foreign], other_BD))
        return found

    found = [np.empty(0, np.float32)]
    for _, cosines in faces.each_block(look, _sample(total)):
        found += cosines
    return impostors(np.concatenate(found), faces.labels, faces.vectors_ND.shape[1])


def _sample(faces: int) -> Int64:
    return np.arange(0, faces, max(1, faces // IMPOSTOR_FACES), dtype=np.int64)

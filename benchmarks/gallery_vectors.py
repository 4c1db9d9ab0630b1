"""Face vectors for the figures of galleries, made in a stream: people, their faces, and probes.

People are log-normal in size, 25 faces on average. A person's centre is drawn from a spectrum
that falls by a factor of 8 over the dimensions, turned at random: strangers then score 0 +- 0.051
(512 dimensions), which is what 384 equal ones would give. A face is a unit vector at a random
cosine from its person's centre, the rest drawn from the same spectrum, so that two faces of a
person score 0.62 +- 0.11. A tenth of the queries are of people who are not in the gallery; the
others are new faces of people in it, a person as often as the gallery has faces of them.

Faces come person by person in pieces of whole people. Each piece has a seed of its own, so that a
gallery of any size is made in little memory, and twice the same.

Legend: N faces, Q queries, P people, B people or faces of one piece, D dimensions.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

Float32 = npt.NDArray[np.float32]
Int64 = npt.NDArray[np.int64]

OWN_COSINE, OWN_STD = 0.787, 0.097  # of a face to its person's centre: 0.62 +- 0.11 of two faces
FACES_A_PERSON, SIZE_SIGMA = 25.0, 0.8  # 20,000 people for 500,000 faces; of the log of the size
SPECTRUM_FALL = 2.07  # e-folds over the dimensions: (2 / c) tanh(c / 2) = 384 / 512
NO_MATE = 0.1  # share of the queries
PIECE_PEOPLE = 1024  # about 26,000 faces, 50 MB while they are made
STRANGER = -1
_PEOPLE, _FACES, _QUERIES, _TURN = 1, 2, 3, 4  # streams of random numbers


@dataclass(frozen=True, slots=True)
class Faces:
    """Unit float16 vectors (N, D), and whose each is (N,); STRANGER for nobody in the gallery."""

    vectors_ND: npt.NDArray[np.float16]
    person_N: Int64


@dataclass(frozen=True, slots=True)
class GalleryVectors:
    """So many faces in so many dimensions, for a seed; nothing is made before it is asked for."""

    faces: int
    dim: int = 512
    seed: int = 0

    def pieces(self) -> Iterator[Faces]:
        """Yield all faces, person by person."""
        size_P, turn_DD = self._sizes(), self._turn()
        for piece, start in enumerate(range(0, len(size_P), PIECE_PEOPLE)):
            size_B = size_P[start : start + PIECE_PEOPLE]
            own_N = np.repeat(np.arange(len(size_B)), size_B)
            vectors_ND = self._around(
                self._centres(piece, len(size_B))[own_N],
                np.random.default_rng([self.seed, _FACES, piece]),
            )
            yield Faces((vectors_ND @ turn_DD).astype(np.float16), start + own_N)

    def sorted(self) -> Faces:
        """Return all faces, person by person: 2 D bytes each."""
        vectors_ND = np.empty((self.faces, self.dim), np.float16)
        person_N = np.empty(self.faces, np.int64)
        done = 0
        for piece in self.pieces():
            rows = slice(done, done + len(piece.person_N))
            vectors_ND[rows], person_N[rows] = piece.vectors_ND, piece.person_N
            done = rows.stop
        return Faces(vectors_ND, person_N)

    def shuffled(self) -> Faces:
        """Return the same faces in another order."""
        made, order_N = self.sorted(), self.order()
        return Faces(made.vectors_ND[order_N], made.person_N[order_N])

    def order(self) -> Int64:
        """Return the place in sorted order of each shuffled face (N,)."""
        return np.random.default_rng([self.seed, _TURN, 1]).permutation(self.faces)

    def queries(self, count: int) -> Faces:
        """Return so many new faces, of which a tenth are strangers'."""
        rng = np.random.default_rng([self.seed, _QUERIES])
        size_P = self._sizes()
        person_Q = np.repeat(np.arange(len(size_P)), size_P)[rng.integers(0, self.faces, count)]
        stranger_Q = rng.random(count) < NO_MATE
        centres_QD = self._drawn(rng, count)  # the strangers'
        for piece in np.unique(person_Q // PIECE_PEOPLE):
            of = (person_Q // PIECE_PEOPLE == piece) & ~stranger_Q
            people = min(PIECE_PEOPLE, len(size_P) - int(piece) * PIECE_PEOPLE)
            centres_BD = self._centres(int(piece), people)
            centres_QD[of] = centres_BD[person_Q[of] - piece * PIECE_PEOPLE]
        vectors_QD = self._around(centres_QD, rng) @ self._turn()
        return Faces(vectors_QD.astype(np.float16), np.where(stranger_Q, STRANGER, person_Q))

    def _sizes(self) -> Int64:
        """Return each person's faces; they add up to all."""
        people = max(1, round(self.faces / FACES_A_PERSON))
        rng = np.random.default_rng([self.seed, _PEOPLE])
        share_P = np.cumsum(np.exp(rng.normal(0.0, SIZE_SIGMA, people)))
        ends_P = np.rint(share_P / share_P[-1] * (self.faces - people)).astype(np.int64)
        return np.diff(ends_P, prepend=0) + 1

    def _centres(self, piece: int, people: int) -> Float32:
        return self._drawn(np.random.default_rng([self.seed, _PEOPLE, piece]), people)

    def _drawn(self, rng: np.random.Generator, count: int) -> Float32:
        """Return unit vectors of the spectrum."""
        spread_D = np.exp(-0.5 * SPECTRUM_FALL * np.arange(self.dim) / self.dim)
        return _unit(rng.standard_normal((count, self.dim), np.float32) * np.float32(spread_D))

    def _around(self, centres_BD: Float32, rng: np.random.Generator) -> Float32:
        """Return a unit vector at a random cosine from each centre."""
        cosine_B = rng.normal(OWN_COSINE, OWN_STD, len(centres_BD))
        cosine_B1 = np.clip(cosine_B, 0.0, 0.99).astype(np.float32)[:, None]
        aside_BD = self._drawn(rng, len(centres_BD))
        aside_BD -= np.einsum("bd,bd->b", aside_BD, centres_BD)[:, None] * centres_BD
        return cosine_B1 * centres_BD + np.sqrt(1 - cosine_B1**2) * _unit(aside_BD)

    def _turn(self) -> Float32:
        """Return a random rotation: a recogniser's dimensions have no order."""
        rng = np.random.default_rng([self.seed, _TURN])
        turn: Float32 = np.linalg.qr(rng.standard_normal((self.dim, self.dim)))[0].astype(
            np.float32
        )
        return turn


def _unit(vectors: Float32) -> Float32:
    unit: Float32 = vectors / np.linalg.norm(vectors, axis=1, keepdims=True)
    return unit

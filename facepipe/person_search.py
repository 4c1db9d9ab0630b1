"""Searches the people of a test set, and says how likely a stranger scores as much.

Two searches: the nearest face, and the nearest centre of a person with several. Both are
calibrated on the probes' own people (`facepipe.threshold`): a search with a *stranger's* face
finds somebody with a stated chance, half of it by each search.

Legend: N faces that are searched with, B a block of them, P faces of the probes, C centres,
D dimensions.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from facepipe.index_manifest import Threshold
from facepipe.neighbors import nearest, unit_rows
from facepipe.threshold import Strangers, calibrate

Int64 = npt.NDArray[np.int64]
Float = npt.NDArray[np.float64]
Float32 = npt.NDArray[np.float32]

CALIBRATION_SEED = 0
WIDE_FACES = 1 << 16  # of probes held in float32: 128 MB; more are widened block by block
LARGEST_RATE, SMALLEST_RATE, RATES = 0.4, 1e-18, 400  # of false matches, as they are tabulated


@dataclass(frozen=True, slots=True, kw_only=True)
class Probes:
    """The faces of a test set that are searched for.

    vectors_PD: unit float16. person_P: number of the person, from 0; an unlabelled face is a
    person of its own, and those come last. label_of: a person's name, None for those. photos_P:
    photo ids.
    """

    vectors_PD: npt.NDArray[np.float16]
    person_P: Int64
    label_of: Sequence[str | None]
    photos_P: Sequence[str]

    @property
    def named(self) -> int:
        """Return how many people have a name: their numbers are below."""
        return sum(label is not None for label in self.label_of)


@dataclass(frozen=True, slots=True, kw_only=True)
class Hits:
    """Whom searches with N faces found. ``chance`` is that of a stranger to score as much."""

    cosine_N: Float32  # to the nearest face of the probes; -1 where there is no vector
    nearest_N: npt.NDArray[np.int32]  # its row; -1
    similarity_N: Float32  # to what decided, that face or a centre
    person_N: npt.NDArray[np.int32]  # whom that is; -1
    chance_N: Float32

    @classmethod
    def none(cls, count: int) -> Hits:
        """Return searches that found nothing."""
        return cls(
            cosine_N=np.full(count, -1, np.float32),
            nearest_N=np.full(count, -1, np.int32),
            similarity_N=np.full(count, -1, np.float32),
            person_N=np.full(count, -1, np.int32),
            chance_N=np.ones(count, np.float32),
        )

    def put(self, rows_B: Int64, found: Hits) -> None:
        """Write what was found at some rows."""
        for name in self.__slots__:
            getattr(self, name)[rows_B] = getattr(found, name)


class _Law:
    """How high a stranger's best score among some vectors is."""

    def __init__(self, threshold: Threshold, vectors: int, fpir: float) -> None:
        """Take the strangers' law, moved so that it agrees with the calibrated threshold."""
        law = Strangers(threshold.impostor_mean, threshold.impostor_std)
        rates = np.geomspace(LARGEST_RATE, SMALLEST_RATE, RATES)
        moved = threshold.value - law.threshold(-math.expm1(math.log1p(-fpir) / vectors))
        self._scores = np.array([law.threshold(rate) + moved for rate in rates])
        self._log_rates = np.log(rates)
        self._vectors = vectors

    def chance(self, scores_B: Float32) -> Float:
        """Return the chance that a search with a stranger's face scores at least so much."""
        rate_B = np.exp(np.interp(scores_B, self._scores, self._log_rates))
        return np.asarray(-np.expm1(self._vectors * np.log1p(-rate_B)))


class PersonSearch:
    """Searches probes by face and by centre."""

    def __init__(self, probes: Probes, fpir: float) -> None:
        """Build centres and calibrate both searches on the probes' own people.

        Raises ValueError for probes without a face.
        """
        if not len(probes.vectors_PD):
            raise ValueError("there is no face to search for")
        self._probes = probes
        wide = len(probes.vectors_PD) <= WIDE_FACES
        self._faces_PD = probes.vectors_PD.astype(np.float32) if wide else probes.vectors_PD
        centres, self._centre_person = _centres(probes)
        self._centres_CD = centres
        each = fpir / 2 if len(centres) else fpir
        labels = [probes.label_of[p] for p in probes.person_P.tolist()]
        self.face_threshold = calibrate(
            probes.vectors_PD, labels, probes.photos_P, fpir=each, seed=CALIBRATION_SEED
        )
        self._face_law = _Law(self.face_threshold, len(probes.vectors_PD), each)
        self.centre_threshold: Threshold | None = None
        if len(centres):
            names = [str(i) for i in range(len(centres))]
            self.centre_threshold = calibrate(
                centres.astype(np.float16), names, names, fpir=each, seed=CALIBRATION_SEED
            )
            self._centre_law = _Law(self.centre_threshold, len(centres), each)

    def search(self, vectors_BD: npt.NDArray[np.floating]) -> Hits:
        """Search with unit vectors."""
        score_B1, row_B1 = nearest(vectors_BD, self._faces_PD, 1)
        score_B, row_B = score_B1[:, 0], row_B1[:, 0]
        person_B, similarity_B = self._probes.person_P[row_B], score_B
        chance_B = self._face_law.chance(score_B)
        if len(self._centres_CD):
            centre_B1, place_B1 = nearest(vectors_BD, self._centres_CD, 1)
            by_centre_B = self._centre_law.chance(centre_B1[:, 0])
            better_B = by_centre_B < chance_B
            centre_person_B = self._centre_person[place_B1[:, 0]]
            person_B = np.where(better_B, centre_person_B, person_B)
            similarity_B = np.where(better_B, centre_B1[:, 0], score_B)
            chance_B = np.minimum(2 * np.minimum(by_centre_B, chance_B), 1.0)  # of two searches
        return Hits(
            cosine_N=score_B,
            nearest_N=row_B.astype(np.int32),
            similarity_N=similarity_B.astype(np.float32),
            person_N=person_B.astype(np.int32),
            chance_N=chance_B.astype(np.float32),
        )


def _centres(probes: Probes) -> tuple[Float32, Int64]:
    """Return the centres of people with two faces or more, and who they are."""
    size = np.bincount(probes.person_P, minlength=len(probes.label_of))
    people = np.flatnonzero(size > 1)
    place = np.full(len(size), -1, np.int64)
    place[people] = np.arange(len(people))
    sums = np.zeros((len(people), probes.vectors_PD.shape[1]), np.float32)
    for row in np.flatnonzero(place[probes.person_P] >= 0):  # in a fixed order, one at a time
        sums[place[probes.person_P[row]]] += unit_rows(probes.vectors_PD[row : row + 1])[0]
    return unit_rows(sums), people

"""Which faces of a dataset are also in a test set: the same picture, or the same person.

A benchmark says nothing about people that the model was trained on. Four levels, the first that
applies:

same_bytes     the photo is in the probes, byte by byte.
same_picture   its face is as near to a probe's as a picture is to a copy of itself.
same_person    a search with the face among the probes finds somebody (facepipe.person_search),
               which a search with a *stranger's* face does with chance ``fpir``.
same_identity  half of the faces of its identity, or more, are found to be one person of the
               probes, or in probes without labels just found. The chance is about the same: by
               Markov's inequality strangers of whom each is found with chance q are found by half
               with chance 2q at most; on LFW, half its people as strangers and half the photos of
               the others as probes, it is less than q.

Measured there with a 512-d recogniser, four halvings, at fpir 0.01 (0.001): marked are 0.7 %
(0.5 %) of the strangers' faces, many of those the same people under two names; 99.0 %
(97.6 %) of the others' by themselves; 98.4 % (96.0 %) of their identities, and all with five faces
or more. insightface leaves identities out at a fixed centre cosine of 0.4 (dataset_merge.py).

Legend: N faces of the dataset, I identities of it.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from pydantic import BaseModel, ConfigDict, Field

from facepipe.person_search import Hits
from facepipe.schema import FaceStatus, OverlapLevel

Int64 = npt.NDArray[np.int64]
Float32 = npt.NDArray[np.float32]
Bool = npt.NDArray[np.bool_]

# CAST's cosine of copies (WebFace260M, Zhu et al. 2021). Of 9,014 faces of LFW, 10 pairs pass:
# pictures that are there twice, four of them under two names.
SAME_PICTURE_COSINE = 0.95
# Faces of which the recogniser sees too little to be searched with; other marks are of test
# sets' own making (profiles).
UNFIT = (FaceStatus.BYSTANDER, FaceStatus.LOW_SCORE, FaceStatus.SMALL, FaceStatus.BLURRED)


LEVELS = tuple(OverlapLevel)


class OverlapSettings(BaseModel):
    """When a face is taken for somebody in the probes."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    fpir: float = Field(
        0.01,
        gt=0.0,
        le=0.1,
        description="chance that a face of nobody in the probes is marked all the same",
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class Marks:
    """What was decided about N faces and I identities."""

    level_N: npt.NDArray[np.int8]  # place in LEVELS; -1: not in the probes
    confidence_N: Float32
    person_N: npt.NDArray[np.int32]  # of the probes; -1
    by_identity_I: Bool  # half the identity's faces or more were found
    person_I: npt.NDArray[np.int32]  # whom most of them were found to be; -1
    confidence_I: Float32


def mark_faces(
    hits: Hits,
    same_bytes_N: Bool,
    identity_N: npt.NDArray[np.int32],
    identities: int,
    named: int,
    fpir: float,
) -> Marks:
    """Decide which faces and identities overlap.

    identity_N: number of a face's identity, -1 where it has none. People of the probes from
    number ``named`` on are unlabelled faces, of which several may be one person.

    A face's confidence is one less the share of strangers to be expected among the faces with a
    chance as small as its (Storey's q-value, with all faces taken for strangers); an identity's
    is that of its found faces in the mean.
    """
    found_N = hits.chance_N <= fpir
    sure_N = _confidence(hits.chance_N)
    known_N = (identity_N >= 0) & (hits.person_N >= 0)
    faces_I = np.bincount(identity_N[known_N], minlength=identities)
    voted_N = np.minimum(hits.person_N, named)
    votes_I, person_I = _votes(identity_N, voted_N, found_N & known_N, identities)
    by_identity_I = (votes_I > 0) & (2 * votes_I >= faces_I)
    vote_N = np.flatnonzero(found_N & known_N)
    vote_N = vote_N[voted_N[vote_N] == person_I[identity_N[vote_N]]]
    sure_I = np.bincount(identity_N[vote_N], sure_N[vote_N].astype(np.float64), identities)
    confidence_I = (sure_I / np.maximum(votes_I, 1)).astype(np.float32)
    with_its_identity_N = np.zeros(len(found_N), dtype=bool)
    with_its_identity_N[identity_N >= 0] = by_identity_I[identity_N[identity_N >= 0]]
    cases = (  # in the order of LEVELS
        (same_bytes_N, np.ones(len(sure_N), np.float32)),
        (hits.cosine_N >= SAME_PICTURE_COSINE, sure_N),
        (found_N, sure_N),
        (with_its_identity_N, None),
    )
    level_N = np.full(len(found_N), -1, np.int8)
    confidence_N = np.zeros(len(found_N), np.float32)
    person_N = hits.person_N.copy()
    for level, (which_N, value_N) in enumerate(cases):
        now = np.flatnonzero(which_N & (level_N < 0))
        level_N[now] = level
        if value_N is None:
            confidence_N[now] = confidence_I[identity_N[now]]
            person_N[now] = person_I[identity_N[now]]
        else:
            confidence_N[now] = value_N[now]
    return Marks(
        level_N=level_N,
        confidence_N=confidence_N,
        person_N=person_N,
        by_identity_I=by_identity_I,
        person_I=person_I,
        confidence_I=confidence_I,
    )


def _confidence(chance_N: Float32) -> Float32:
    order = np.argsort(chance_N, kind="stable")
    strangers = chance_N[order].astype(np.float64) * len(chance_N)
    # The last of equal chances counts for all of them: the minimum runs from the back.
    share = np.minimum.accumulate((strangers / np.arange(1, len(order) + 1))[::-1])[::-1]
    sure_N = np.empty(len(order), np.float32)
    sure_N[order] = 1 - np.minimum(share, 1.0)
    return sure_N


def _votes(
    identity_N: npt.NDArray[np.int32],
    person_N: npt.NDArray[np.int32],
    found_N: Bool,
    identities: int,
) -> tuple[Int64, npt.NDArray[np.int32]]:
    """Return for each identity the person most of its faces were found to be, and by how many."""
    pairs = identity_N[found_N].astype(np.int64) << 32 | person_N[found_N]
    pair, count = np.unique(pairs, return_counts=True)
    order = np.lexsort((pair, -count))  # of equal counts the first person
    identity, first = np.unique(pair[order] >> 32, return_index=True)
    votes_I = np.zeros(identities, np.int64)
    person_I = np.full(identities, -1, np.int32)
    votes_I[identity] = count[order][first]
    person_I[identity] = (pair[order] & 0xFFFFFFFF)[first].astype(np.int32)
    return votes_I, person_I

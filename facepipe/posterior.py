"""Bayes for every face: its label's person, anybody else who is known, or a stranger.

Legend: N faces (rows sorted by label), L labels, P people, F doubted faces, K nearest people,
D dimensions.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt

from facepipe.centres import Float, Float32, Int64, LabelledFaces
from facepipe.homes import Counts
from facepipe.impostors import Impostors
from facepipe.mixture import CosineMixture, fit_mixture, logistic
from facepipe.near_centres import NearCentres
from facepipe.neighbors import unit_rows
from facepipe.people import People, cosines

Bool = npt.NDArray[np.bool_]

LABEL_PRIOR_FACES = 4.0  # a label's own clean share counts as much as all others' from here
MIN_FIT_FACES = 100  # in labels of three or more: with fewer, labels of two help to fit
# Of wrong faces, whose person is under no label: where the data begins to say, and how many
# faces this counts for.
STRANGER_SHARE, STRANGER_FACES, STRANGER_ROUNDS = 0.5, 10.0, 10
# Other people are looked at for a face that is not so sure to be right, or so far off that a
# look-alike's centre may have drawn it in: one right face in twenty (Student's t).
SURE = 0.99
FAR_STDS = 2.0
NEAREST_PEOPLE = 4  # to the sum over all people, further ones hardly add


@dataclass(frozen=True, slots=True, kw_only=True)
class Judged:
    """Bayes for every face: its label's person, the likeliest other, a stranger."""

    right_N: Float  # probability of the label's person, be it found or not
    own_cosine_N: Float  # to that person's other faces; NaN without any
    other_N: Int64  # the likeliest other person, or -1
    other_right_N: Float  # probability of that one
    other_cosine_N: Float
    clear_N: Bool  # that no third person would do as well
    stranger_share: float  # of wrong faces, whose person is not known


def judge(
    faces: LabelledFaces, people: People, owner_L: Int64, impostors: Impostors
) -> tuple[CosineMixture, Judged]:
    """Fit the mixture to faces and the people of their labels, and judge every face.

    owner_L: the person each label means, -1 where it is not known.
    """
    owner_N = owner_L[faces.label_N]
    cosine_N, others_N = cosines(faces, people, owner_N)
    near_N = others_N > 0
    mixture = fit_faces(faces, people.person_N, owner_N, cosine_N, others_N, impostors)
    ratio_N = np.zeros(len(cosine_N))  # of the unknown person of a label nothing is known
    ratio_N[near_N] = mixture.log_ratio(cosine_N[near_N], others_N[near_N])
    other_N = (people.person_N >= 0) & (people.person_N != owner_N)
    share_N = _own_shares(faces, mixture, ratio_N, near_N, other_N)
    doubted = _doubted(people, mixture, owner_N, cosine_N, others_N, ratio_N, share_N)
    nearby = _nearby(faces, people, mixture, owner_N, doubted)
    own = _Own(ratio_N=ratio_N, share_N=share_N, known_N=near_N, cosine_N=cosine_N)
    return mixture, _bayes(faces, people, own, nearby, mixture.face_std)


def fit_faces(
    faces: LabelledFaces,
    person_N: Int64,
    owner_N: Int64,
    cosine_N: Float,
    others_N: Float,
    impostors: Impostors,
) -> CosineMixture:
    """Fit the mixture to faces and the people of their labels.

    person_N: who is on each, -1 nobody known. owner_N: whom its label means.
    Faces known to be somebody else's are left out and count as wrong: where they are look-alikes
    of the label's person they are no sample of impostors, and would pass for bad photos of it.
    """
    near_N = others_N > 0
    several_N = near_N & (faces.size_L[faces.label_N] > 2)
    near_N = several_N if several_N.sum() >= MIN_FIT_FACES else near_N
    fit_N = near_N & ((person_N < 0) | (person_N == owner_N))
    mixture = fit_mixture(cosine_N[fit_N], others_N[fit_N], impostors.mean, impostors.std)
    share = float(fit_N.sum() + 1) / float(near_N.sum() + 1)
    return replace(mixture, clean_share=mixture.clean_share * share)


def _own_shares(
    faces: LabelledFaces, mixture: CosineMixture, ratio_N: Float, near_N: Bool, other_N: Bool
) -> Float:
    """Return the share of right faces in each face's label, the face itself left out.

    Shrunk towards that of all labels: (sum of P(right) of the others + LABEL_PRIOR_FACES *
    share) / (others + LABEL_PRIOR_FACES). Faces known to be somebody else's are not right.
    """
    share = mixture.clean_share
    right_N = logistic(ratio_N + np.log(share / (1 - share)))
    right_N[~near_N | other_N] = 0.0
    total_N = np.bincount(faces.label_N, right_N, minlength=faces.labels)[faces.label_N]
    size_N = faces.size_L[faces.label_N]
    shares_N = (total_N - right_N + LABEL_PRIOR_FACES * share) / (size_N - 1 + LABEL_PRIOR_FACES)
    return np.where(near_N, shares_N, share)


def _doubted(
    people: People,
    mixture: CosineMixture,
    owner_N: Int64,
    cosine_N: Float,
    others_N: Float,
    ratio_N: Float,
    share_N: Float,
) -> Int64:
    """Return the faces that are compared with all people."""
    low_N = mixture.genuine_mean(np.maximum(others_N, 1.0)) - FAR_STDS * mixture.face_std
    sure_N = logistic(ratio_N + np.log(share_N / (1 - share_N))) >= SURE
    home_N = (people.person_N == owner_N) & (owner_N >= 0)
    return np.flatnonzero(~(home_N & sure_N & (cosine_N >= low_N)))


@dataclass(frozen=True, slots=True, kw_only=True)
class _Nearby:
    """The people nearest to each doubted face, other than its label's own."""

    rows_F: Int64
    person_FK: Int64  # -1 for none
    cosine_FK: Float
    others_FK: Float
    ratio_FK: Float  # likelihood of a face of theirs over a stranger's


def _nearby(
    faces: LabelledFaces, people: People, mixture: CosineMixture, owner_N: Int64, rows_F: Int64
) -> _Nearby:
    centres_PD = unit_rows(people.sums_PD)
    kept = min(NEAREST_PEOPLE + 1, people.total)
    cosine_FK = np.zeros((len(rows_F), kept))
    person_FK = np.full((len(rows_F), kept), -1)
    near = NearCentres(centres_PD, len(rows_F))

    def look(_: Int64, vectors_BD: Float32) -> tuple[Int64, list[Float32]]:
        person_BK = near.find(vectors_BD, kept)
        # Once more and in a fixed order: a threaded product may differ in the last bit.
        return person_BK, [
            np.einsum("bd,bd->b", vectors_BD, centres_PD[person_B]) for person_B in person_BK.T
        ]

    done = 0
    for rows, found in faces.each_block(look, rows_F) if kept else ():
        block = slice(done, done + len(rows))
        person_FK[block], cosine_FK[block] = found[0], np.stack(found[1], axis=1)
        done += len(rows)
    others_FK = np.maximum(people.size_P, 1.0)[person_FK]
    own_F = people.person_N[rows_F]
    own_N = np.full(len(owner_N), -1)
    own_N[rows_F] = own_F
    alone_N, worth_N = cosines(faces, people, own_N)
    mine_FK = (person_FK == own_F[:, None]) & (own_F >= 0)[:, None]
    cosine_FK = np.where(mine_FK, alone_N[rows_F, None], cosine_FK)
    others_FK = np.where(mine_FK, worth_N[rows_F, None], others_FK)
    none_FK = (person_FK < 0) | (person_FK == owner_N[rows_F, None]) | (others_FK <= 0)
    ratio_FK = np.exp(np.minimum(mixture.log_ratio(cosine_FK, np.maximum(others_FK, 1.0)), 600.0))
    return _Nearby(
        rows_F=rows_F,
        person_FK=np.where(none_FK, -1, person_FK),
        cosine_FK=cosine_FK,
        others_FK=others_FK,
        ratio_FK=np.where(none_FK, 0.0, ratio_FK),
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class _Own:
    """What speaks for the label's own person; of one who is not known, nothing does."""

    ratio_N: Float  # log likelihood ratio of a right face to a stranger's
    share_N: Float  # of right faces, beforehand
    known_N: Bool
    cosine_N: Float


def _bayes(
    faces: LabelledFaces, people: People, own: _Own, nearby: _Nearby, face_std: float
) -> Judged:
    """Judge every face.

    A wrong face is a stranger's with probability s, else somebody's who is known: each of P
    people alike, or as often as the label's *other* wrong faces are theirs, where that is more.
    """
    rows, prior_N = nearby.rows_F, own.share_N / (1 - own.share_N)
    under_FK = _under_label(faces, people, nearby) / (1 - own.share_N[rows, None])
    known_FK = np.clip(under_FK, 1 / max(people.total, 1), 1.0)
    other_FK = known_FK * nearby.ratio_FK
    own_F = prior_N[rows] * np.exp(np.clip(own.ratio_N[rows], -600, 600))
    known_F = own.known_N[rows]
    stranger = _stranger_share(own_F[known_F], other_FK.sum(axis=1)[known_F])
    other_FK *= 1 - stranger
    elsewhere_F = stranger + other_FK.sum(axis=1)
    right_N = logistic(own.ratio_N + np.log(prior_N))
    right_N[rows] = _at_most_one(faces.label_N[rows], own_F / elsewhere_F, ~known_F)
    total = len(right_N)
    judged = Judged(
        right_N=right_N,
        own_cosine_N=np.where(own.known_N, own.cosine_N, np.nan),
        other_N=np.full(total, -1),
        other_right_N=np.zeros(total),
        other_cosine_N=np.full(total, np.nan),
        clear_N=np.zeros(total, dtype=bool),
        stranger_share=stranger,
    )
    if other_FK.size:
        best = (np.arange(len(rows)), other_FK.argmax(axis=1))
        judged.other_N[rows] = nearby.person_FK[best]
        judged.other_right_N[rows] = (1 - right_N[rows]) * other_FK[best] / elsewhere_F
        judged.other_cosine_N[rows] = nearby.cosine_FK[best]
        rivals_FK = other_FK >= (own_F + stranger)[:, None]
        rivals_FK[best] = False
        rival_F = np.where(rivals_FK, nearby.cosine_FK, -1.0).max(axis=1)
        judged.clear_N[rows] = nearby.cosine_FK[best] - rival_F >= face_std
    return judged


def _stranger_share(own_F: Float, others_F: Float) -> float:
    """Return the share of strangers that the wrong faces themselves show (by EM).

    own_F, others_F: likelihood over a stranger's, of the label's person and of all others.
    """
    stranger = STRANGER_SHARE
    for _ in range(STRANGER_ROUNDS):
        elsewhere_F = stranger + (1 - stranger) * others_F
        wrong_F = elsewhere_F / (own_F + elsewhere_F)
        theirs = float((wrong_F * stranger / elsewhere_F).sum())
        stranger = (theirs + STRANGER_SHARE * STRANGER_FACES) / (
            float(wrong_F.sum()) + STRANGER_FACES
        )
    return stranger


def _at_most_one(label_F: Int64, odds_F: Float, alone_F: Bool) -> Float:
    """Return probabilities of odds; of faces of one label that do not agree, at most one is right.

    With odds w of each by itself: w / (1 + the sum of w over the label's faces).
    """
    total_L = np.bincount(label_F, np.where(alone_F, odds_F, 0.0), minlength=1)
    return np.where(alone_F, odds_F / (1 + total_L[label_F]), odds_F / (1 + odds_F))


def _under_label(faces: LabelledFaces, people: People, nearby: _Nearby) -> Float:
    """Return the share of the label's faces, without this one, that are of each nearby person."""
    counts = Counts.of(people.person_N, faces.label_N, people.total, faces.labels)
    key_E = counts.person_E * faces.labels + counts.label_E
    label_F = faces.label_N[nearby.rows_F]
    key_FK = nearby.person_FK * faces.labels + label_F[:, None]
    if not len(key_E):
        return np.zeros(key_FK.shape)
    place_FK = np.minimum(np.searchsorted(key_E, key_FK), len(key_E) - 1)
    count_FK = np.where(key_E[place_FK] == key_FK, counts.count_E[place_FK], 0)
    count_FK = count_FK - (nearby.person_FK == people.person_N[nearby.rows_F][:, None])
    size_F = np.maximum(faces.size_L[label_F] - 1, 1)
    share_FK: Float = np.maximum(count_FK, 0) / (size_F[:, None] + LABEL_PRIOR_FACES)
    return share_FK

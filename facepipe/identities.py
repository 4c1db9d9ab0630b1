"""Which faces of a label are its dominant identity, and which label the others belong to.

Legend: N faces (rows sorted by label), L labels, F doubted faces, T labels to move them to,
K nearest labels, D dimensions.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from facepipe.centres import (
    LabelledFaces,
    centre_impostors,
    dominant_members,
    face_impostors,
    leave_one_out,
)
from facepipe.mixture import CosineMixture, fit_mixture
from facepipe.neighbors import nearest, unit_rows

Float = npt.NDArray[np.float64]
Int64 = npt.NDArray[np.int64]
Bool = npt.NDArray[np.bool_]

FLOOR_STDS = 3.3  # one impostor in 2,000 is above: no face joins a centre under it
FIT_ROUNDS = 2
LABEL_PRIOR_FACES = 4.0  # a label's own clean share counts as much as all others' from here
MIN_FIT_FACES = 100  # in labels of three or more: with fewer, labels of two help to fit
STRANGER_SHARE = 0.5  # of flagged faces, whose person is under no label: no evidence either way
SURE = 0.99  # P(clean) from which no other label is looked at
NEAREST_LABELS = 3  # its own, and two whose difference is the margin


@dataclass(frozen=True, slots=True, kw_only=True)
class LabelFit:
    """Usable, labelled faces and how well each agrees with its label."""

    faces: LabelledFaces
    mixture: CosineMixture
    quantiles: tuple[tuple[float, float], ...]  # (share below, cosine) to other centres
    floor: float  # cosine that hardly any impostor reaches
    cosine_N: Float  # to the mean of the other members of its label; NaN without any
    clean_N: Float  # probability that the face is its label's person
    member_N: Bool  # of the dominant identity

    @property
    def members_L(self) -> Int64:
        """Return how many faces of each label are of its dominant identity."""
        return np.bincount(self.faces.label_N[self.member_N], minlength=self.faces.labels)


@dataclass(frozen=True, slots=True, kw_only=True)
class Moves:
    """The label other than its own that each face belongs to, or -1."""

    label_N: Int64
    confidence_N: Float
    cosine_N: Float  # to the centre of that label; NaN where not moved


def fit_labels(faces: LabelledFaces) -> LabelFit:
    """Find each label's dominant identity, its members chosen by what the data says.

    FIT_ROUNDS times: measure impostors and fit the mixture to the cosines to the centres at
    hand, then take as members the faces that are more probably right than wrong.
    """
    impostors = face_impostors(faces)
    floor = impostors.mean + FLOOR_STDS * impostors.std
    fitted = _fit_round(faces, dominant_members(faces, floor), floor)
    for _ in range(FIT_ROUNDS - 1):
        fitted = _fit_round(faces, fitted.member_N, floor)
    return fitted


def _fit_round(faces: LabelledFaces, member_N: Bool, floor: float) -> LabelFit:
    size_N = faces.size_L[faces.label_N]
    member_N = member_N | (size_N == 2)  # a label of two is judged by the cosine of its pair
    near = leave_one_out(faces, member_N)
    cosine_N, others_N = near.cosine_N, near.others_N
    impostors = centre_impostors(faces, unit_rows(near.sums_LD))
    fit_N = (others_N > 0) & (size_N > 2)
    if fit_N.sum() < MIN_FIT_FACES:
        fit_N = others_N > 0
    mixture = fit_mixture(cosine_N[fit_N], others_N[fit_N], impostors.mean, impostors.std)
    clean_N, member_N = _p_clean(faces, mixture, cosine_N, others_N)
    return LabelFit(
        faces=faces,
        mixture=mixture,
        quantiles=impostors.quantiles,
        floor=floor,
        cosine_N=np.where(others_N > 0, cosine_N, np.nan),
        clean_N=clean_N,
        member_N=member_N,
    )


def _p_clean(
    faces: LabelledFaces, mixture: CosineMixture, cosine_N: Float, others_N: Float
) -> tuple[Float, Bool]:
    """Return P(clean) of each face, and whether it belongs to its label's identity.

    The share of right faces in a label is shrunk towards that of all labels: (sum of
    P(clean) of its other faces + LABEL_PRIOR_FACES * share) / (others + LABEL_PRIOR_FACES).
    """
    size_N = faces.size_L[faces.label_N]
    share = mixture.clean_share
    judged_N = others_N > 0
    clean_N = np.zeros(len(size_N))
    clean_N[judged_N] = mixture.p_clean(cosine_N[judged_N], others_N[judged_N], share)
    total_L = np.bincount(faces.label_N, clean_N, minlength=faces.labels)
    own_N = (total_L[faces.label_N] - clean_N + LABEL_PRIOR_FACES * share) / (
        size_N - 1 + LABEL_PRIOR_FACES
    )
    # Two faces agree where both are right; where they do not, at most one is: share of
    # them in which exactly this one is, given that not both are, s (1 - s) / (1 - s^2).
    own_N[size_N == 2] = share * share
    clean_N[judged_N] = mixture.p_clean(cosine_N[judged_N], others_N[judged_N], own_N[judged_N])
    member_N = clean_N >= 0.5
    clean_N = np.where(size_N == 2, clean_N + (1 - clean_N) * share / (1 + share), clean_N)
    return clean_N, member_N


def dominant_labels(fitted: LabelFit, here_N: Bool) -> Bool:
    """Return which labels have a dominant identity: two members, and no rival as large.

    A rival is the dominant identity among the faces that are neither members nor, as
    ``here_N`` says, moved to another label.
    """
    faces = fitted.faces
    members_L = np.bincount(faces.label_N[fitted.member_N & here_N], minlength=faces.labels)
    other_N = ~fitted.member_N & here_N
    others_L = np.bincount(faces.label_N, other_N, minlength=faces.labels)
    contested_L = (members_L >= 2) & (others_L >= members_L)
    rows = np.flatnonzero(other_N & contested_L[faces.label_N])
    rivals = LabelledFaces(
        label_N=faces.label_N[rows],
        vector_N=faces.vector_N[rows],
        vectors_ND=faces.vectors_ND,
        labels=faces.labels,
    )
    rival_N = dominant_members(rivals, fitted.floor)
    rival_L = np.bincount(rivals.label_N, rival_N, minlength=faces.labels)
    return (members_L >= 2) & (rival_L < members_L)


def find_moves(fitted: LabelFit, min_confidence: float) -> Moves:
    """Find the other label each doubted face belongs to, where that is clear.

    Bayes over: its own label (odds from P(clean)), one of the T labels with a dominant
    identity (STRANGER_SHARE and 1 / T each), or nobody's. So the more labels there are,
    the more a match has to say, and two labels that match alike are no match.
    """
    faces = fitted.faces
    move = Moves(
        label_N=np.full(len(faces.label_N), -1, np.int64),
        confidence_N=np.zeros(len(faces.label_N)),
        cosine_N=np.full(len(faces.label_N), np.nan),
    )
    targets_T = np.flatnonzero(dominant_labels(fitted, np.ones(len(faces.label_N), dtype=bool)))
    centres_TD = unit_rows(faces.sums(fitted.member_N)[targets_T])
    doubted_N = (fitted.clean_N < SURE) & (faces.size_L[faces.label_N] > 1)
    doubted = np.flatnonzero(doubted_N if len(targets_T) else doubted_N & False)
    for rows, vectors_FD in faces.blocks(doubted):
        cosine_FK, place_FK = nearest(vectors_FD, centres_TD, NEAREST_LABELS)
        label_FK = targets_T[place_FK]
        ratio_FK = np.exp(fitted.mixture.log_ratio(cosine_FK, fitted.members_L[label_FK]))
        ratio_FK[label_FK == faces.label_N[rows, None]] = 0.0
        best_F = ratio_FK.argmax(axis=1)[:, None]
        own_odds_F = fitted.clean_N[rows] / (1 - fitted.clean_N[rows])
        elsewhere_F = (own_odds_F + STRANGER_SHARE) * len(targets_T) / (1 - STRANGER_SHARE)
        ratio_F = np.take_along_axis(ratio_FK, best_F, axis=1)[:, 0]
        confidence_F = ratio_F / (ratio_FK.sum(axis=1) + elsewhere_F)
        sure = confidence_F >= min_confidence
        move.label_N[rows[sure]] = np.take_along_axis(label_FK, best_F, axis=1)[sure, 0]
        move.confidence_N[rows[sure]] = confidence_F[sure]
        move.cosine_N[rows[sure]] = np.take_along_axis(cosine_FK, best_F, axis=1)[sure, 0]
    return move

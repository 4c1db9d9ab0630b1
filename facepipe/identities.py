"""Which faces of a label are its dominant identity, and which label the others belong to.

Legend: N faces (rows sorted by label), L labels, F doubted faces, T labels to move them to,
K nearest labels, D dimensions.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from facepipe.centres import (
    BLOCK_ROWS,
    LabelledFaces,
    dominant_weights,
    face_impostors,
    leave_one_out,
    weights,
)
from facepipe.mixture import CosineMixture, fit_mixture, logistic
from facepipe.neighbors import nearest

Float = npt.NDArray[np.float64]
Int64 = npt.NDArray[np.int64]
Float32 = npt.NDArray[np.float32]
Bool = npt.NDArray[np.bool_]

FLOOR_STDS = 3.3  # one impostor in 2,000 is above: no face joins a centre under it
FIT_ROUNDS = 2
ALONE_LOG_ODDS = -10.0  # of a face where no two faces of its label agree
LABEL_PRIOR_FACES = 4.0  # a label's own clean share counts as much as all others' from here
MIN_FIT_FACES = 100  # in labels of three or more: with fewer, labels of two help to fit
STRANGER_SHARE = 0.5  # of flagged faces, whose person is under no label: no evidence either way
# Other labels are looked at for a face that is not so sure to be right, or so far off that a
# look-alike's centre may have drawn it in: one right face in twenty (Student's t).
SURE = 0.99
FAR_STDS = 2.0
# An identity with a smaller share of its label does not dominate it: of a folder of strangers
# a few look alike.
MIN_DOMINANT_SHARE = 0.1
NEAREST_LABELS = 3  # its own, and two whose difference is the margin
TARGET_BLOCK = 1 << 15  # labels whose centres are held at a time: 64 MB at 512 dimensions


@dataclass(frozen=True, slots=True, kw_only=True)
class LabelFit:
    """Usable, labelled faces and how well each agrees with its label."""

    faces: LabelledFaces
    mixture: CosineMixture
    quantiles: tuple[tuple[float, float], ...]  # (share below, cosine) to other centres
    floor: float  # cosine that hardly any impostor reaches
    cosine_N: Float  # to the mean of the other members of its label; NaN without any
    log_odds_N: Float  # that the face is its label's person; a probability loses the digits
    member_N: Bool  # of the dominant identity
    weight_N: Float  # of each face in the centre of its label

    @property
    def clean_N(self) -> Float:
        """Return the probability that each face is its label's person."""
        return logistic(self.log_odds_N)

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
    fitted = _fit_round(faces, dominant_weights(faces, floor), floor)
    for _ in range(FIT_ROUNDS - 1):
        weight_N = fitted.clean_N * weights(np.nan_to_num(fitted.cosine_N), floor)
        fitted = _fit_round(faces, np.where(fitted.member_N, weight_N, 0.0), floor)
    return fitted


def _fit_round(faces: LabelledFaces, weight_N: Float, floor: float) -> LabelFit:
    size_N = faces.size_L[faces.label_N]
    weight_N = np.where(size_N == 2, 1.0, weight_N)  # judged by the cosine of the pair
    cosine_N, others_N, impostors = leave_one_out(faces, weight_N)
    fit_N = (others_N > 0) & (size_N > 2)
    if fit_N.sum() < MIN_FIT_FACES:
        fit_N = others_N > 0
    mixture = fit_mixture(cosine_N[fit_N], others_N[fit_N], impostors.mean, impostors.std)
    log_odds_N, member_N = _judge(faces, mixture, cosine_N, others_N)
    return LabelFit(
        faces=faces,
        mixture=mixture,
        quantiles=impostors.quantiles,
        floor=floor,
        cosine_N=np.where(others_N > 0, cosine_N, np.nan),
        log_odds_N=log_odds_N,
        member_N=member_N,
        weight_N=weight_N,
    )


def _judge(
    faces: LabelledFaces, mixture: CosineMixture, cosine_N: Float, others_N: Float
) -> tuple[Float, Bool]:
    """Return the log odds that each face is right, and whether it is a member.

    The share of right faces in a label is shrunk towards that of all labels: (sum of
    P(clean) of its other faces + LABEL_PRIOR_FACES * share) / (others + LABEL_PRIOR_FACES).
    A face without others to compare it with is judged by nothing but that it has none.
    """
    size_N = faces.size_L[faces.label_N]
    share, near = mixture.clean_share, others_N > 0
    clean_N = np.zeros(len(size_N))
    clean_N[near] = mixture.p_clean(cosine_N[near], others_N[near], share)
    total_L = np.bincount(faces.label_N, clean_N, minlength=faces.labels)
    own_N = (total_L[faces.label_N] - clean_N + LABEL_PRIOR_FACES * share) / (
        size_N - 1 + LABEL_PRIOR_FACES
    )
    own_N[size_N == 2] = share * share  # two faces agree where both are right
    log_odds_N = np.full(len(size_N), ALONE_LOG_ODDS)
    log_odds_N[near] = mixture.log_odds(cosine_N[near], others_N[near], own_N[near])
    member_N = log_odds_N >= 0
    # Where two do not agree at most one is right: this one in s (1 - s) / (1 - s^2) of all
    # such pairs. So P(clean) = p + (1 - p) s / (1 + s), and its odds from 1 - p = 1 / (1 + e^x).
    pair_N = size_N == 2
    odds_N = (np.exp(np.minimum(log_odds_N[pair_N], 700.0)) + share / (1 + share)) * (1 + share)
    log_odds_N[pair_N] = np.log(odds_N)
    return log_odds_N, member_N


def dominant_labels(fitted: LabelFit, here_N: Bool) -> Bool:
    """Return which labels have a dominant identity: two members or more, and no rival as large.

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
    rival_N = dominant_weights(rivals, fitted.floor) > 0
    rival_L = np.bincount(rivals.label_N, rival_N, minlength=faces.labels)
    enough_L = np.maximum(
        2, MIN_DOMINANT_SHARE * np.bincount(faces.label_N[here_N], minlength=faces.labels)
    )
    dominant_L: Bool = (members_L >= enough_L) & (rival_L < members_L)
    return dominant_L


def find_moves(fitted: LabelFit, min_confidence: float) -> Moves:
    """Find the other label each doubted face belongs to, where that is clear.

    Bayes over: its own label, one of the T labels with a dominant identity (STRANGER_SHARE
    and 1 / T each), or nobody's: the more labels there are, the more a match has to say.
    Where a second label would be a match by itself (the same person twice?), the first has
    to be nearer by the spread of a person's own faces.
    """
    faces = fitted.faces
    move = Moves(
        label_N=np.full(len(faces.label_N), -1, np.int64),
        confidence_N=np.zeros(len(faces.label_N)),
        cosine_N=np.full(len(faces.label_N), np.nan),
    )
    targets_T = np.flatnonzero(dominant_labels(fitted, np.ones(len(faces.label_N), dtype=bool)))
    if not len(targets_T):
        return move
    doubted = _doubted(fitted)
    cosine_DK, place_DK = _nearest_labels(fitted, doubted, targets_T)
    for start in range(0, len(doubted), BLOCK_ROWS):
        block = slice(start, start + BLOCK_ROWS)
        rows, cosine_FK, place_FK = doubted[block], cosine_DK[block], place_DK[block]
        label_FK = targets_T[place_FK]
        ratio_FK = np.exp(fitted.mixture.log_ratio(cosine_FK, fitted.members_L[label_FK]))
        ratio_FK[label_FK == faces.label_N[rows, None]] = 0.0
        best_F = (np.arange(len(rows)), ratio_FK.argmax(axis=1))
        own_F = np.exp(fitted.log_odds_N[rows])
        elsewhere_F = (own_F + STRANGER_SHARE) * len(targets_T) / (1 - STRANGER_SHARE)
        confidence_F = ratio_FK[best_F] / (ratio_FK.sum(axis=1) + elsewhere_F)
        matches_FK = ratio_FK >= elsewhere_F[:, None]
        matches_FK[best_F] = False
        rival_F = np.where(matches_FK, cosine_FK, -1.0).max(axis=1)
        clear = cosine_FK[best_F] - rival_F >= fitted.mixture.face_std
        sure = clear & (confidence_F >= min_confidence)
        move.label_N[rows[sure]] = label_FK[best_F][sure]
        move.confidence_N[rows[sure]] = confidence_F[sure]
        move.cosine_N[rows[sure]] = cosine_FK[best_F][sure]
    _stay_where_nobody_stays(fitted, move)
    return move


def _nearest_labels(fitted: LabelFit, rows_D: Int64, targets_T: Int64) -> tuple[Float32, Int64]:
    """Return the cosines to the nearest of the labels, falling, and their places; (D, K).

    A block of centres at a time: the faces are read again for each.
    """
    if not len(rows_D):
        return np.empty((0, 0), np.float32), np.empty((0, 0), np.int64)
    cosine_DK, place_DK = np.empty((len(rows_D), 0), np.float32), np.empty((len(rows_D), 0), int)
    for start in range(0, len(targets_T), TARGET_BLOCK):
        centres_TD = fitted.faces.centres(fitted.weight_N, targets_T[start : start + TARGET_BLOCK])
        found = [nearest(v, centres_TD, NEAREST_LABELS) for _, v in fitted.faces.blocks(rows_D)]
        cosine_DK = np.hstack([cosine_DK, np.vstack([cosine for cosine, _ in found])])
        place_DK = np.hstack([place_DK, np.vstack([start + place for _, place in found])])
        best = np.argsort(-cosine_DK, axis=1, kind="stable")[:, :NEAREST_LABELS]
        cosine_DK = np.take_along_axis(cosine_DK, best, axis=1)
        place_DK = np.take_along_axis(place_DK, best, axis=1)
    return cosine_DK, place_DK


def _stay_where_nobody_stays(fitted: LabelFit, move: Moves) -> None:
    """Take back moves to a label whose own members are all moved away: two labels would swap."""
    faces = fitted.faces
    staying_N = (fitted.weight_N > 0) & (move.label_N < 0)
    staying_L = np.bincount(faces.label_N, staying_N, minlength=faces.labels)
    undone_N = (move.label_N >= 0) & (staying_L[move.label_N] == 0)
    move.label_N[undone_N] = -1
    move.confidence_N[undone_N] = 0.0
    move.cosine_N[undone_N] = np.nan


def _doubted(fitted: LabelFit) -> Int64:
    """Return the faces for which another label is looked for."""
    faces, mixture = fitted.faces, fitted.mixture
    others_N = np.maximum(fitted.members_L[faces.label_N] - 1, 1)
    low_N = mixture.genuine_mean(others_N) - FAR_STDS * mixture.face_std
    far_N = np.nan_to_num(fitted.cosine_N) < low_N
    several_N = faces.size_L[faces.label_N] > 1
    return np.flatnonzero((far_N | (fitted.clean_N < SURE)) & several_N)

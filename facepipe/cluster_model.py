"""What two groups of faces have to be like to be one person, fitted to faces without a label.

Two laws, both for the cosine of the centres (mean directions) of two groups:

- Strangers: Student's t, whose middle is the lower half of random pairs' cosines and whose
  degrees of freedom are such that it has the measured upper tail. Relatives and people of one
  group look alike, so that tail is heavier than a normal one: about 20 degrees on LFW.
- One person: facepipe.mixture's, for centres of a and b faces. Where two faces of a person have
  the cosine rho on average and errors are independent, the mean is
  rho * sqrt(a b / ((1 + (a - 1) rho) (1 + (b - 1) rho))), the variance as 1 / a + 1 / b.

The more groups there are to choose from, the more a likeness has to say: a face is a priori of a
person with b of all N faces in b of N cases, and nobody else's in as many as are found to be.

Legend: N faces, P pairs, S sampled faces, D dimensions.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from facepipe.centres import VectorRows
from facepipe.mixture import GENUINE_DEGREES, fit_mixture
from facepipe.neighbors import unit_rows
from facepipe.threshold import PRIOR_MEAN, PRIOR_PEOPLE, PRIOR_STD, PRIOR_STD_ROOT_DIM

Float = npt.NDArray[np.float64]
Int64 = npt.NDArray[np.int64]

SAMPLE_FACES, SAMPLE_SHIFTS = 2048, 64  # 131,072 pairs: 131 of them above the tail's quantile
SAMPLE_SEED = 0
LOW_QUANTILE, HIGH_QUANTILE = 0.05, 0.25  # of pairs: few of the same person are down there
LOW_Z, HIGH_Z = -1.6449, -0.6745  # of the normal law
FACES_PER_UNKNOWN = 4  # that a person is guessed to have, to weigh pairs of unknown people
PLAUSIBLE_MEAN = 0.15  # no recogniser finds strangers more alike than that
# The tail is taken where 1 in 1,000 is above, 3.09 standard deviations if it were normal. On LFW
# it is 3.54 (512-d) with labels, 3.46 to 3.50 without: 21 to 24 degrees of freedom.
TAIL_SHARE, TAIL_Z = 1e-3, 3.0902
PRIOR_TAIL = 3.5
PRIOR_TAIL_PAIRS = 20_000
MIN_DEGREES = 5.0
# Before any face has been looked at. A person has a few hard photos, and thousands of strangers
# have look-alikes among them: what is not clear is left apart at first, and joined in later.
FIRST_PAIR_COSINE, FIRST_FACE_STD = 0.5, 0.08
PRIOR_ALONE, PRIOR_ALONE_FACES = 0.3, 10.0


@dataclass(frozen=True, slots=True, kw_only=True)
class PersonModel:
    """How cosines of one person and of strangers are spread, and how many faces are single."""

    stranger_mean: float
    stranger_std: float
    tail_degrees: float  # of Student's t; inf: normal
    pair_cosine: float = FIRST_PAIR_COSINE  # rho
    face_std: float = FIRST_FACE_STD
    alone_share: float = PRIOR_ALONE  # of all faces
    faces: int

    def log_odds(self, cosine_P: npt.ArrayLike, a_P: npt.ArrayLike, b_P: npt.ArrayLike) -> Float:
        """Return the log odds that groups of a and b faces whose centres are so alike are one.

        Above the mean of one person it goes on rising: no two faces are too alike to be one's.
        """
        alike_P = np.asarray(cosine_P, np.float64)
        a_P, b_P = np.asarray(a_P, np.float64), np.asarray(b_P, np.float64)
        rho = self.pair_cosine
        mean_P = rho * np.sqrt(a_P * b_P / ((1 + (a_P - 1) * rho) * (1 + (b_P - 1) * rho)))
        std_P = self.face_std * np.sqrt(1 / a_P + 1 / b_P)
        # Below strangers' mean a likeness says no more than there.
        alike_P = np.maximum(alike_P, np.minimum(self.stranger_mean, mean_P))
        z_P = np.minimum((alike_P - mean_P) / std_P, 0.0)
        same_P = _log_t(z_P, GENUINE_DEGREES) - np.log(std_P)
        stranger_z_P = (alike_P - self.stranger_mean) / self.stranger_std
        other_P = _log_t(stranger_z_P, self.tail_degrees) - math.log(self.stranger_std)
        prior_P = np.log(np.maximum(a_P, b_P) / self.faces) - math.log(self.alone_share)
        odds_P: Float = same_P - other_P + prior_P
        return odds_P


def first_model(vectors: VectorRows) -> PersonModel:
    """Return what is to be assumed of faces of which nothing is known but their vectors."""
    faces = vectors.shape[0]
    rows_S = np.random.default_rng(SAMPLE_SEED).permutation(faces)[:SAMPLE_FACES]
    cosine_P, _ = _pairs(vectors, rows_S)
    prior = (PRIOR_MEAN, max(PRIOR_STD, PRIOR_STD_ROOT_DIM / math.sqrt(vectors.shape[1])))
    mean, std = _strangers(cosine_P, faces // FACES_PER_UNKNOWN, prior)
    tail = _degrees(np.empty(0, np.float32), mean, std)
    return PersonModel(stranger_mean=mean, stranger_std=std, tail_degrees=tail, faces=max(faces, 1))


def fitted_model(
    first: PersonModel, vectors: VectorRows, group_N: Int64, cosine_M: Float, others_M: Float
) -> PersonModel:
    """Return the model that groups found so far speak for.

    first: what to assume of strangers where there are few groups. group_N: the group of each
    face. cosine_M, others_M: of the faces that share theirs, to the centre of its other faces,
    and how many those are.
    """
    faces = len(group_N)
    size_G = np.bincount(group_N)
    several = np.flatnonzero(size_G[group_N] > 1)
    # A face of each group, then second ones: singles may be what was missed of somebody.
    by_group = several[np.argsort(group_N[several], kind="stable")]
    turn = np.arange(len(by_group)) - np.searchsorted(group_N[by_group], group_N[by_group])
    rng = np.random.default_rng(SAMPLE_SEED)
    order = rng.permutation(len(by_group))
    rows_S = by_group[order[np.argsort(turn[order], kind="stable")]][:SAMPLE_FACES]
    rows_S = rows_S[rng.permutation(len(rows_S))]
    cosine_P, (first_P, second_P) = _pairs(vectors, rows_S)
    cosine_P = cosine_P[group_N[first_P] != group_N[second_P]]
    people = len(np.unique(group_N[rows_S]))
    prior = (first.stranger_mean, first.stranger_std)
    mean, std = _strangers(cosine_P, people, prior)
    fit_M = others_M >= 2
    mixture = fit_mixture(cosine_M[fit_M], others_M[fit_M], mean, std)
    alone = faces - len(several) + PRIOR_ALONE * PRIOR_ALONE_FACES
    return PersonModel(
        stranger_mean=mean,
        stranger_std=std,
        tail_degrees=_degrees(cosine_P, mean, std),
        pair_cosine=mixture.pair_cosine,
        face_std=mixture.face_std,
        alone_share=alone / (faces + PRIOR_ALONE_FACES),
        faces=max(faces, 1),
    )


def _pairs(vectors: VectorRows, rows_S: Int64) -> tuple[npt.NDArray[np.float32], list[Int64]]:
    """Return the cosines of sampled faces, each with the next ones of the sample, and which."""
    shifts = range(1, min(SAMPLE_SHIFTS, (len(rows_S) - 1) // 2) + 1)
    if not shifts:
        return np.empty(0, np.float32), [np.empty(0, np.int64)] * 2
    unit_SD = unit_rows(vectors[rows_S])
    cosine_P = [np.einsum("sd,sd->s", unit_SD, np.roll(unit_SD, -s, axis=0)) for s in shifts]
    second_P = np.concatenate([np.roll(rows_S, -s) for s in shifts])
    return np.concatenate(cosine_P), [np.tile(rows_S, len(shifts)), second_P]


def _strangers(
    cosine_P: npt.NDArray[np.float32], people: int, prior: tuple[float, float]
) -> tuple[float, float]:
    """Return mean and standard deviation of strangers, drawn to the prior for few people."""
    if not len(cosine_P):
        return prior
    low, high = np.quantile(cosine_P.astype(np.float64), [LOW_QUANTILE, HIGH_QUANTILE])
    std = float(high - low) / (HIGH_Z - LOW_Z)
    mean = float(high) - HIGH_Z * std
    trust = people / (people + PRIOR_PEOPLE) if abs(mean) <= PLAUSIBLE_MEAN else 0.0
    variance = trust * std**2 + (1 - trust) * prior[1] ** 2
    return trust * mean + (1 - trust) * prior[0], math.sqrt(variance)


def _degrees(cosine_P: npt.NDArray[np.float32], mean: float, std: float) -> float:
    """Return the degrees of freedom with which Student's t has the pairs' upper tail.

    By its quantiles' expansion in 1 / degrees to second order (Abramowitz and Stegun 26.7.5).
    """
    tail = PRIOR_TAIL
    if len(cosine_P):
        trust = len(cosine_P) / (len(cosine_P) + PRIOR_TAIL_PAIRS)
        measured = float(np.quantile(cosine_P.astype(np.float64), 1 - TAIL_SHARE))
        tail = trust * (measured - mean) / std + (1 - trust) * PRIOR_TAIL
    z = TAIL_Z
    first, second = (z**3 + z) / 4, (5 * z**5 + 16 * z**3 + 3 * z) / 96
    more = tail - z
    if more <= 0:
        return math.inf
    inverse = (math.sqrt(first**2 + 4 * second * more) - first) / (2 * second)
    return max(MIN_DEGREES, 1 / inverse)


def _log_t(z_P: Float, degrees: float) -> Float:
    """Return the log density of Student's t, or of the normal law for inf."""
    if math.isinf(degrees):
        return -0.5 * z_P * z_P - 0.5 * math.log(2 * math.pi)
    scale = math.lgamma((degrees + 1) / 2) - math.lgamma(degrees / 2)
    scale -= 0.5 * math.log(degrees * math.pi)
    return scale - (degrees + 1) / 2 * np.log1p(z_P * z_P / degrees)

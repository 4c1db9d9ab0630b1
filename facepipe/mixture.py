"""How cosines to an identity's centre are spread, fitted to the data at hand.

A face is compared with the mean of the M other faces of its label that belong together.
Two things are true of such a cosine, whatever the model that made the vectors:

- A face of somebody else has the same distribution for every M. It is measured, not
  fitted: cosines of faces to the centres of *other* labels. So a clean set, which has no
  wrong faces to fit anything to, keeps its lower tail.
- A face of the same person is closer the more faces the centre has. Where two faces of a
  person have the cosine rho on average, and errors are independent, the mean cosine is
  rho * sqrt(M / (1 + (M - 1) * rho)), and the variance falls as 1 + 1 / M.

Legend: N faces.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

Float = npt.NDArray[np.float64]

EM_ROUNDS = 40  # no parameter moves by more than 1e-8 after that, on LFW, clean or 40 % wrong
FIT_FACES = 1 << 18  # four parameters need no more: spread evenly over the rows given
# Hard poses, ages and blur make the spread of genuine faces heavy-tailed. With five degrees
# of freedom the automatic threshold is within .0006 F1 of the best one on noisy LFW.
GENUINE_DEGREES = 5.0
# What is assumed before any data, worth this many faces. A MobileFaceNet ArcFace model has
# rho 0.61 and a spread of 0.06 on LFW; harder photos have less of the one, more of the other.
PRIOR_FACES = 10.0
PRIOR_PAIR_COSINE = 0.5
PRIOR_FACE_STD = 0.08
PRIOR_CLEAN_SHARE = 0.9


@dataclass(frozen=True, slots=True, kw_only=True)
class CosineMixture:
    """Cosines of right and of wrong faces to the centre of a label."""

    impostor_mean: float
    impostor_std: float
    pair_cosine: float  # rho: mean cosine of two faces of one person
    face_std: float  # scale of a right face's cosine to a centre of very many faces
    clean_share: float  # of all faces

    def genuine_mean(self, others_N: npt.ArrayLike) -> Float:
        """Return the mean cosine of a right face to a centre of so many others."""
        count_N = np.asarray(others_N, dtype=np.float64)
        return self.pair_cosine * np.sqrt(count_N / (1 + (count_N - 1) * self.pair_cosine))

    def log_ratio(self, cosine_N: npt.ArrayLike, others_N: npt.ArrayLike) -> Float:
        """Return log p(cosine | right face) - log p(cosine | wrong face).

        Between the two means this rises with the cosine. Outside of them it stays as it is
        there: a face cannot become right by being even further away.
        """
        mean_N = self.genuine_mean(others_N)
        std_N = self.face_std * _widening(others_N)
        low = min(self.impostor_mean, float(mean_N.min(initial=np.inf)))
        cosine_N = np.clip(np.asarray(cosine_N, np.float64), low, mean_N)
        return _log_t((cosine_N - mean_N) / std_N) - np.log(std_N) - self._log_impostor(cosine_N)

    def _log_impostor(self, cosine_N: Float) -> Float:
        z_N = (cosine_N - self.impostor_mean) / self.impostor_std
        return -0.5 * z_N * z_N - math.log(self.impostor_std * math.sqrt(2 * math.pi))

    def log_odds(
        self, cosine_N: npt.ArrayLike, others_N: npt.ArrayLike, share_N: npt.ArrayLike
    ) -> Float:
        """Return the log odds that a face is right, where ``share_N`` of them are."""
        share_N = np.asarray(share_N, np.float64)
        prior_N: Float = np.log(share_N) - np.log1p(-share_N)
        return self.log_ratio(cosine_N, others_N) + prior_N

    def p_clean(
        self, cosine_N: npt.ArrayLike, others_N: npt.ArrayLike, share_N: npt.ArrayLike
    ) -> Float:
        """Return the probability that a face is right, where ``share_N`` of them are."""
        return logistic(self.log_odds(cosine_N, others_N, share_N))

    def threshold(self, others: float) -> float:
        """Return the cosine to a centre of so many faces at which a face is as good as not."""
        low, high = self.impostor_mean, float(self.genuine_mean(others))
        for _ in range(50):
            middle = (low + high) / 2
            if self.p_clean(middle, others, self.clean_share) < 0.5:
                low = middle
            else:
                high = middle
        return (low + high) / 2


def fit_mixture(
    cosine_N: Float, others_N: Float, impostor_mean: float, impostor_std: float
) -> CosineMixture:
    """Fit the right faces and their share to cosines, with the wrong faces' part given.

    Expectation maximisation in float64, a fixed number of rounds from fixed beginnings
    (Dempster, Laird and Rubin 1977; Student's t as a scale mixture: Lange, Little and
    Taylor 1989), with PRIOR_FACES worth of prior knowledge. others_N must be at least 1.
    """
    step = max(1, -(-len(cosine_N) // FIT_FACES))
    cosine_N, others_N = cosine_N[::step], others_N[::step]
    fit = CosineMixture(
        impostor_mean=impostor_mean,
        impostor_std=impostor_std,
        pair_cosine=PRIOR_PAIR_COSINE,
        face_std=PRIOR_FACE_STD,
        clean_share=PRIOR_CLEAN_SHARE,
    )
    for _ in range(EM_ROUNDS):
        fit = _em_round(fit, cosine_N, others_N)
    return fit


def _em_round(fit: CosineMixture, cosine_N: Float, others_N: Float) -> CosineMixture:
    clean_N = fit.p_clean(cosine_N, others_N, fit.clean_share)
    slope_N = fit.genuine_mean(others_N) / fit.pair_cosine  # mean = rho * slope
    wide_N = _widening(others_N)
    z_N = (cosine_N - fit.pair_cosine * slope_N) / (fit.face_std * wide_N)
    trust_N = clean_N * (GENUINE_DEGREES + 1) / (GENUINE_DEGREES + z_N * z_N) / wide_N**2
    rho = (float((trust_N * cosine_N * slope_N).sum()) + PRIOR_FACES * PRIOR_PAIR_COSINE) / (
        float((trust_N * slope_N * slope_N).sum()) + PRIOR_FACES
    )
    squares = float((trust_N * (cosine_N - rho * slope_N) ** 2).sum())
    total = float(clean_N.sum())
    variance = (squares + PRIOR_FACES * PRIOR_FACE_STD**2) / (total + PRIOR_FACES)
    share = (total + PRIOR_FACES * PRIOR_CLEAN_SHARE) / (len(clean_N) + PRIOR_FACES)
    return CosineMixture(
        impostor_mean=fit.impostor_mean,
        impostor_std=fit.impostor_std,
        pair_cosine=float(np.clip(rho, fit.impostor_mean + fit.impostor_std, 0.99)),
        face_std=math.sqrt(variance),
        clean_share=share,
    )


def _widening(others_N: npt.ArrayLike) -> Float:
    """Return the factor on the spread: the variance of a face plus that of a mean of M."""
    return np.sqrt(1 + 1 / np.asarray(others_N, dtype=np.float64))


def _log_t(z_N: Float) -> Float:
    """Return the log density of Student's t with GENUINE_DEGREES."""
    nu = GENUINE_DEGREES
    scale = math.lgamma((nu + 1) / 2) - math.lgamma(nu / 2) - 0.5 * math.log(nu * math.pi)
    return scale - (nu + 1) / 2 * np.log1p(z_N * z_N / nu)


def logistic(log_odds_N: Float) -> Float:
    """Return the probability of log odds."""
    return 1 / (1 + np.exp(-np.clip(log_odds_N, -700.0, 700.0)))

"""Intervals by resampling people, not pairs: pairs that share a person err together.

Pairs of one person are no independent trials, and a mismatched pair hangs on two people, so
resampling pairs gives intervals that are too narrow: Bolle, Ratha and Pankanti, Error analysis
of pattern recognition systems: the subsets bootstrap, CVIU 93 (2004). Here a resample draws
people with replacement, and a pair counts as often as its person was drawn; a pair of two
people as often as the one times as often as the other (Owen, The pigeonhole bootstrap, Annals
of Applied Statistics 1 (2007), which is on the safe side).

Bounds of differences, and of any other statistic, are percentiles. Those of a share are Wilson's
of as many independent trials as would spread as the resamples do (Fogliato, Patil and Perona,
Confidence intervals for error rates in 1:1 matching tasks, arXiv 2306.01198, recommend it): with
few errors percentiles hold too rarely (docs/adr/0015), and without one they claim certainty.

Legend: P pairs (or other trials), K statistics, C clusters (people or folds), S resamples.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from facepipe.evaluate import wilson_bounds

Float = npt.NDArray[np.float64]
Int = npt.NDArray[np.int64]

SAMPLES = 2000  # Efron and Tibshirani 1993, 14.3: at least 1,000 to 2,000 for percentiles
CONFIDENCE = 0.95


class Interval(NamedTuple):
    """A measured value and the bounds that hold it with the confidence asked for."""

    value: float
    low: float
    high: float


def resampled(cluster_P: npt.ArrayLike, samples: int = SAMPLES, seed: int = 0) -> Iterator[Float]:
    """Yield how often each trial counts in each resample, (P,) float64 of whole numbers.

    cluster_P: (P,) whole numbers, the person or fold of each trial, or (P, 2), the two people
    of each pair; where both are the same the person counts once. Raises ValueError for
    anything else, and where there are fewer than two clusters.
    """
    code_PM, clusters = _codes(cluster_P)
    rng = np.random.default_rng(seed)
    single_P = code_PM[:, 0] == code_PM[:, -1]
    for _ in range(samples):
        drawn_C = np.bincount(rng.integers(clusters, size=clusters), minlength=clusters)
        times_P = drawn_C[code_PM[:, 0]]
        if not single_P.all():
            times_P = np.where(single_P, times_P, times_P * drawn_C[code_PM[:, -1]])
        yield times_P.astype(np.float64)


def intervals(
    statistic: Callable[[Float], npt.ArrayLike],
    cluster_P: npt.ArrayLike,
    *,
    samples: int = SAMPLES,
    seed: int = 0,
    confidence: float = CONFIDENCE,
) -> list[Interval]:
    """Return the interval of each of K statistics, all from the same resamples.

    statistic: gets how often each trial counts, (P,) float64, and returns K values; NaN where
    a resample leaves nothing to measure, which then has no say. Raises ValueError as
    `resampled`, and for a confidence outside of 0 to 1.
    """
    value_K, drawn_SK = _drawn(statistic, cluster_P, samples, seed, confidence)
    tail = (1 - confidence) / 2
    found = []
    for value, drawn_S in zip(value_K.tolist(), drawn_SK.T, strict=True):
        known_S = drawn_S[~np.isnan(drawn_S)]
        low, high = np.quantile(known_S, (tail, 1 - tail)) if len(known_S) else (np.nan, np.nan)
        found.append(Interval(value, float(low), float(high)))
    return found


def share_intervals(
    statistic: Callable[[Float], npt.ArrayLike],
    cluster_P: npt.ArrayLike,
    counted_P: npt.ArrayLike,
    *,
    samples: int = SAMPLES,
    seed: int = 0,
    confidence: float = CONFIDENCE,
) -> list[Interval]:
    """Return Wilson's interval of each of K shares, of as many trials as the resamples spread.

    statistic: as of `intervals`; each value is the share of hits among the trials of
    ``counted_P`` (P,) bool, whatever thresholds it may find on others. n = p (1 - p) / var, at
    most the trials counted. Where all are hits or none is, n is at most the trials that share
    nobody. Raises ValueError as `intervals`.
    """
    value_K, drawn_SK = _drawn(statistic, cluster_P, samples, seed, confidence)
    counted = np.asarray(counted_P, bool)
    alone = independent(np.asarray(cluster_P)[counted])
    found = []
    for value, drawn_S in zip(value_K.tolist(), drawn_SK.T, strict=True):
        known_S = drawn_S[~np.isnan(drawn_S)]
        if np.isnan(value) or not len(known_S):
            found.append(Interval(value, 0.0, 1.0))
            continue
        sure = value in (0.0, 1.0)
        middle, spread = float(known_S.mean()) if sure else value, float(known_S.var())
        trials = float(alone if sure else counted.sum())
        if spread:
            trials = min(trials, max(1.0, middle * (1 - middle) / spread))
        low, high = wilson_bounds(value, trials, confidence)
        found.append(Interval(value, min(low, value), max(high, value)))  # but for rounding
    return found


def _drawn(
    statistic: Callable[[Float], npt.ArrayLike],
    cluster_P: npt.ArrayLike,
    samples: int,
    seed: int,
    confidence: float,
) -> tuple[Float, Float]:
    """Return the statistics, (K,), and those of every resample, (S, K)."""
    if not 0 < confidence < 1:
        raise ValueError(f"confidence {confidence} is not between 0 and 1")
    ones_P = np.ones(len(np.asarray(cluster_P)))
    value_K = np.atleast_1d(np.asarray(statistic(ones_P), np.float64))
    drawn = [np.atleast_1d(statistic(times_P)) for times_P in resampled(cluster_P, samples, seed)]
    return value_K, np.array(drawn, dtype=np.float64).reshape(samples, len(value_K))


def interval(
    statistic: Callable[[Float], float],
    cluster_P: npt.ArrayLike,
    *,
    samples: int = SAMPLES,
    seed: int = 0,
    confidence: float = CONFIDENCE,
) -> Interval:
    """Return the interval of one statistic of weighted trials; see `intervals`."""
    return intervals(statistic, cluster_P, samples=samples, seed=seed, confidence=confidence)[0]


def paired_difference(
    right_a_P: npt.ArrayLike,
    right_b_P: npt.ArrayLike,
    cluster_P: npt.ArrayLike,
    *,
    samples: int = SAMPLES,
    seed: int = 0,
    confidence: float = CONFIDENCE,
) -> Interval:
    """Return the mean of ``a`` less the mean of ``b`` on the same trials, and its interval.

    right_a_P, right_b_P: (P,) bool or numbers, what the two are worth on each trial, such as
    whether a pair was judged right. cluster_P: (P,) person or fold codes, or (P, 2), both
    people of each pair, as in `resampled`. ``a`` is better beyond chance where ``low`` > 0.
    Folds that share no people are clusters too, but ten are few: their interval is too
    narrow by a tenth or more; give people where they are known.

    Raises ValueError where lengths differ or there are fewer than two clusters.
    """
    gain_P = np.asarray(right_a_P, np.float64) - np.asarray(right_b_P, np.float64)
    if gain_P.ndim != 1 or len(gain_P) != len(np.asarray(cluster_P)):
        raise ValueError(f"{gain_P.shape} trials for {np.shape(cluster_P)} clusters")

    def mean(times_P: Float) -> float:
        return _share(gain_P, times_P)

    return interval(mean, cluster_P, samples=samples, seed=seed, confidence=confidence)


def share_interval(
    hit_P: npt.ArrayLike,
    cluster_P: npt.ArrayLike,
    *,
    samples: int = SAMPLES,
    seed: int = 0,
    confidence: float = CONFIDENCE,
) -> Interval:
    """Return the share of hits among trials and its interval, also where all are or none is.

    hit_P: (P,) bool. cluster_P: as in `resampled`. Bounds as of `share_intervals`; of a single
    cluster, Wilson's of one trial. Without a trial it is NaN, 0, 1.
    """
    hits_P = np.asarray(hit_P, bool)
    if not len(hits_P):
        return Interval(float("nan"), 0.0, 1.0)
    if len(np.unique(np.asarray(cluster_P))) < 2:
        share = float(hits_P.mean())
        return Interval(share, *wilson_bounds(share, 1, confidence))
    hit = hits_P.astype(np.float64)

    def mean(times_P: Float) -> float:
        return _share(hit, times_P)

    everything = np.ones(len(hit), bool)
    options = {"samples": samples, "seed": seed}
    return share_intervals(mean, cluster_P, everything, confidence=confidence, **options)[0]


def independent(cluster_P: npt.ArrayLike) -> int:
    """Return how many trials share nobody: one a cluster, and one for two people of pairs."""
    code_P = np.asarray(cluster_P)
    if code_P.ndim == 1:
        return len(np.unique(code_P))
    alone_P = code_P[:, 0] == code_P[:, -1]
    paired = max(1, len(np.unique(code_P[~alone_P])) // 2) if not alone_P.all() else 0
    return max(len(np.unique(code_P[alone_P])), min(paired, int((~alone_P).sum())))


def _share(value_P: Float, times_P: Float) -> float:
    total = float(times_P.sum())
    return float((value_P * times_P).sum()) / total if total else float("nan")


def _codes(cluster_P: npt.ArrayLike) -> tuple[Int, int]:
    """Return clusters as 0, 1, .. (P x 1 or P x 2) and how many there are."""
    given = np.asarray(cluster_P)
    if given.dtype.kind not in "iu" or given.ndim not in (1, 2) or given.size == 0:
        raise ValueError(f"clusters are whole numbers, (P,) or (P, 2), not {given.shape}")
    if given.ndim == 2 and given.shape[1] != 2:
        raise ValueError(f"a pair has one or two people, not {given.shape[1]}")
    names, code = np.unique(given, return_inverse=True)
    if len(names) < 2:
        raise ValueError("one cluster cannot be resampled: at least two are needed")
    return code.reshape(len(given), -1).astype(np.int64), len(names)

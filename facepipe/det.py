"""Error rates over all thresholds: DET, equal error, and TAR at a FAR with its interval.

A DET curve (Martin et al., The DET curve in assessment of detection task performance,
Eurospeech 1997) is the ROC with the missed share upwards. All is read off the staircase that
real thresholds give, nothing between its steps. A FAR under 1 / impostors is refused: no
threshold of such data shows it.

As in ``facepipe.evaluate`` a similarity of NaN (no face) is wrong at every threshold.
Legend: P pairs, F FARs, L distinct similarities, strict to lax.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from facepipe.bootstrap import CONFIDENCE, SAMPLES, Interval, intervals, share_intervals
from facepipe.errors import UsageError
from facepipe.evaluate import roc, tar_at_far

Float = npt.NDArray[np.float64]
Bool = npt.NDArray[np.bool_]
Int = npt.NDArray[np.int64]

DECADES = tuple(
    float(f"1e-{e}") for e in range(1, 8)
)  # FARs to report, as far as data support them


@dataclass(frozen=True, slots=True, kw_only=True)
class Det:
    """Operating points from strict to lax: a pair matches at similarity >= threshold."""

    threshold: Float
    fmr: Float  # mismatched pairs that match: the FAR
    fnmr: Float  # matched pairs that do not: 1 - TAR


@dataclass(frozen=True, slots=True, kw_only=True)
class TarBand:
    """The best TAR whose measured FAR does not pass the one asked for, with its interval."""

    far: float  # asked for
    tar: Interval
    measured_far: float
    threshold: float


def det(similarities_P: npt.ArrayLike, same_P: npt.ArrayLike) -> Det:
    """Return FMR and FNMR at every distinct similarity, after a threshold that accepts none.

    Raises ValueError unless there are matched and mismatched pairs.
    """
    curve = roc(similarities_P, same_P)
    return Det(threshold=curve.threshold, fmr=curve.far, fnmr=1.0 - curve.tar)


def equal_error(curve: Det) -> float:
    """Return the mean of FMR and FNMR at the threshold where they differ least; first of ties."""
    nearest = int(np.argmin(np.abs(curve.fmr - curve.fnmr)))
    return float(curve.fmr[nearest] + curve.fnmr[nearest]) / 2


def supported(impostors: int) -> tuple[float, ...]:
    """Return the powers of ten that so many mismatched pairs can show, from 0.1 down."""
    return tuple(far for far in DECADES if far * impostors >= 1 - 1e-9)


def require_supported(fars: Sequence[float], impostors: int, what: str = "FAR") -> None:
    """Raise UsageError for a rate that is no share, or under 1 / impostors."""
    for far in fars:
        if not 0 < far <= 1:
            raise UsageError(f"{what} {far:g} is not between 0 and 1")
        if far * impostors < 1 - 1e-9:
            least = f"{1 / impostors:.3g}" if impostors else "none"
            raise UsageError(
                f"{what} {far:g} cannot be measured with {impostors:,} impostor trials: the least "
                f"they support is {least}; give more of them, at least {math.ceil(1 / far):,}"
            )


def tars_at_fars(
    similarities_P: npt.ArrayLike,
    same_P: npt.ArrayLike,
    fars: Sequence[float],
    cluster_P: npt.ArrayLike,
    *,
    samples: int = SAMPLES,
    seed: int = 0,
    confidence: float = CONFIDENCE,
) -> list[TarBand]:
    """Return TAR at each FAR with an interval that resamples people, as `facepipe.bootstrap`.

    The threshold is found anew in each resample, so that its uncertainty is in the interval;
    bounds as of `facepipe.bootstrap.share_intervals`. Raises UsageError for a FAR the data
    cannot support, ValueError as `roc` and `resampled`.
    """
    matched_P = np.asarray(same_P, dtype=bool)
    require_supported(fars, int((~matched_P).sum()))
    ranked = _Ranked.of(similarities_P, matched_P)
    found = share_intervals(
        lambda times_P: ranked.tars(times_P, fars),
        cluster_P,
        matched_P,
        samples=samples,
        seed=seed,
        confidence=confidence,
    )
    bands = []
    for far, band in zip(fars, found, strict=True):
        point = tar_at_far(similarities_P, matched_P, far)
        bands.append(TarBand(far=far, tar=band, measured_far=point.far, threshold=point.threshold))
    return bands


def tar_differences(
    similarities_a_P: npt.ArrayLike,
    similarities_b_P: npt.ArrayLike,
    same_P: npt.ArrayLike,
    fars: Sequence[float],
    cluster_P: npt.ArrayLike,
    *,
    samples: int = SAMPLES,
    seed: int = 0,
    confidence: float = CONFIDENCE,
) -> list[Interval]:
    """Return TAR of ``a`` less TAR of ``b`` on the same pairs, at each FAR, with its interval.

    Each has its own threshold for the FAR, in each resample. Raises as `tars_at_fars`.
    """
    matched_P = np.asarray(same_P, dtype=bool)
    require_supported(fars, int((~matched_P).sum()))
    one = _Ranked.of(similarities_a_P, matched_P)
    other = _Ranked.of(similarities_b_P, matched_P)
    return intervals(
        lambda times_P: one.tars(times_P, fars) - other.tars(times_P, fars),
        cluster_P,
        samples=samples,
        seed=seed,
        confidence=confidence,
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class _Ranked:
    """Pairs sorted once, so that each resample is a running sum. Legend: G and I, the matched
    and mismatched pairs with a similarity, by falling similarity.
    """

    matched_G: Int
    mismatched_I: Int
    accepted_G: Int  # mismatched pairs of at least this matched pair's similarity
    never_P: Bool  # matched, without a face
    always_P: Bool  # mismatched, without a face

    @classmethod
    def of(cls, similarities_P: npt.ArrayLike, matched_P: Bool) -> _Ranked:
        score_P = np.asarray(similarities_P, dtype=np.float64)
        if score_P.shape != matched_P.shape or score_P.ndim != 1:
            raise ValueError(f"{score_P.shape} similarities for {matched_P.shape} pairs")
        if not matched_P.any() or matched_P.all():
            raise ValueError("a ROC needs matched and mismatched pairs")
        missing_P = np.isnan(score_P)
        order = np.argsort(-score_P, kind="stable")
        order = order[~missing_P[order]]
        matched_G, mismatched_I = order[matched_P[order]], order[~matched_P[order]]
        falling_I = -score_P[mismatched_I]
        return cls(
            matched_G=matched_G,
            mismatched_I=mismatched_I,
            accepted_G=np.searchsorted(falling_I, -score_P[matched_G], side="right"),
            never_P=missing_P & matched_P,
            always_P=missing_P & ~matched_P,
        )

    def tars(self, times_P: Float, fars: Sequence[float]) -> Float:
        """Return TAR at each FAR, (F,), of pairs that count so often; NaN where there are none.

        A matched pair is accepted if the mismatched pairs of at least its similarity, and
        those always accepted, are few enough: the lax end of the staircase's last fitting step.
        """
        times_I, times_G = times_P[self.mismatched_I], times_P[self.matched_G]
        always = float(times_P[self.always_P].sum())
        impostors = float(times_I.sum()) + always
        genuine = float(times_G.sum()) + float(times_P[self.never_P].sum())
        if not impostors or not genuine:
            return np.full(len(fars), np.nan)
        passed = np.concatenate([[0.0], np.cumsum(times_I)])
        far_G = (passed[self.accepted_G] + always) / impostors  # falling similarity: it rises
        reached = np.concatenate([[0.0], np.cumsum(times_G)])
        return np.asarray(reached[np.searchsorted(far_G, fars, side="right")] / genuine)

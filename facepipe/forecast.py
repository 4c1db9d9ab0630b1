"""Totals of a job from a sample of its photos, each with a 95 % interval.

What a photo has of its own (faces, bytes, seconds, a status) is summed over the sample and
scaled up. What photos have in common cannot be: pairs of one picture are scaled by pairs,
with the wide interval that few of them deserve, and wrong labels are not told at all.

Legend: n sampled photos or groups of them, B bootstrap draws.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from facepipe.evaluate import wilson_interval

Float = npt.NDArray[np.float64]

CONFIDENCE = 0.95
DRAWS = 2000  # of the bootstrap: percentiles of 2.5 % then rest on 50 draws
SEED = 20_000  # of the bootstrap, fixed: the same sample gives the same interval
# Under so many sampled photos unlike the others, draws from the sample show too little of
# what is rare: the share of such photos is then bounded by Wilson's interval.
RARE = 5


@dataclass(frozen=True, slots=True, kw_only=True)
class Interval:
    """An estimate and the 95 % interval around it."""

    value: float
    low: float
    high: float

    def holds(self, actual: float) -> bool:
        """Tell whether the interval holds what came out, to half of a unit of a count."""
        return self.low - 0.5 <= actual <= self.high + 0.5

    def scaled(self, factor: float) -> Interval:
        """Return the interval in another unit."""
        return Interval(value=self.value * factor, low=self.low * factor, high=self.high * factor)

    def as_json(self) -> list[float]:
        """Return [value, low, high]."""
        return [round(v, 6) for v in (self.value, self.low, self.high)]

    @classmethod
    def of(cls, value: Sequence[float]) -> Interval:
        """Return the interval that ``as_json`` made."""
        estimate, low, high = value
        return cls(value=float(estimate), low=float(low), high=float(high))


def exactly(value: float) -> Interval:
    """Return what is known without doubt."""
    return Interval(value=value, low=value, high=value)


def added(parts: Sequence[Interval]) -> Interval:
    """Return the sum, as if all parts were low or high together: never too narrow."""
    return Interval(
        value=math.fsum(p.value for p in parts),
        low=math.fsum(p.low for p in parts),
        high=math.fsum(p.high for p in parts),
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class Population:
    """How many photos there are: known, or estimated where not every container was listed."""

    photos: Interval
    draws_B: Float

    @property
    def known(self) -> bool:
        """Tell whether every photo has been listed."""
        return self.photos.low == self.photos.high


def population(
    photos: int, members: Sequence[int] = (), bytes_each: Sequence[int] = (), all_bytes: int = 0
) -> Population:
    """Return the population of ``photos`` that are listed and those of containers.

    members, bytes_each: photos and bytes of the containers that were listed, a random sample
    of containers with ``all_bytes`` in total. The others are taken to hold as many a byte
    (ratio estimator, Cochran, Sampling Techniques, 1977, 6.2), with a bootstrap over the
    containers. Containers hold no less than what was counted.
    """
    known = sum(bytes_each)
    counted = photos + sum(members)
    if not members or known >= all_bytes:
        return Population(photos=exactly(counted), draws_B=np.full(DRAWS, float(counted)))
    members_n, bytes_n = np.asarray(members, float), np.asarray(bytes_each, float)
    rest = all_bytes - known
    rng = np.random.default_rng([SEED, 1])
    pick_Bn = rng.integers(0, len(members_n), (DRAWS, len(members_n)))
    ratio_B = members_n[pick_Bn].sum(axis=1) / np.maximum(bytes_n[pick_Bn].sum(axis=1), 1.0)
    draws_B = counted + rest * ratio_B
    value = counted + rest * members_n.sum() / max(float(bytes_n.sum()), 1.0)
    low, high = _percentiles(draws_B)
    if len(members_n) == 1:  # one container says nothing of how much they differ
        low, high = float(counted), 2 * value
        draws_B = rng.uniform(low, high, DRAWS)
    interval = Interval(value=value, low=min(low, value), high=max(high, value))
    return Population(photos=interval, draws_B=draws_B)


def total(values_n: Sequence[float] | Float, of: Population, *, counts: bool = True) -> Interval:
    """Return the sum over the population of what each sampled photo has.

    Percentile bootstrap over the sample (Efron and Tibshirani 1993, 13.3); deviations shrink
    by sqrt(1 - n / N) for the finite population (Rao and Wu 1988), so that a sample of all
    is exact. Where values are ``counts`` and fewer than RARE photos differ from the most
    frequent one, the share of such photos is bounded by Wilson's interval instead.
    """
    sample_n = np.asarray(values_n, dtype=float)
    n, photos = len(sample_n), of.photos.value
    if n == 0:
        return exactly(0.0)
    seen, mean = float(sample_n.sum()), float(sample_n.mean())
    if of.known and n >= photos:
        return exactly(seen)
    if counts:
        usual, often = Counter(sample_n.tolist()).most_common(1)[0]
        if n - often < RARE:
            return _rarely_other(sample_n, usual, n - often, of)
    shrink = math.sqrt(max(0.0, 1.0 - n / photos))
    low, high = _percentiles(of.draws_B * (mean + shrink * (_means(sample_n) - mean)))
    return Interval(value=mean * photos, low=max(low, seen), high=high)


def time_total(photo_s_n: Sequence[float] | Float, of: Population) -> Interval:
    """Return the seconds of all photos, from the seconds a photo of each measured group.

    The bootstrap of `total` over groups; nothing shrinks, since the same photos would not
    take the same time again.
    """
    sample_n = np.asarray(photo_s_n, dtype=float)
    if not len(sample_n):
        return exactly(0.0)
    value = float(sample_n.mean()) * of.photos.value
    low, high = _percentiles(of.draws_B * _means(sample_n))
    return Interval(value=value, low=min(low, value), high=max(high, value))


def _means(sample_n: Float) -> Float:
    """Return the means of draws from the sample, (B,)."""
    rng = np.random.default_rng([SEED, 2])
    n = len(sample_n)
    return np.asarray(sample_n[rng.integers(0, n, (DRAWS, n))].mean(axis=1))


def _rarely_other(sample_n: Float, usual: float, other: int, of: Population) -> Interval:
    """Bound a total where nearly all sampled photos have the same count."""
    share = share_total(other, len(sample_n), of)
    gaps_k = sample_n[sample_n != usual] - usual
    more = max([1.0, usual, *gaps_k.tolist()])  # of unseen ones: twice as many, or none
    less = usual
    low = of.photos.low * usual - share.high * less
    high = of.photos.high * usual + share.high * more
    seen = float(sample_n.sum())
    return Interval(
        value=float(sample_n.mean()) * of.photos.value, low=max(low, seen), high=max(high, seen)
    )


def share_total(having: int, n: int, of: Population) -> Interval:
    """Return how many photos of the population have what ``having`` of n sampled ones have.

    Wilson's interval (1927) with as many trials as the finite population makes of n,
    n (N - 1) / (N - n); at least those seen have it, and those seen without it have not.
    """
    photos = of.photos.value
    if n == 0:
        return exactly(0.0)
    if of.known and n >= photos:
        return exactly(float(having))
    trials = n * (photos - 1) / (photos - n) if photos > n else float(n)
    low, high = wilson_interval(round(having * trials / n), max(1, round(trials)), CONFIDENCE)
    return Interval(
        value=having / n * photos,
        low=max(low * of.photos.low, float(having)),
        high=min(high * of.photos.high, of.photos.high - (n - having)),
    )


def pairs_total(pairs: int, n: int, of: Population) -> Interval:
    """Return how many pairs the population has, of which ``pairs`` lie within the sample.

    Both of a pair are sampled with n (n - 1) / N (N - 1), about the square of the sampled
    share. The interval is that of a Poisson count (Garwood 1936): with none seen, from 0 to
    3.7 over that share.
    """
    photos = of.photos.value
    if n < 2 or (of.known and n >= photos):
        return exactly(float(pairs)) if n >= photos else Interval(value=0, low=0, high=math.inf)
    scale = photos * (photos - 1) / (n * (n - 1))
    low, high = poisson_interval(pairs)
    return Interval(value=pairs * scale, low=max(float(pairs), low * scale), high=high * scale)


def fewest_copies(pairs: float) -> float:
    """Return how few duplicates make so many pairs: one crowd of g has g (g - 1) / 2."""
    return (math.sqrt(1 + 8 * max(pairs, 0.0)) - 1) / 2


def poisson_interval(count: int, confidence: float = CONFIDENCE) -> tuple[float, float]:
    """Return the exact interval of a Poisson mean (Garwood 1936)."""
    tail = (1 - confidence) / 2
    ceiling = count + 20 * math.sqrt(count + 1) + 20
    low = 0.0
    if count:
        low = _falling_root(lambda mean: _poisson_cdf(count - 1, mean) - (1 - tail), ceiling)
    return low, _falling_root(lambda mean: _poisson_cdf(count, mean) - tail, ceiling)


def _poisson_cdf(count: int, mean: float) -> float:
    if mean == 0:
        return 1.0
    logs = (k * math.log(mean) - mean - math.lgamma(k + 1) for k in range(count + 1))
    return math.fsum(math.exp(value) for value in logs)


def _falling_root(function: Callable[[float], float], high: float) -> float:
    low = 0.0
    for _ in range(100):
        middle = (low + high) / 2
        low, high = (middle, high) if function(middle) > 0 else (low, middle)
    return (low + high) / 2


def _percentiles(draws_B: Float) -> tuple[float, float]:
    tail = 100 * (1 - CONFIDENCE) / 2
    low, high = np.percentile(draws_B, [tail, 100 - tail])
    return float(low), float(high)

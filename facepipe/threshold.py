"""The score from which a search may say "this person", from the gallery's own strangers.

A search compares one face with all N of the gallery and names the best. What a user fears is
that a stranger is named: the false positive identification rate (FPIR) of a search. It grows
with N, so a threshold from a table of pairs (a false match rate, FMR, of one comparison) is
too low for a large gallery. The methods, the first that the data allows:

strangers         50 people or more. Each person of a sample is searched among the *other*
                  people: just what a stranger's search is. Best scores follow a Gumbel law
                  (the maximum of many); it is fitted between their 50 % and 90 % quantiles, so
                  that a few per cent of people with two labels, who score like themselves,
                  move the threshold little; the empirical quantile would land among them.
                  Averaged with `impostor_pairs`, whose weight soon falls with more people.
impostor_pairs    Fewer people: pairs of faces of different people, a normal law for the lower
                  half with a measured upper tail, at the FMR that N comparisons allow.
unlabelled_pairs  Nobody is named: random pairs, whose *lower* quantiles are those of strangers
                  in any collection of more than a few people; or, where there are many,
                  pairs of faces of one photo, who are two people. What is wrong with either
                  (the same person, relatives) raises its threshold: the lower one is taken.
prior             Hardly any faces, or faces too alike to be of different people.

What pairs show is weighed against the prior, so that a gallery of three does not promise what
three people cannot show. Measured on LFW, half its people as strangers to galleries of 2 to
1,980 of the others, at a stated FPIR of 1 %: 0.8 to 1.3 % on average with a 512-d recogniser,
0.4 to 0.8 % with a 128-d one; nameless 0.8 to 1.6 %, and 0.2 to 0.6 %.

Legend: N faces, D dimensions, P probes, S sampled faces.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from statistics import NormalDist
from typing import TypeGuard

import numpy as np
from numpy.typing import NDArray

from facepipe.index_manifest import Threshold

Vectors = NDArray[np.float16]
Int64 = NDArray[np.int64]

MIN_PEOPLE = 50  # for a Gumbel fit
PAIRS_WEIGH_PEOPLE = 100  # with so many people, fit and pairs count the same
MAX_PROBES = 2000  # of which FPIR 0.01 is 20
FACES_PER_PERSON = 5  # a person's faces agree about who looks like them: more say little
FIT_QUANTILES = np.linspace(0.5, 0.9, 25)
BLOCK_ROWS = 2048
MIN_SAME_PHOTO_PAIRS = 1000
MAX_FACES_PER_PHOTO = 20  # a crowd gives pairs with the square of its size
FACES_PER_UNKNOWN = 4  # faces a person is guessed to have, to weigh unlabelled data
LABELS_DOUBTED = 0.12  # fit above the pairs' threshold: the same people under several labels

# One face each of 3,959 people of LFW, 7.8 M pairs, two 112 px recognisers: mean 0.013 and
# 0.007, standard deviation of the lower half 0.064 (512-d) and 0.099 (128-d).
PRIOR_MEAN, PRIOR_STD, PRIOR_STD_ROOT_DIM = 0.015, 0.065, 1.12
PRIOR_PEOPLE = 30
# The upper tail of the same pairs, in those standard deviations: heavier than normal. At an
# FMR of 1e-3 it is at 3.5 and 3.3 (normal: 3.1), then further by 0.85 and 0.67 a decade.
TAIL_FMR, TAIL_AT, TAIL_PER_DECADE = 1e-3, 3.4, 0.76
LOW_QUANTILE, HIGH_QUANTILE = 0.05, 0.25  # of pairs: few of the same person are down there
PLAUSIBLE_MEAN, PLAUSIBLE_STD_RATIO = 0.15, 2.0  # what any working recogniser gives strangers

_normal = NormalDist().inv_cdf


@dataclass(frozen=True, slots=True)
class Strangers:
    """What pairs of strangers score, as a normal law for the lower half, and how many pairs."""

    mean: float
    std: float
    pairs: int = 0

    def threshold(self, fmr: float) -> float:
        """Return the score that a pair of strangers exceeds with chance ``fmr``."""
        if fmr >= TAIL_FMR:
            tail = -_normal(fmr) * (TAIL_AT / -_normal(TAIL_FMR))
        else:
            tail = TAIL_AT + TAIL_PER_DECADE * math.log10(TAIL_FMR / fmr)
        return self.mean + self.std * tail


def calibrate(
    vectors_ND: Vectors,
    identities: Sequence[str | None],
    photos: Sequence[str],
    *,
    fpir: float,
    seed: int,
    total: int | None = None,
) -> Threshold:
    """Return the threshold at which a stranger's search names somebody with chance ``fpir``.

    vectors_ND: unit vectors; identities: their people, None where nobody is known; photos:
    equal for faces of one photo; total: the faces of the gallery, where these are a sample of
    them. Deterministic for a seed. The module says how.
    """
    count, dim = vectors_ND.shape
    total = count if total is None else total
    fmr = -math.expm1(math.log1p(-fpir) / max(total, 1))
    prior = Strangers(PRIOR_MEAN, max(PRIOR_STD, PRIOR_STD_ROOT_DIM / math.sqrt(dim)))
    codes_N = _codes(identities)
    people = int(codes_N.max(initial=-1)) + 1
    probes = _spread(codes_N, seed)
    if people >= MIN_PEOPLE or (people > 1 and 2 * np.count_nonzero(codes_N >= 0) >= count):
        found = _different_people(vectors_ND[probes], codes_N[probes])
        method, note = "impostor_pairs", f"pairs of faces of {people} people"
    else:
        people = count // FACES_PER_UNKNOWN
        found, note = _nobody_named(vectors_ND, _codes(photos), prior, fmr, seed)
        method = "unlabelled_pairs"
    strangers = _weighed(found, prior, people)
    if strangers is None:
        method, note = "prior", "too few faces, or too much alike, to calibrate on: a stated prior"
    value = (strangers or prior).threshold(fmr)
    if method == "impostor_pairs" and people >= MIN_PEOPLE:
        fit = _best_of_others(vectors_ND, codes_N, probes, fpir, total)
        if fit > value + LABELS_DOUBTED:
            note += "; the labels seem to give the same people several names"
        else:
            weight = people**2 / (people**2 + PAIRS_WEIGH_PEOPLE**2)
            value = weight * fit + (1 - weight) * value
            method, note = "strangers", f"searches of {people} people among the others"
    shown = strangers or prior
    return Threshold(
        # Rounded, so that the last bits of a matrix product are not part of a version's name.
        value=round(min(value, 1.0), 4),
        fpir=fpir,
        fmr=fmr,
        method=method,
        note=note,
        probes=len(probes) if method == "strangers" else 0,
        comparisons=found.pairs if found else 0,
        impostor_mean=round(shown.mean, 4),
        impostor_std=round(shown.std, 4),
        seed=seed,
    )


def _codes(names: Sequence[str | None]) -> Int64:
    """Return a number for each name, in the order of the names; -1 for None."""
    number = {name: i for i, name in enumerate(sorted({n for n in names if n is not None}))}
    return np.array([-1 if n is None else number[n] for n in names], dtype=np.int64)


def _spread(codes_N: Int64, seed: int) -> Int64:
    """Return at most MAX_PROBES rows with a code: a face each, then second ones, and so on."""
    known = np.flatnonzero(codes_N >= 0)
    shuffled = np.random.default_rng(seed).permutation(known)
    by_code = shuffled[np.argsort(codes_N[shuffled], kind="stable")]
    codes = codes_N[by_code]
    turn = np.arange(len(codes)) - np.searchsorted(codes, codes)
    place = np.empty(len(codes_N), dtype=np.int64)
    place[shuffled] = np.arange(len(shuffled))
    chosen = np.lexsort((place[by_code], turn))
    chosen = chosen[turn[chosen] < FACES_PER_PERSON][:MAX_PROBES]
    return np.sort(by_code[chosen])


# -- pairs -------------------------------------------------------------------------------


def _different_people(vectors_PD: Vectors, codes_P: Int64) -> Strangers | None:
    wide = vectors_PD.astype(np.float32)
    rows = enumerate(wide @ wide.T, 1)
    return _fitted(_joined([row[i:][codes_P[i:] != codes_P[i - 1]] for i, row in rows]))


def _nobody_named(
    vectors_ND: Vectors, photos_N: Int64, prior: Strangers, fmr: float, seed: int
) -> tuple[Strangers | None, str]:
    """Return the less strict of what random pairs and pairs of one photo say."""
    rng = np.random.default_rng(seed)
    rows = np.sort(rng.permutation(len(vectors_ND))[:MAX_PROBES])
    # Faces of one photo are left in: two people too, or the same copied, and few.
    random = _fitted(_upper(vectors_ND[rows]))
    note = "no identities: random pairs taken as strangers"
    together = _same_photo(vectors_ND, photos_N, rng)
    beside = _fitted(together) if len(together) >= MIN_SAME_PHOTO_PAIRS else None
    if _plausible(beside, prior) and (
        not _plausible(random, prior) or beside.threshold(fmr) < random.threshold(fmr)
    ):
        return beside, "no identities: pairs of faces of the same photo taken as strangers"
    return random, note


def _upper(vectors_SD: Vectors) -> NDArray[np.float32]:
    """Return the scores of all pairs. Row by row: indices of all take eight times the room."""
    wide = vectors_SD.astype(np.float32)
    return _joined([row[i:] for i, row in enumerate(wide @ wide.T, 1)])


def _joined(parts: Sequence[NDArray[np.float32]]) -> NDArray[np.float32]:
    return np.concatenate([np.empty(0, np.float32), *parts])


def _same_photo(
    vectors_ND: Vectors, photos_N: Int64, rng: np.random.Generator
) -> NDArray[np.float32]:
    """Return the scores of pairs within photos, of at most MAX_PROBES photos."""
    order = np.argsort(photos_N, kind="stable")
    starts = np.flatnonzero(np.diff(photos_N[order], prepend=-1))
    groups = [g for g in np.split(order, starts[1:]) if len(g) > 1]
    taken = sorted(rng.permutation(len(groups))[:MAX_PROBES])
    return _joined([_upper(vectors_ND[groups[i][:MAX_FACES_PER_PHOTO]]) for i in taken])


def _fitted(scores: NDArray[np.float32]) -> Strangers | None:
    """Return the normal law with the lower quantiles of scores; None for no scores."""
    if len(scores) == 0:
        return None
    low, high = (float(q) for q in np.quantile(scores, [LOW_QUANTILE, HIGH_QUANTILE]))
    std = (high - low) / (_normal(HIGH_QUANTILE) - _normal(LOW_QUANTILE))
    return Strangers(high - _normal(HIGH_QUANTILE) * std, std, len(scores))


def _weighed(found: Strangers | None, prior: Strangers, people: int) -> Strangers | None:
    """Return what was found, drawn to the prior for few people; None where it means nothing."""
    if not _plausible(found, prior) or people < 1:
        return None
    weight = people / (people + PRIOR_PEOPLE)
    variance = weight * found.std**2 + (1 - weight) * prior.std**2
    mean = weight * found.mean + (1 - weight) * prior.mean
    return replace(found, mean=mean, std=math.sqrt(variance))


def _plausible(found: Strangers | None, prior: Strangers) -> TypeGuard[Strangers]:
    """Tell whether scores can be those of strangers: no recogniser finds all people alike."""
    if found is None or abs(found.mean) > PLAUSIBLE_MEAN:
        return False
    return 1 / PLAUSIBLE_STD_RATIO <= found.std / prior.std <= PLAUSIBLE_STD_RATIO


# -- searches ----------------------------------------------------------------------------


def _best_of_others(
    vectors_ND: Vectors, codes_N: Int64, probes: Int64, fpir: float, total: int
) -> float:
    """Return the best score that a stranger exceeds with chance ``fpir``, by a Gumbel fit."""
    wide, codes_P = vectors_ND[probes].astype(np.float32), codes_N[probes]
    best = np.full(len(probes), -1.0, dtype=np.float32)
    for start in range(0, len(vectors_ND), BLOCK_ROWS):
        block = slice(start, start + BLOCK_ROWS)
        scores = wide @ vectors_ND[block].astype(np.float32).T
        unsure = (codes_P[:, None] == codes_N[block]) | (codes_N[block] < 0)
        scores[unsure] = -1.0
        best = np.maximum(best, scores.max(axis=1))
    at = -np.log(-np.log(FIT_QUANTILES))
    scale, place = np.polyfit(at, np.quantile(best.astype(np.float64), FIT_QUANTILES), 1)
    # A maximum of more faces moves by the logarithm of their number: the unnamed ones, too,
    # and those that are not in the sample.
    more = math.log(total / np.count_nonzero(codes_N >= 0))
    return float(place + scale * (more - math.log(-math.log1p(-fpir))))

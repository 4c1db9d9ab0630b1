"""How much of what exact search finds a search by codes finds, and the least work that is enough.

Faces of the gallery are searched for, each left out of its own answer: half of them faces of
people who have several, half any faces, most of whose best hits are strangers in a gallery of
many people. Three shares are reported:

Rth        of the exact ten best hits, those with a cosine of MIN_COSINE or more: the matches. How
           many of them are among the ten that the search finds. This is what is calibrated.
id@1       of the queries whose best exact hit is such a match with the query's own person: in how
           many the best hit found is that person, too. 1 for exact search, whatever the model.
recall@10  of all exact ten best hits. Mostly strangers at nearly the same cosine, where there is
           no match: low values of it lose nobody.

The intervals are Wilson's, 95 %. Pairs of one query are missed together, so the interval of Rth
is that of as many independent pairs as would spread as much (Kish 1965, 8.2: the design effect).

Legend: Q queries, N rows, K hits, D dimensions.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

import numpy as np
from numpy.typing import NDArray

from facepipe.evaluate import wilson_interval
from facepipe.exact_scores import NO_ROW, Float32, Hits, Int64, widened
from facepipe.index_manifest import Recall, Search

if TYPE_CHECKING:
    from facepipe.index import Gallery

Codes = NDArray[np.int32]
Flags = NDArray[np.bool_]

# Of the share of matches that may be missed, so much may be a person who is missed altogether:
# an Rth of 0.99 goes with an id@1 of 0.999. People with one other photo need the most lists.
MISSED_PEOPLE = 0.1
QUERIES = 2000  # an exact search of 500,000 faces with so many: 12 s on one core
TOP = 10
MIN_COSINE = 0.40  # of a match: nearly 8 standard deviations of strangers (0.051)
CANDIDATES = (25, 50, 100, 200, 400, 800, 1600)
# Doubling nprobe must win this share of what is missing, or the codes are the limit.
LEAST_GAIN = 0.1
# ns of one thread in a batch: to look at a byte of a code, to turn to a list, and to gather, widen
# and score a vector, a dimension. They weigh lists against candidates, and nothing else.
CODE_BYTE_NS = {"ivf_pqfs": 0.04, "ivf_sq8": 0.1}
LIST_NS, SCORE_DIM_NS = 100.0, 1.5


class Searchable(Protocol):
    """What is measured; rows are numbers from 0."""

    def search_approximate(
        self, queries_QD: Float32, k: int, *, nprobe: int, candidates: int
    ) -> Hits:
        """Return scores and rows as a search with these settings finds them."""
        ...

    def search_exact(self, queries_QD: Float32, k: int) -> Hits:
        """Return scores and rows of the best of all."""
        ...


@dataclass(frozen=True, slots=True)
class Truth:
    """What exact search finds with some rows of the gallery."""

    rows_Q: Int64
    vectors_QD: Float32
    found_QK: Int64  # without the row itself; NO_ROW where there are fewer
    matches_QK: Flags
    person_N: Codes  # of all rows; -1: nobody known
    seed: int


def sample_rows(
    person_N: Codes, living_N: Flags | None, keys_N: NDArray[np.uint64], count: int
) -> Int64:
    """Return rows to search for, rising: half of people with several faces, half any.

    Those with the highest keys, as far as possible from the template's sample, which has the
    lowest: the lists fit the faces that they were trained on better than others.
    """
    alive = np.arange(len(person_N)) if living_N is None else np.flatnonzero(living_N)
    person = person_N[alive]
    faces = np.bincount(person[person >= 0], minlength=1)
    several = alive[(person >= 0) & (faces[person] > 1)]
    some = _highest(several, keys_N, count // 2)
    others = np.setdiff1d(alive, some, assume_unique=True)
    return np.sort(np.concatenate([some, _highest(others, keys_N, count - len(some))]))


def _highest(rows: Int64, keys_N: NDArray[np.uint64], count: int) -> Int64:
    others = max(0, len(rows) - count)
    highest: Int64 = rows[np.argpartition(keys_N[rows], others)[others:]] if others else rows
    return highest


def find_truth(gallery: Gallery, *, seed: int, queries: int = QUERIES) -> Truth:
    """Search exactly with a sample of a gallery's faces."""
    template = gallery.record.template
    keys_N = gallery.shards.keys(seed if template is None else template.seed)
    person_N, _ = gallery.shards.identities()
    rows_Q = sample_rows(person_N, gallery.shards.living, keys_N, queries)
    vectors_QD = widened(gallery.shards.vectors(rows_Q))
    scores_QK, found_QK = _others(gallery.search_exact(vectors_QD, TOP + 1), rows_Q)
    matches_QK = (scores_QK >= MIN_COSINE) & (found_QK != NO_ROW)
    return Truth(rows_Q, vectors_QD, found_QK, matches_QK, person_N, seed)


def measure(searched: Searchable, truth: Truth, search: Search, target: float) -> Recall:
    """Return what a search with these settings finds of the truth."""
    hits = searched.search_approximate(
        truth.vectors_QD, TOP + 1, nprobe=search.nprobe, candidates=search.candidates
    )
    _, rows_QK = _others(hits, truth.rows_Q)
    there_QK = truth.found_QK != NO_ROW
    seen_QK = (truth.found_QK[:, :, None] == rows_QK[:, None, :]).any(axis=2) & there_QK
    matches_Q, seen_Q = truth.matches_QK.sum(axis=1), (seen_QK & truth.matches_QK).sum(axis=1)
    rth, rth_low, rth_high = _share_of_pairs(seen_Q, matches_Q)
    own_Q = truth.person_N[truth.rows_Q]
    asked_Q = truth.matches_QK[:, 0] & (own_Q >= 0)
    asked_Q &= truth.person_N[truth.found_QK[:, 0]] == own_Q
    right_Q = asked_Q & (rows_QK[:, 0] != NO_ROW) & (truth.person_N[rows_QK[:, 0]] == own_Q)
    asked, right = int(asked_Q.sum()), int(right_Q.sum())
    low, high = wilson_interval(right, asked)
    return Recall(
        target=target,
        rth=_rounded(rth),
        rth_low=_rounded(rth_low),
        rth_high=_rounded(rth_high),
        id_at_1=_rounded(right / asked if asked else 1.0),
        id_at_1_low=_rounded(low),
        id_at_1_high=_rounded(high),
        recall_at_10=_rounded(seen_QK.sum() / max(there_QK.sum(), 1)),
        queries=len(truth.rows_Q),
        pairs=int(matches_Q.sum()),
        min_cosine=MIN_COSINE,
        seed=truth.seed,
    )


def calibrate_search(
    gallery: Gallery, *, target: float, seed: int, queries: int = QUERIES
) -> tuple[Search, Recall | None]:
    """Return the cheapest search whose Rth is at least ``target`` at the lower end of its interval.

    Its id@1 misses a tenth as much at most. Where there are too few matches to show the
    target, all of them are to be found. Where no search reaches it, the best one is returned;
    the recall says so. A flat gallery is exact: (0, 0) and None. Deterministic for a seed.
    """
    if gallery.codes is None:
        return Search(nprobe=0, candidates=0), None
    truth = find_truth(gallery, seed=seed, queries=queries)
    nlist, dim = gallery.codes.nlist, gallery.dim
    list_bytes = gallery.codes.code_bytes * gallery.codes.rows / nlist
    list_ns = LIST_NS + CODE_BYTE_NS[gallery.record.kind] * list_bytes
    tried: dict[Search, Recall] = {}
    best: tuple[float, Search] | None = None
    nprobe = min(gallery.record.search.nprobe, nlist)
    for candidates in CANDIDATES:
        ladder = _Ladder(gallery, truth, target, candidates, nlist, tried)
        found = ladder.least(nprobe)
        if found is None:
            continue
        cost = found * list_ns + candidates * dim * SCORE_DIM_NS
        if best is not None and cost >= best[0]:
            break
        best, nprobe = (cost, Search(nprobe=found, candidates=candidates)), found
    chosen = best[1] if best else max(tried, key=lambda s: (tried[s].rth, -s.nprobe))
    return chosen, tried[chosen]


@dataclass(frozen=True, slots=True)
class _Ladder:
    """Numbers of lists that are tried with so many candidates."""

    gallery: Searchable
    truth: Truth
    target: float
    candidates: int
    nlist: int
    tried: dict[Search, Recall]

    def least(self, start: int) -> int | None:
        """Return the least number of lists that is enough, to an eighth of itself."""
        high = start
        if self.enough(high):
            while high > 1 and self.enough(high // 2):
                high //= 2
        else:
            while not self.enough(high):
                if high == self.nlist:
                    return None
                before, high = high, min(2 * high, self.nlist)
                if not self.enough(high) and not self.gains(before, high):
                    return None
        low = high // 2  # is not enough, or 0
        while high - low > max(1, high // 8):
            middle = (low + high + 1) // 2
            low, high = (low, middle) if self.enough(middle) else (middle, high)
        return high

    def measured(self, nprobe: int) -> Recall:
        search = Search(nprobe=nprobe, candidates=self.candidates)
        if search not in self.tried:
            self.tried[search] = measure(self.gallery, self.truth, search, self.target)
        return self.tried[search]

    def enough(self, nprobe: int) -> bool:
        return is_enough(self.measured(nprobe), int(self.truth.matches_QK.any(axis=1).sum()))

    def gains(self, before: int, after: int) -> bool:
        missing = 1 - self.measured(before).rth
        return self.measured(after).rth - self.measured(before).rth >= LEAST_GAIN * missing


def is_enough(recall: Recall, queries_with_matches: int) -> bool:
    """Tell whether a target is reached, as far as so many queries can show it."""
    shown, _ = wilson_interval(queries_with_matches, queries_with_matches)
    enough = recall.rth_low >= recall.target or (shown < recall.target and recall.rth == 1)
    return enough and recall.id_at_1 >= 1 - MISSED_PEOPLE * (1 - recall.target)


def _others(hits: Hits, rows_Q: Int64) -> Hits:
    """Return hits without the row that was searched for, one fewer."""
    scores_QK, rows_QK = hits
    kept_QK = rows_QK != rows_Q[:, None]
    kept_QK[kept_QK.all(axis=1), -1] = False
    shape = len(rows_Q), rows_QK.shape[1] - 1
    return scores_QK[kept_QK].reshape(shape), rows_QK[kept_QK].reshape(shape)


def _share_of_pairs(seen_Q: Int64, all_Q: Int64) -> tuple[float, float, float]:
    """Return the share of pairs that were seen, and its interval; (1, 0, 1) where there is none."""
    pairs, queries = int(all_Q.sum()), int(np.count_nonzero(all_Q))
    if not pairs:
        return 1.0, 0.0, 1.0
    share = int(seen_Q.sum()) / pairs
    variance = float(np.square(seen_Q - share * all_Q).sum()) / pairs**2
    trials = queries if variance == 0 else min(pairs, round(share * (1 - share) / variance))
    trials = max(trials, 1)
    low, high = wilson_interval(math.floor(share * trials + 1e-9), trials)
    return share, low, max(high, share)


def _rounded(share: float) -> float:
    """Return a share to six places, so that the last bits are not part of a version's name."""
    return round(float(share), 6)

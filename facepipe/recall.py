"""How much of what exact search finds a search by codes finds, and the least work that is enough.

Faces of the gallery are searched for, each left out of its own answer: half of them faces of
people who have several, half any faces, most of whose best hits are strangers in a gallery of
many people. Three shares are reported:

Rth        of the exact ten best hits, those with a cosine of MIN_COSINE or more: the matches. How
           many of them are among the ten that the search finds. This is what is calibrated first.
id@1       of faces whose best match is of their own person: in how many searches that person is
           the best hit, too (`facepipe.recall_people`). 1 for exact search, whatever the model.
recall@10  of all exact ten best hits. Mostly strangers at nearly the same cosine, where there is
           no match: low values of it lose nobody.

The intervals are Wilson's, 95 %. Pairs of one query are missed together, so the interval of Rth
is that of as many independent pairs as would spread as much (Kish 1965, 8.2: the design effect).

Legend: Q queries, N rows, K hits, D dimensions.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from facepipe.evaluate import wilson_interval
from facepipe.exact_scores import NO_ROW, Float32, Int64
from facepipe.half_floats import widened
from facepipe.index_manifest import Recall, Search
from facepipe.recall_people import (
    MIN_COSINE,
    PEOPLE_QUERIES,
    Flags,
    Found,
    Known,
    People,
    PeopleTrials,
    Searchable,
    find_known,
    find_people,
    highest,
    several_faces,
    without_self,
)

if TYPE_CHECKING:
    from facepipe.index import Gallery

# Of the share of matches that may be missed, so much may be a person who is missed altogether:
# an Rth of 0.99 goes with an id@1 of 0.999. People with one other photo need the most lists.
MISSED_PEOPLE = 0.1
QUERIES = 2000  # an exact search of 500,000 faces with so many: 4 s on one core
TOP = 10
CANDIDATES = (25, 50, 100, 200, 400, 800, 1600)
# Doubling nprobe must win this share of what is missing, or the codes are the limit.
LEAST_GAIN = 0.1
# ns of one thread in a batch: to look at a byte of a code, to turn to a list, and to gather, widen
# and score a vector, a dimension. They weigh lists against candidates, and nothing else.
CODE_BYTE_NS = {"ivf_pqfs": 0.04, "ivf_sq8": 0.1}
LIST_NS, SCORE_DIM_NS = 100.0, 1.5


@dataclass(frozen=True, slots=True)
class Truth:
    """What exact search finds with some rows of the gallery."""

    rows_Q: Int64
    vectors_QD: Float32
    found_QK: Int64  # without the row itself; NO_ROW where there are fewer
    matches_QK: Flags
    known: Known  # other rows, and more of them
    seed: int


@dataclass(frozen=True, slots=True)
class Matches:
    """What a search finds of the matches, with the interval, and of all ten best."""

    rth: float
    low: float
    high: float
    recall_at_10: float


def sample_rows(
    person_N: People, living_N: Flags | None, keys_N: NDArray[np.uint64], count: int
) -> Int64:
    """Return rows to search for, rising: half of people with several faces, half any.

    Those with the highest keys, as far as possible from the template's sample, which has the
    lowest: the lists fit the faces that they were trained on better than others.
    """
    some = highest(several_faces(person_N, living_N), keys_N, count // 2)
    others_N = np.ones(len(person_N), dtype=bool) if living_N is None else living_N.copy()
    others_N[some] = False
    return np.sort(np.concatenate([some, highest(others_N, keys_N, count - len(some))]))


def find_truth(
    gallery: Gallery, *, seed: int, queries: int = QUERIES, people: int = PEOPLE_QUERIES
) -> Truth:
    """Search exactly with a sample of a gallery's faces; ``people``: of those with a name."""
    template = gallery.record.template
    keys_N = gallery.shards.keys(seed if template is None else template.seed)
    person_N, _ = gallery.shards.identities()
    rows_Q = sample_rows(person_N, gallery.shards.living, keys_N, queries)
    known = find_known(gallery, person_N, keys_N, people)
    vectors_QD = widened(gallery.shards.vectors(rows_Q))
    scores_QK, found_QK = without_self(gallery.search_exact(vectors_QD, TOP + 1), rows_Q)
    matches_QK = (scores_QK >= MIN_COSINE) & (found_QK != NO_ROW)
    return Truth(rows_Q, vectors_QD, found_QK, matches_QK, known, seed)


def measure(searched: Searchable, truth: Truth, search: Search, target: float) -> Recall:
    """Return what a search with these settings finds of the truth."""
    people = Found.of(*find_people(searched, truth.known, search))
    return _recall(truth, target, find_matches(searched, truth, search), people)


def find_matches(searched: Searchable, truth: Truth, search: Search) -> Matches:
    """Return what a search with these settings finds of the exact ten best."""
    hits = searched.search_approximate(
        truth.vectors_QD, TOP + 1, nprobe=search.nprobe, candidates=search.candidates
    )
    _, rows_QK = without_self(hits, truth.rows_Q)
    there_QK = truth.found_QK != NO_ROW
    seen_QK = (truth.found_QK[:, :, None] == rows_QK[:, None, :]).any(axis=2) & there_QK
    matches_Q, seen_Q = truth.matches_QK.sum(axis=1), (seen_QK & truth.matches_QK).sum(axis=1)
    return Matches(*_share_of_pairs(seen_Q, matches_Q), seen_QK.sum() / max(there_QK.sum(), 1))


def _recall(truth: Truth, target: float, matches: Matches, people: Found) -> Recall:
    low, high = people.interval
    return Recall(
        target=target,
        rth=_rounded(matches.rth),
        rth_low=_rounded(matches.low),
        rth_high=_rounded(matches.high),
        id_at_1=_rounded(people.share),
        id_at_1_low=_rounded(low),
        id_at_1_high=_rounded(high),
        recall_at_10=_rounded(matches.recall_at_10),
        queries=len(truth.rows_Q),
        pairs=int(truth.matches_QK.sum()),
        people_queries=people.asked,
        min_cosine=MIN_COSINE,
        seed=truth.seed,
    )


def least_id_at_1(target: float) -> float:
    """Return the id@1 that goes with a target of Rth."""
    return 1 - MISSED_PEOPLE * (1 - target)


def calibrate_search(
    gallery: Gallery, *, target: float, seed: int, queries: int = QUERIES
) -> tuple[Search, Recall | None]:
    """Return the cheapest search whose Rth is at least ``target`` at the lower end of its interval.

    So is its id@1, which may miss a tenth as much. Where there are too few matches or people to
    show that, all of them are to be found. Where no search reaches it, the best one is returned;
    the recall says so. A flat gallery is exact: (0, 0) and None. Deterministic for a seed.
    """
    if gallery.codes is None:
        return Search(nprobe=0, candidates=0), None
    nlist, dim = gallery.codes.nlist, gallery.dim
    list_bytes = gallery.codes.code_bytes * gallery.codes.rows / nlist
    list_ns = LIST_NS + CODE_BYTE_NS[gallery.record.kind] * list_bytes
    truth = find_truth(gallery, seed=seed, queries=queries)
    trials = _Trials(gallery, truth, target, nlist, PeopleTrials(gallery, truth.known))
    best: tuple[float, Search] | None = None
    nprobe = min(gallery.record.search.nprobe, nlist)
    for candidates in CANDIDATES:
        score_ns = candidates * dim * SCORE_DIM_NS
        if best is not None:  # with fewer lists than these it would be cheaper
            nprobe = min(math.ceil((best[0] - score_ns) / list_ns) - 1, nlist)
            if nprobe < 1 or not trials.finds_both(Search(nprobe=nprobe, candidates=candidates)):
                break
        found = trials.least(nprobe, candidates)
        if found is not None:
            best = found * list_ns + score_ns, Search(nprobe=found, candidates=candidates)
            nprobe = found
    if best is not None:
        return trials.confirmed(best[1])
    chosen = trials.closest()
    return chosen, measure(gallery, trials.truth, chosen, target)


@dataclass(frozen=True, slots=True)
class _Trials:
    """Searches that have been tried."""

    gallery: Searchable
    truth: Truth
    target: float
    nlist: int
    people: PeopleTrials
    matches: dict[Search, Matches] = field(default_factory=dict)

    def least(self, start: int, candidates: int) -> int | None:
        """Return the least number of lists that is enough, to an eighth of itself.

        First for the matches; only from there on people are asked for, who are many.
        """

        def search(nprobe: int) -> Search:
            return Search(nprobe=nprobe, candidates=candidates)

        found = self._least(
            start,
            lambda n: self.finds_matches(search(n)),
            lambda before, after: self.gains(search(before), search(after)),
        )
        if found is None:
            return None
        return self._least(
            found,
            lambda n: self.finds_both(search(n)),
            lambda before, after: True,
        )

    def confirmed(self, search: Search) -> tuple[Search, Recall]:
        """Measure a search as a whole, with more lists where somebody is lost to them."""
        least = least_id_at_1(self.target)
        while True:
            people = Found.of(*find_people(self.gallery, self.truth.known, search))
            if people.is_enough(least) or search.nprobe == self.nlist:
                return search, _recall(self.truth, self.target, self.found(search), people)
            more = min(self.nlist, search.nprobe + max(1, search.nprobe // 8))
            search = Search(nprobe=more, candidates=search.candidates)

    def _least(
        self, start: int, enough: Callable[[int], bool], gains: Callable[[int, int], bool]
    ) -> int | None:
        high = start
        if enough(high):
            while high > 1 and enough(high // 2):
                high //= 2
        else:
            while not enough(high):
                if high == self.nlist:
                    return None
                before, high = high, min(2 * high, self.nlist)
                if not enough(high) and not gains(before, high):
                    return None
        low = high // 2  # is not enough, or 0
        while high - low > max(1, high // 8):
            middle = (low + high + 1) // 2
            low, high = (low, middle) if enough(middle) else (middle, high)
        return high

    def found(self, search: Search) -> Matches:
        if search not in self.matches:
            self.matches[search] = find_matches(self.gallery, self.truth, search)
        return self.matches[search]

    def finds_matches(self, search: Search) -> bool:
        queries = int(self.truth.matches_QK.any(axis=1).sum())
        return finds_enough(self.found(search), self.target, queries)

    def finds_both(self, search: Search) -> bool:
        least = least_id_at_1(self.target)
        return self.finds_matches(search) and self.people.find(search).is_enough(least)

    def gains(self, before: Search, after: Search) -> bool:
        missing = 1 - self.found(before).rth
        return self.found(after).rth - self.found(before).rth >= LEAST_GAIN * missing

    def closest(self) -> Search:
        """Return the search that found most."""
        return max(self.matches, key=lambda s: (self.matches[s].rth, -s.nprobe))


def finds_enough(matches: Matches, target: float, queries_with_matches: int) -> bool:
    """Tell whether a target is reached, as far as so many queries can show it."""
    shown, _ = wilson_interval(queries_with_matches, queries_with_matches)
    return matches.low >= target or (shown < target and matches.rth == 1)


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

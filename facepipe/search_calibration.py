"""The least work of a search by codes that finds enough: of lists to look in, and of candidates.

More lists find the matches that lie in them, more candidates those that the codes rank low. Each
number of candidates has its least number of lists, and the pair that costs least is taken.

Legend: Q queries, K hits.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np

from facepipe.exact_scores import Int64
from facepipe.half_floats import widened
from facepipe.index_manifest import Recall, Search
from facepipe.recall import (
    QUERIES,
    Matches,
    Truth,
    count_matches,
    find_seen,
    find_truth,
    finds_enough,
    least_id_at_1,
    recall_of,
)
from facepipe.recall_people import Flags, Found, Searchable, ask_people, enough_for_people

if TYPE_CHECKING:
    from facepipe.index import Gallery

CANDIDATES = (25, 50, 100, 200, 400, 800, 1600)
LEAST_GAIN = 0.02  # of a search's time: less is not worth a trial
STEPS = 8  # the least number of lists is found to this part of itself
WIDENED = 8192  # vectors at a time
# ns of one thread in a batch: to look at a byte of a code, to turn to a list, and to gather, widen
# and score a vector, a dimension. They weigh lists against candidates, and nothing else.
CODE_BYTE_NS = {"ivf_pqfs": 0.04, "ivf_sq8": 0.1}
LIST_NS, SCORE_DIM_NS = 100.0, 1.5


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
    codes, dim = gallery.codes, gallery.dim
    list_bytes = codes.code_bytes * codes.rows / codes.nlist
    list_ns = LIST_NS + CODE_BYTE_NS[gallery.record.kind] * list_bytes
    truth = find_truth(gallery, seed=seed, queries=queries)
    trials = Trials(gallery, truth, target, codes.nlist, _list_ranks(gallery, truth))
    trials.look_ahead(list_ns, CANDIDATES[-1], CANDIDATES[-1] * dim * SCORE_DIM_NS)
    best: tuple[float, Search] | None = None
    for candidates in CANDIDATES:
        score_ns, most = candidates * dim * SCORE_DIM_NS, codes.nlist
        if best is not None:  # with fewer lists than these it would be cheaper, by a little
            most = min(int(((1 - LEAST_GAIN) * best[0] - score_ns) / list_ns), codes.nlist)
        found = trials.least(candidates, most)
        if found is not None:
            best = found * list_ns + score_ns, Search(nprobe=found, candidates=candidates)
    widest, least = Search(nprobe=codes.nlist, candidates=CANDIDATES[-1]), least_id_at_1(target)
    if best is not None:
        chosen, people = enough_for_people(gallery, truth.known, best[1], widest, least)
    else:  # no more than finds what can be found
        chosen = trials.as_good_as(widest)
        people = Found.of(*ask_people(gallery, truth.known, chosen, least))
    return chosen, recall_of(truth, target, trials.found(chosen), people)


def _list_ranks(gallery: Gallery, truth: Truth) -> Int64:
    """Return how many lists of a query come before that of each match (Q x K)."""
    assert gallery.codes is not None
    nearest, matches_QK = gallery.codes.nearest, truth.matches_QK
    rows, place = np.unique(truth.found_QK[matches_QK], return_inverse=True)
    lists = [np.empty(0, np.int64)]
    for start in range(0, len(rows), WIDENED):
        vectors_ND = widened(gallery.shards.vectors(rows[start : start + WIDENED]))
        lists.append(nearest.assign(vectors_ND))
    lists_QK = np.zeros(matches_QK.shape, np.int64)
    lists_QK[matches_QK] = np.concatenate(lists)[place]
    return nearest.ranks(truth.vectors_QD, lists_QK)


@dataclass(frozen=True, slots=True)
class Trials:
    """Searches that have been tried, to find the least that is enough for the matches.

    A match in a list that is not searched is not found, so that most of what is not enough is
    known without a search: ``ranks_QK`` says in how many lists each match is.
    """

    searched: Searchable
    truth: Truth
    target: float
    nlist: int
    ranks_QK: Int64  # lists of the query before the match's
    seen: dict[Search, Flags] = field(default_factory=dict)

    def least(self, candidates: int, most: int) -> int | None:
        """Return the least number of lists that is enough, to an eighth of itself.

        None where that is more than ``most``, or where the codes are the limit.
        """
        low, lost_QK = self._too_few(candidates)
        high = self._expected(lost_QK, self._next(low), most)
        if high is not None and not low:
            low = high - 1
        while high is not None and not self._enough(high, candidates):
            low, lost_QK = high, self._lost(high, candidates)
            high = self._expected(lost_QK, self._next(low), most)
        while high is not None and high - low > max(1, high // STEPS):
            middle = (low + high + 1) // 2
            low, high = (low, middle) if self._enough(middle, candidates) else (middle, high)
        return high

    def look_ahead(self, list_ns: float, candidates: int, score_ns: float) -> None:
        """Try the most candidates first, where looking at them costs less than the lists do.

        What they do not find in so many lists, fewer candidates do not either.
        """
        fewest = self._expected(np.zeros_like(self.truth.matches_QK), 1, self.nlist)
        if fewest is not None and score_ns < fewest * list_ns:
            self.found(Search(nprobe=fewest, candidates=candidates))

    def as_good_as(self, widest: Search) -> Search:
        """Return the least search that finds as many matches as the widest: lists first."""
        wanted = self.found(widest).rth
        ranks = self.ranks_QK[self.seen[widest] & self.truth.matches_QK]
        nprobe = int(ranks.max(initial=0)) + 1
        for candidates in CANDIDATES:
            search = Search(nprobe=nprobe, candidates=candidates)
            if self.found(search).rth >= wanted:
                return search
        return widest

    def _too_few(self, candidates: int) -> tuple[int, Flags]:
        """Return how many lists are known not to be enough, and the matches lost in them."""
        low, lost_QK = 0, np.zeros_like(self.truth.matches_QK)
        for search in self.seen:
            if search.candidates >= candidates and search.nprobe > low:
                if not self._is_enough(self.found(search)):
                    low, lost_QK = search.nprobe, self._lost(search.nprobe, search.candidates)
        return low, lost_QK

    def found(self, search: Search) -> Matches:
        """Return what a search finds."""
        if search not in self.seen:
            self.seen[search] = find_seen(self.searched, self.truth, search)
        return count_matches(self.truth, self.seen[search])

    def _next(self, low: int) -> int:
        """Return how many lists are worth a trial where ``low`` are too few."""
        return min(low + max(1, low // STEPS), max(low + 1, self.nlist))

    def _enough(self, nprobe: int, candidates: int) -> bool:
        return self._is_enough(self.found(Search(nprobe=nprobe, candidates=candidates)))

    def _is_enough(self, matches: Matches) -> bool:
        queries = int(self.truth.matches_QK.any(axis=1).sum())
        return finds_enough(matches, self.target, queries)

    def _lost(self, nprobe: int, candidates: int) -> Flags:
        """Return which matches the codes have lost, though their lists were searched."""
        seen_QK = self.seen[Search(nprobe=nprobe, candidates=candidates)]
        lost_QK: Flags = (self.ranks_QK < nprobe) & ~seen_QK
        return lost_QK

    def _expected(self, lost_QK: Flags, least: int, most: int) -> int | None:
        """Return the fewest lists, of least to most, that are enough if only these are lost."""

        def is_enough(nprobe: int) -> bool:
            seen_QK = self.truth.matches_QK & (self.ranks_QK < nprobe) & ~lost_QK
            return self._is_enough(count_matches(self.truth, seen_QK))

        if least > most or not is_enough(most):
            return None
        low, high = least - 1, most
        while high - low > 1:
            middle = (low + high) // 2
            low, high = (low, middle) if is_enough(middle) else (middle, high)
        return high

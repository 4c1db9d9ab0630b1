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
    Searchable,
    ask_people,
    enough_for_people,
    find_known,
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
LEAST_GAIN = 0.02  # of a search's time: less is not worth a trial
STEPS = 8  # the least number of lists is found to this part of itself
WIDENED = 8192  # vectors at a time
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
    people = Found.of(*ask_people(searched, truth.known, search, least_id_at_1(target)))
    matches = count_matches(truth, find_seen(searched, truth, search))
    return _recall(truth, target, matches, people)


def find_seen(searched: Searchable, truth: Truth, search: Search) -> Flags:
    """Return which of the exact ten best a search with these settings finds (Q x K)."""
    hits = searched.search_approximate(
        truth.vectors_QD, TOP + 1, nprobe=search.nprobe, candidates=search.candidates
    )
    _, rows_QK = without_self(hits, truth.rows_Q)
    seen_QK = (truth.found_QK[:, :, None] == rows_QK[:, None, :]).any(axis=2)
    there_QK: Flags = seen_QK & (truth.found_QK != NO_ROW)
    return there_QK


def count_matches(truth: Truth, seen_QK: Flags) -> Matches:
    """Return how many of the matches, and of all ten best, were seen."""
    matches_Q = truth.matches_QK.sum(axis=1)
    seen_Q = (seen_QK & truth.matches_QK).sum(axis=1)
    there = int((truth.found_QK != NO_ROW).sum())
    return Matches(*_share_of_pairs(seen_Q, matches_Q), int(seen_QK.sum()) / max(there, 1))


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
    codes, dim = gallery.codes, gallery.dim
    list_bytes = codes.code_bytes * codes.rows / codes.nlist
    list_ns = LIST_NS + CODE_BYTE_NS[gallery.record.kind] * list_bytes
    truth = find_truth(gallery, seed=seed, queries=queries)
    trials = Trials(gallery, truth, target, codes.nlist, _list_ranks(gallery, truth))
    best: tuple[float, Search] | None = None
    for candidates in CANDIDATES:
        score_ns, most = candidates * dim * SCORE_DIM_NS, codes.nlist
        if best is not None:  # with fewer lists than these it would be cheaper, by a little
            most = min(int(((1 - LEAST_GAIN) * best[0] - score_ns) / list_ns), codes.nlist)
        found = trials.least(candidates, most)
        if found is not None:
            best = found * list_ns + score_ns, Search(nprobe=found, candidates=candidates)
    widest = Search(nprobe=codes.nlist, candidates=CANDIDATES[-1])
    chosen = widest if best is None else best[1]
    least = least_id_at_1(target)
    chosen, people = enough_for_people(gallery, truth.known, chosen, widest, least)
    return chosen, _recall(truth, target, trials.found(chosen), people)


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
        high = self._expected(np.zeros_like(self.truth.matches_QK), 1, most)
        low = 0 if high is None else high - 1
        while high is not None and not self._enough(high, candidates):
            low, lost_QK = high, self._lost(high, candidates)
            high = self._expected(lost_QK, low + max(1, low // STEPS), most)
        while high is not None and high - low > max(1, high // STEPS):
            middle = (low + high + 1) // 2
            low, high = (low, middle) if self._enough(middle, candidates) else (middle, high)
        return high

    def found(self, search: Search) -> Matches:
        """Return what a search finds."""
        if search not in self.seen:
            self.seen[search] = find_seen(self.searched, self.truth, search)
        return count_matches(self.truth, self.seen[search])

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

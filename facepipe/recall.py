"""How much of what exact search finds a search by codes finds.

Faces of the gallery are searched for, each left out of its own answer: half of them faces of
people who have several, half any faces, most of whose best hits are strangers in a gallery of
many people. Three shares are reported:

Rth        of the exact ten best hits, those with a cosine of MIN_COSINE or more: the matches. How
           many of them are among the ten that the search finds.
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
from dataclasses import dataclass
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
    return recall_of(truth, target, matches, people)


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


def recall_of(truth: Truth, target: float, matches: Matches, people: Found) -> Recall:
    """Return what is recorded of a search: its shares, their intervals, of how many."""
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

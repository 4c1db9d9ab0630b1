"""Whether a search by codes finds the person whom exact search finds: id@1, over many faces.

An id@1 of 0.999 takes thousands of faces to be shown: 3,838 without a miss at 95 %. An exact
search with so many would take longer than the build. It is not needed: exact search names a
person's own best face whenever no other face is nearer, and the own faces of somebody who has
a name are few. So each face is compared with the others of its person, exactly, and searched
for by codes. It counts where its best own match has a cosine of `MIN_COSINE`; it is missed where
the search ends with somebody else who is less like it than that match is.

What this cannot see is a stranger, in lists that were not searched, who is nearer than the own
match: exact search would name that stranger, so that nothing was missed. Such misses are counted.

Legend: Q queries, N rows, D dimensions, P pairs of a query and a row.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

import numpy as np
from numpy.typing import NDArray

from facepipe.evaluate import wilson_interval
from facepipe.exact_scores import NO_ROW, Float32, Hits, Int64, pair_scores
from facepipe.half_floats import widened
from facepipe.index_manifest import Search

if TYPE_CHECKING:
    from facepipe.index import Gallery

People = NDArray[np.int32]
Flags = NDArray[np.bool_]

PEOPLE_QUERIES = 16_384  # may miss 8 for an id@1 of 0.999; of 8,192 only 2
PARTS = 4  # of them, asked for one after the other
KEPT = 4  # times as many rows as wanted have keys that are looked at
PERSON_FACES = 64  # compared with a face: who has more is found by them all the sooner
MIN_COSINE = 0.40  # of a match: nearly 8 standard deviations of strangers (0.051)


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
class Known:
    """Faces of people with a name, each with a match in the gallery beside itself."""

    rows_Q: Int64
    vectors_QD: Float32
    own_Q: Float32  # cosine of the best match of the same person
    person_N: People  # of all rows; -1: nobody known

    def of(self, chosen_Q: Flags) -> Known:
        """Return some of them."""
        return Known(
            self.rows_Q[chosen_Q], self.vectors_QD[chosen_Q], self.own_Q[chosen_Q], self.person_N
        )


@dataclass(frozen=True, slots=True)
class Found:
    """How many of the faces that were asked for led to their person."""

    right: int
    asked: int

    @classmethod
    def of(cls, right_Q: Flags, missed_Q: Flags) -> Found:
        """Count what `find_people` returns."""
        right = int(right_Q.sum())
        return cls(right, right + int(missed_Q.sum()))

    @property
    def share(self) -> float:
        """Return id@1; 1 where nobody was asked for."""
        return self.right / self.asked if self.asked else 1.0

    @property
    def interval(self) -> tuple[float, float]:
        """Return Wilson's interval of it, 95 %."""
        return wilson_interval(self.right, self.asked)

    def is_shown(self, least: float) -> bool:
        """Tell whether id@1 is ``least`` at the lower end of its interval."""
        return self.interval[0] >= least

    def is_enough(self, least: float) -> bool:
        """Tell whether id@1 is ``least`` at the lower end of its interval.

        Where too few were asked for to show that, all of them must be right.
        """
        shown, _ = wilson_interval(self.asked, self.asked)
        return self.is_shown(least) or (shown < least and self.right == self.asked)


def several_faces(person_N: People, living_N: Flags | None) -> Flags:
    """Return which rows are living ones of people with more than one of them (N)."""
    mask_N = person_N >= 0
    if living_N is not None:
        mask_N &= living_N
    known = person_N[mask_N]
    mask_N[mask_N] = np.bincount(known, minlength=1)[known] > 1
    return mask_N


def highest(mask_N: Flags, keys_N: NDArray[np.uint64], count: int) -> Int64:
    """Return at most ``count`` of the rows of a mask, rising: those with the highest keys.

    Of many rows only those are compared whose keys, which are spread evenly, are high.
    """
    total = int(np.count_nonzero(mask_N))
    if total > KEPT * count:
        least = 2**64 - 1 - 2**64 * KEPT * count // total
        likely_N = mask_N & (keys_N >= np.uint64(least))
        mask_N = likely_N if np.count_nonzero(likely_N) >= count else mask_N
    rows = np.flatnonzero(mask_N)
    others = max(0, len(rows) - count)
    found: Int64 = np.sort(rows[np.argpartition(keys_N[rows], others)[others:]]) if others else rows
    return found


def find_known(
    gallery: Gallery, person_N: People, keys_N: NDArray[np.uint64], count: int = PEOPLE_QUERIES
) -> Known:
    """Return the faces to ask for, by rising row: those of the highest keys that have a match."""
    rows_Q = highest(several_faces(person_N, gallery.shards.living), keys_N, count)
    vectors_QD = widened(gallery.shards.vectors(rows_Q))
    pairs = _own_pairs(rows_Q, person_N, gallery.shards.living)
    own_Q = np.full(len(rows_Q), -np.inf, np.float32)
    np.maximum.at(own_Q, pairs[0], pair_scores(vectors_QD, pairs, gallery.shards.gather))
    matched = own_Q >= MIN_COSINE
    return Known(rows_Q[matched], vectors_QD[matched], own_Q[matched], person_N)


def _own_pairs(rows_Q: Int64, person_N: People, living_N: Flags | None) -> tuple[Int64, Int64]:
    """Return each query's pairs with other living rows of its person, query by query."""
    asked = np.zeros(int(person_N.max(initial=-1)) + 2, dtype=bool)
    asked[person_N[rows_Q]] = True
    asked[-1] = False  # where nobody's -1 leads
    theirs = asked[person_N]
    if living_N is not None:
        theirs &= living_N
    rows = np.flatnonzero(theirs)
    rows = rows[np.argsort(person_N[rows], kind="stable")]
    person_Q = person_N[rows_Q]
    first_Q = np.searchsorted(person_N[rows], person_Q, side="left")
    count_Q = np.searchsorted(person_N[rows], person_Q, side="right") - first_Q
    count_Q = np.minimum(count_Q, PERSON_FACES)
    query_P = np.repeat(np.arange(len(rows_Q)), count_Q)
    within_P = np.arange(len(query_P)) - np.repeat(np.cumsum(count_Q) - count_Q, count_Q)
    row_P = rows[first_Q[query_P] + within_P]
    others = row_P != rows_Q[query_P]
    return query_P[others], row_P[others]


def find_people(searched: Searchable, known: Known, search: Search) -> tuple[Flags, Flags]:
    """Return of which known faces a search with these settings finds the person, or misses it.

    Of those that are neither, another face is more like them than their own.
    """
    hits = searched.search_approximate(
        known.vectors_QD, 2, nprobe=search.nprobe, candidates=search.candidates
    )
    scores_Q1, found_Q1 = without_self(hits, known.rows_Q)
    best_Q = found_Q1[:, 0]
    right_Q = (best_Q != NO_ROW) & (known.person_N[best_Q] == known.person_N[known.rows_Q])
    return right_Q, ~right_Q & (known.own_Q > scores_Q1[:, 0])


def enough_for_people(
    searched: Searchable, known: Known, search: Search, widest: Search, least: float
) -> tuple[Search, Found]:
    """Return a search with an id@1 of ``least``, and what it finds; at most the widest.

    More lists are searched than by ``search`` where that is what misses people, and else twice as
    many candidates looked at. Only those who are missed are asked for with more and more; what is
    chosen is measured anew, since more lists bring more strangers, too.
    """
    while True:
        right_Q, missed_Q = ask_people(searched, known, search, least)
        found = Found.of(right_Q, missed_Q)
        if found.is_enough(least) or search == widest:
            return search, found
        again = _Again(searched, known.of(missed_Q), found, least)
        search = again.wider(search, widest)


def ask_people(
    searched: Searchable, known: Known, search: Search, least: float
) -> tuple[Flags, Flags]:
    """Find people as `find_people` does, part by part, until they show an id@1 of ``least``.

    Where nobody is missed the first part does; who is not asked for is neither. To look PARTS times
    and stop is to pass 4 of 100 galleries whose id@1 is exactly ``least``, and 1 of 100 that miss
    a fifth more, where one look at all would pass 2 and 0.3.
    """
    right_Q, missed_Q = np.zeros((2, len(known.rows_Q)), dtype=bool)
    place_Q = np.arange(len(known.rows_Q))
    for part in range(PARTS):
        some_Q = place_Q % PARTS == part
        right_Q[some_Q], missed_Q[some_Q] = find_people(searched, known.of(some_Q), search)
        if Found.of(right_Q, missed_Q).is_shown(least):
            break
    return right_Q, missed_Q


@dataclass(frozen=True, slots=True)
class _Again:
    """Who was missed by a search, to be asked for with more."""

    searched: Searchable
    missed: Known
    before: Found
    least: float

    def wider(self, search: Search, widest: Search) -> Search:
        """Return a search that should be enough, with lists to an eighth more than needed."""
        nlist, candidates = widest.nprobe, search.candidates
        while not self._enough(nlist, candidates) and candidates < widest.candidates:
            candidates = min(2 * candidates, widest.candidates)
        if candidates > search.candidates and self._enough(search.nprobe, candidates):
            return Search(nprobe=search.nprobe, candidates=candidates)
        low, high = search.nprobe, nlist
        while high - low > max(1, low // 8):
            middle = (low + high) // 2
            low, high = (low, middle) if self._enough(middle, candidates) else (middle, high)
        return Search(nprobe=high, candidates=candidates)

    def _enough(self, nprobe: int, candidates: int) -> bool:
        search = Search(nprobe=nprobe, candidates=candidates)
        right_Q, _ = find_people(self.searched, self.missed, search)
        found = Found(self.before.right + int(right_Q.sum()), self.before.asked)
        return found.is_enough(self.least)


def without_self(hits: Hits, rows_Q: Int64) -> Hits:
    """Return hits without the row that was searched for, one fewer."""
    scores_QK, rows_QK = hits
    kept_QK = rows_QK != rows_Q[:, None]
    kept_QK[kept_QK.all(axis=1), -1] = False
    shape = len(rows_Q), rows_QK.shape[1] - 1
    return scores_QK[kept_QK].reshape(shape), rows_QK[kept_QK].reshape(shape)

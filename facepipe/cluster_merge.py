"""Groups of faces joined, the most alike first, as long as they are more probably one person.

In every round each group that is the best partner of its own best partner is joined with it, so
that clear cases are settled, and have sharper centres, before doubtful ones are looked at. No
chain of look-alikes makes one group of many people: what counts is the centres, and each more
face makes a centre sharper and a stranger's likeness to it less probable to be chance.

Legend: N faces, E pairs of groups (edges), M groups to be joined, B a block, D dimensions.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import numpy.typing as npt

from facepipe.centres import LabelledFaces, VectorRows
from facepipe.cluster_model import PersonModel
from facepipe.knn_graph import KnnGraph
from facepipe.neighbors import unit_rows

Float = npt.NDArray[np.float64]
Float32 = npt.NDArray[np.float32]
Int64 = npt.NDArray[np.int64]

# Log odds over which groups are joined, pass after pass: each more doubtful than the one before.
PASSES = (8.0, 4.0, 2.0, 0.0)
PAIR_ROWS = 2048  # two blocks of 4 MB at 512 dimensions: they stay in the processor's cache
# Pairs under that are let go. Without the limit LFW and 30,000 made faces give the same people.
HOPELESS_LOG_ODDS = -6.0
LINK_ROWS = 1 << 17


class Groups:
    """Groups of faces and their centres; a group is named after the row of its first face.

    A centre is kept as its direction in float16, as vectors are, and its length; the direction
    of a single face is its vector, which stays where it is.
    """

    def __init__(self, vectors: VectorRows, group_N: Int64) -> None:
        """Gather faces: group_N is the group of each, 0.. in any order."""
        total = vectors.shape[0]
        first_G = np.full(int(group_N.max(initial=-1)) + 1, total)
        np.minimum.at(first_G, group_N, np.arange(total))
        self.vectors = vectors
        self.group_N: Int64 = first_G[group_N]
        self.size_N: Int64 = np.bincount(self.group_N, minlength=total)
        self._length_N = np.ones(total, np.float32)  # of the sum of unit vectors
        self._slot_N = np.full(total, -1, np.int32)
        self._centres = np.empty((0, vectors.shape[1]), np.float32)
        self._used = 0
        for names_B, sums_BD in _sums(vectors, self.group_N):
            self._store(names_B, sums_BD)

    def centres(self, names_B: Int64) -> Float32:
        """Return the unit centres of groups."""
        slot_B = self._slot_N[names_B]
        single_B = slot_B < 0
        if single_B.all():
            return unit_rows(self.vectors[names_B])
        centres_BD = self._centres[slot_B]
        if single_B.any():
            centres_BD[single_B] = unit_rows(self.vectors[names_B[single_B]])
        return centres_BD

    def cosines(self, first_E: Int64, second_E: Int64) -> Float32:
        """Return the cosine of the centres of each pair of groups."""
        found_E = np.empty(len(first_E), np.float32)
        for start in range(0, len(first_E), PAIR_ROWS):
            block = slice(start, start + PAIR_ROWS)
            found_E[block] = np.einsum(
                "bd,bd->b", self.centres(first_E[block]), self.centres(second_E[block])
            )
        return found_E

    def join(self, into_M: Int64, gone_M: Int64) -> None:
        """Join pairs of groups; no group may be in two of them."""
        for start in range(0, len(into_M), PAIR_ROWS):
            into_B, gone_B = into_M[start : start + PAIR_ROWS], gone_M[start : start + PAIR_ROWS]
            sums_BD = self.centres(into_B) * self._length_N[into_B, None]
            sums_BD += self.centres(gone_B) * self._length_N[gone_B, None]
            self._store(into_B, sums_BD)
        self.size_N[into_M] += self.size_N[gone_M]
        self.size_N[gone_M] = 0
        new_N = np.arange(len(self.group_N))
        new_N[gone_M] = into_M
        self.group_N = new_N[self.group_N]

    def _store(self, names_B: Int64, sums_BD: Float32) -> None:
        fresh = names_B[self._slot_N[names_B] < 0]
        while self._used + len(fresh) > len(self._centres):
            grown = np.empty((max(1024, 2 * len(self._centres)), sums_BD.shape[1]), np.float32)
            grown[: self._used] = self._centres[: self._used]
            self._centres = grown
        self._slot_N[fresh] = np.arange(self._used, self._used + len(fresh))
        self._used += len(fresh)
        self._length_N[names_B] = np.sqrt(np.einsum("bd,bd->b", sums_BD, sums_BD))
        self._centres[self._slot_N[names_B]] = unit_rows(sums_BD)


def _sums(vectors: VectorRows, group_N: Int64) -> Iterator[tuple[Int64, Float32]]:
    """Yield the groups of two faces or more and the sums of their unit vectors, in blocks."""
    faces, names_G = several(vectors, group_N)
    for low, _, part in faces.parts():
        yield names_G[low : low + part.labels], part.sums(np.ones(len(part.label_N)))


def several(vectors: VectorRows, group_N: Int64) -> tuple[LabelledFaces, Int64]:
    """Return the faces that share their group with others, sorted, and the groups' names."""
    shared_N = np.bincount(group_N)[group_N] > 1
    rows = np.flatnonzero(shared_N)
    rows = rows[np.argsort(group_N[rows], kind="stable")]
    names_G, label_N = np.unique(group_N[rows], return_inverse=True)
    label_N = label_N.astype(np.int64)
    return LabelledFaces(
        label_N=label_N, vector_N=rows, vectors_ND=vectors, labels=len(names_G)
    ), names_G


def merge(groups: Groups, graph: KnnGraph, model: PersonModel, apart_E: tuple[Int64, Int64]) -> int:
    """Join groups that are one person by the model; return how many joins there were.

    apart_E: pairs of faces whose groups are never joined.
    """
    total, joins = len(groups.group_N), 0
    first_E, second_E = linked(groups.group_N, graph)
    first_E, second_E, odds_E = _hopeful(groups, model, first_E, second_E)
    for least in PASSES:
        while True:
            good = np.flatnonzero(odds_E > least)
            good = good[_allowed(groups, apart_E, first_E[good], second_E[good])]
            into_M, gone_M = _mutual(first_E[good], second_E[good], odds_E[good])
            if not len(into_M):
                break
            groups.join(into_M, gone_M)
            joins += len(into_M)
            changed_N = np.zeros(total, np.bool_)
            changed_N[into_M] = changed_N[gone_M] = True
            new_N = np.arange(total)
            new_N[gone_M] = into_M
            stale_E = changed_N[first_E] | changed_N[second_E]
            fresh = _distinct(new_N[first_E[stale_E]], new_N[second_E[stale_E]], total)
            first_F, second_F, odds_F = _hopeful(groups, model, *fresh)
            first_E = np.concatenate([first_E[~stale_E], first_F])
            second_E = np.concatenate([second_E[~stale_E], second_F])
            odds_E = np.concatenate([odds_E[~stale_E], odds_F])
    return joins


def linked(group_N: Int64, graph: KnnGraph) -> tuple[Int64, Int64]:
    """Return the pairs of different groups that neighbours are in, each once, sorted."""
    total = int(group_N.max(initial=0)) + 1
    pairs: list[Int64] = []
    for start in range(0, len(group_N), LINK_ROWS):
        other_BK = graph.rows_NK[start : start + LINK_ROWS]
        there_BK = other_BK >= 0
        own_E = np.repeat(group_N[start : start + LINK_ROWS], there_BK.sum(axis=1))
        pairs.append(_keys(own_E, group_N[other_BK[there_BK]], total))
    key_E = np.unique(np.concatenate(pairs)) if pairs else np.empty(0, np.int64)
    return key_E // total, key_E % total


def _keys(a_E: Int64, b_E: Int64, total: int) -> Int64:
    """Return a number for each unordered pair of two different groups, once each, rising."""
    key_E: Int64 = np.minimum(a_E, b_E) * total + np.maximum(a_E, b_E)
    return np.unique(key_E[a_E != b_E])


def _distinct(a_E: Int64, b_E: Int64, total: int) -> tuple[Int64, Int64]:
    key_E = _keys(a_E, b_E, total)
    return key_E // total, key_E % total


def _hopeful(
    groups: Groups, model: PersonModel, first_E: Int64, second_E: Int64
) -> tuple[Int64, Int64, Float]:
    """Return the pairs that may be one person, or may come to be as they grow, and log odds."""
    cosine_E = groups.cosines(first_E, second_E)
    odds_E = model.log_odds(cosine_E, groups.size_N[first_E], groups.size_N[second_E])
    kept = odds_E > HOPELESS_LOG_ODDS
    return first_E[kept], second_E[kept], odds_E[kept]


def _allowed(
    groups: Groups, apart_E: tuple[Int64, Int64], first_E: Int64, second_E: Int64
) -> npt.NDArray[np.bool_]:
    """Return which pairs of groups hold no two faces that are to stay apart."""
    total = len(groups.group_N)
    apart = _keys(groups.group_N[apart_E[0]], groups.group_N[apart_E[1]], total)
    allowed_E: npt.NDArray[np.bool_] = ~np.isin(first_E * total + second_E, apart)
    return allowed_E


def _mutual(first_E: Int64, second_E: Int64, odds_E: Float) -> tuple[Int64, Int64]:
    """Return the pairs of groups that are each other's best; equal ones by name."""
    from_E = np.concatenate([first_E, second_E])
    to_E = np.concatenate([second_E, first_E])
    order = np.lexsort((to_E, -np.concatenate([odds_E, odds_E]), from_E))
    best = order[np.flatnonzero(np.diff(from_E[order], prepend=-1))]
    from_B, to_B = from_E[best], to_E[best]
    mutual_B = to_B[np.searchsorted(from_B, to_B)] == from_B
    mutual_B &= from_B < to_B
    return from_B[mutual_B], to_B[mutual_B]
